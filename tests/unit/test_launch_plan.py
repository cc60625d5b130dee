"""The launch plan is a value."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from data_prep.contract.cli import main
from launch.__main__ import COMMANDS, one_value
from launch.plan import LaunchConfig, plan

COMMAND = ["contrastive", "--config", "x.yaml"]


def test_plan_of_one_machine() -> None:
    prepared = plan(LaunchConfig(num_processes=2, trainer_command=COMMAND), python="python", port=29511)
    ranks = base64.urlsafe_b64encode(b'{"localhost": [0, 1]}').decode()
    assert prepared.argv == (
        *("python", "-m", "deepspeed.launcher.launch", f"--world_info={ranks}", "--master_addr=127.0.0.1", "--master_port=29511"),
        *("--module", "trainer", "contrastive", "--config", "x.yaml"),
    )
    assert prepared.environment == {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}


def test_plan_of_a_hostfile() -> None:
    prepared = plan(LaunchConfig(hostfile="hosts", master_port=4000, trainer_command=COMMAND), python="python", port=1)
    assert prepared.argv[2:8] == ("deepspeed.launcher.runner", "--quiet", "--hostfile", "hosts", "--master_port", "4000")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"num_processes": 0}, "num_processes: 0"),
        ({"master_port": 70000}, "master_port: 70000"),
        ({"trainer_command": ["dance"]}, "'dance' after '--'"),
    ],
)
def test_bad_launch_configs(fields: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        LaunchConfig(**fields)


def test_nothing_to_launch_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing after '--'"):
        plan(LaunchConfig(), python="python", port=1)


def test_a_folder_that_holds_a_run_is_refused_before_ranks_start(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "identity.json").write_text("{}")
    train = ["contrastive", "--config", "configs/contrastive/simulated.yaml", "--run", str(run)]
    assert main("x", "", COMMANDS, one_value(["run", "--num_processes", "2", "--", *train])) == 1
    said = [line for line in capfd.readouterr().err.splitlines() if "loading libraries" not in line]  # which a slow machine says
    assert said == [f"error: run: {run} already holds a run; continue it with --resume latest, or choose another folder"]
