"""The launch plan is a value; supervision believes only the completion marker."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from launch.plan import LaunchConfig, Plan, plan
from launch.supervise import supervise

COMMAND = ["contrastive", "--config", "x.yaml"]


def test_plan_of_one_machine() -> None:
    prepared = plan(LaunchConfig(num_processes=2, trainer_command=COMMAND), python="python", port=29511)
    assert prepared.argv == (
        *("python", "-m", "deepspeed.launcher.runner", "--num_gpus", "2", "--master_port", "29511"),
        *("--module", "trainer", "contrastive", "--config", "x.yaml"),
    )
    assert prepared.environment == {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}


def test_plan_of_a_hostfile() -> None:
    prepared = plan(LaunchConfig(hostfile="hosts", master_port=4000, trainer_command=COMMAND), python="python", port=1)
    assert prepared.argv[3:7] == ("--hostfile", "hosts", "--master_port", "4000")


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


def test_supervise_ends_children_that_outlive_their_launcher(tmp_path: Path) -> None:
    marker = tmp_path / "pid"
    script = (
        "import subprocess, sys; "
        f"child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); open({str(marker)!r}, 'w').write(str(child.pid))"
    )
    status = supervise(Plan(argv=(sys.executable, "-c", script), environment={}), grace_seconds=5)
    assert status == 0
    end = time.monotonic() + 20
    while lives(int(marker.read_text())):
        assert time.monotonic() < end, "the child outlived its launcher"
        time.sleep(0.02)


def lives(process: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
