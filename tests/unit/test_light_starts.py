"""What a process does not import before it can say its first line."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.distributed.launcher import ROOT


def imported(program: str, *names: str) -> list[str]:
    """Which of the modules ``names`` a new process has imported after ``program``."""
    told = f"{program}\nimport json, sys\nprint(json.dumps([name for name in {names} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, timeout=120, cwd=ROOT, check=True)
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.long
def test_training_steps_without_mlflow_torchs_compiler_and_statistics() -> None:
    program = """
from trainer.distributed.lean_deepspeed import import_deepspeed
import_deepspeed()
import deepspeed.runtime.engine
import torch
import trainer.tasks.contrastive.task
from trainer.training.optimizer import OptimizerConfig
import_deepspeed()
layer = torch.nn.Linear(2, 1)
weight = layer.weight.detach().clone()
optimizer = OptimizerConfig(lr=0.5).build(layer)
heard = []
optimizer.register_step_post_hook(lambda *_: heard.append(torch.is_grad_enabled()))
layer(torch.ones(1, 2)).sum().backward()
optimizer.step()
optimizer.load_state_dict(optimizer.state_dict())
optimizer.zero_grad()
assert heard == [True] and torch.allclose(layer.weight, weight * (1 - 0.5 * 0.05) - 0.5)
"""
    assert imported(program, "deepspeed", "torch.optim", "mlflow", "torch._inductor", "torch._dynamo", "scipy.stats") == [
        "deepspeed",
        "torch.optim",
    ]


def test_what_starts_ranks_needs_no_torch() -> None:
    modules = "launch.supervise, launch.look, launch.quickstart.quickstart, launch.quickstart.quickstart_text, launch.console"
    assert imported(f"import {modules}", "launch.supervise", "torch", "numpy") == ["launch.supervise"]


def test_a_process_that_reads_one_file_loads_no_library_of_signals() -> None:
    modules = (
        "data_prep.studies.array_child, data_prep.studies.recording_child, data_prep.studies.cut_eeglab_child, data_prep.studies.parquet"
    )
    assert imported(f"import {modules}", "data_prep.studies.array_child", "scipy", "mne", "torch") == ["data_prep.studies.array_child"]
