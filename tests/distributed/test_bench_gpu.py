"""The GPU benchmark rehearsed from its command line: both trainers really tune a tiny model, here on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.distributed.launcher import ROOT


@pytest.mark.long
def test_the_rehearsal_measures_both_trainers_and_promises_nothing(tmp_path: Path) -> None:
    output = tmp_path / "bench_gpu.json"
    options = ["--device", "cpu", "--shape", "tiny", "--parts", "bf16,checkpointing", "--output", str(output)]
    argv = [sys.executable, "-m", "tests.benchmarks.bench_gpu", *options]
    done = subprocess.run(
        argv, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True, capture_output=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(output.read_text())
    assert {row["holds"] for row in rows} == {None}
    (beside,) = [row for row in rows if row["name"].endswith(": throughput (bf16)")]
    (ratio,) = [row for row in rows if "throughput over that of" in row["name"]]
    assert beside["value"] > 0
    assert beside["peer"] == "transformers Trainer + peft"
    assert abs(ratio["value"] - beside["value"] / beside["peer_value"]) < 1e-3 * ratio["value"]
    (checkpointed,) = [row for row in rows if "activation checkpointing" in row["name"] and row["name"].endswith("throughput")]
    assert checkpointed["peer_value"] == beside["value"]
    measured = [line for line in done.stdout.splitlines() if "tokens/s, utilisation" in line]
    assert len(measured) == 5, "two rounds of two trainers, and one with checkpointing"
