"""Killed anywhere and resumed, wound back or continued elsewhere, a run is that of an undisturbed one; ``make bench`` kills 200 times."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.distributed.launcher import ROOT


@pytest.mark.long
def test_a_run_that_is_killed_anywhere_agrees_with_an_undisturbed_one() -> None:
    argv = [sys.executable, "-m", "tests.distributed.kills", "--seed", "4", "--kills", "12", "--variants", "validated"]
    environment = os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    played = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False)
    said = played.stdout.strip().splitlines()
    assert played.returncode == 0, "\n".join([*said[-20:], played.stderr[-2000:]])
    assert said[-1].startswith("seed 4: 12 kills at ")
