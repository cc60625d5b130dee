"""What a process does not import before it can say its first line."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.distributed.launcher import ROOT


def imported(program: str, *names: str) -> list[str]:
    """Which of the modules ``names`` a new process has imported after ``program``."""
    told = f"{program}\nimport json, sys\nprint(json.dumps([name for name in {names} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, timeout=120, cwd=ROOT, check=True)
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_deepspeed_comes_without_mlflow_and_torchs_compiler() -> None:
    program = "from trainer.distributed.lean_deepspeed import import_deepspeed\nimport_deepspeed()\nimport deepspeed.runtime.engine"
    assert imported(program, "deepspeed", "mlflow", "torch._inductor") == ["deepspeed"]


def test_what_starts_ranks_needs_no_torch() -> None:
    modules = "launch.supervise, launch.quickstart.quickstart, launch.quickstart.quickstart_text, launch.console"
    assert imported(f"import {modules}", "launch.supervise", "torch", "numpy") == ["launch.supervise"]
