"""``launch run`` and ``launch plan``: a config goes to the target that it names."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from data_prep.contract.cli import to_plain
from data_prep.contract.errors import CommandError
from launch import supervisor
from launch.config import LaunchConfig
from launch.hostfile import Host, read_hostfile
from launch.plan import HERE, Plan, Start, Surroundings, plan
from trainer.distributed.child import run_in_group
from trainer.distributed.rendezvous import free_port


def run(config: LaunchConfig) -> int:
    """``python -m launch run``: start the trainer's command on its ranks and wait for it, or hand it to a cluster's scheduler.

    Raises
    ------
    CommandError
        It did not succeed, or cannot be started from here.
    """
    planned = _plan(config)
    if config.chosen in ("local", "hosts"):
        return supervisor.run(config)
    if config.chosen in ("slurm", "kubernetes"):
        return _hand_over(planned)
    if len(planned.starts) > 1:
        raise CommandError("target: torchrun on several machines is started on each: `python -m launch plan` prints the command lines")
    start = planned.starts[0]
    if config.chosen == "deepspeed":
        start = replace(start, argv=(sys.executable, "-m", "launch.launcher", json.dumps(to_plain(config))))
    status = supervise(start, grace_seconds=config.grace_seconds)
    if status < 0:
        raise CommandError(f"{config.trainer_command[0]}: the launcher was ended by {signal.Signals(-status).name}")
    return status


def show(config: LaunchConfig) -> None:
    """``python -m launch plan``: print what ``run`` would start on each host."""
    if config.chosen == "deepspeed" and not config.master_port:
        config = replace(config, master_port=free_port())
    print(_plan(config))


def supervise(start: Start, *, grace_seconds: float) -> int:
    """Run a launcher in its own process group until it ends; SIGINT, SIGTERM and SIGHUP (as SIGTERM) go to the group, which is killed
    after the grace time."""
    status, _ = run_in_group(start.argv, {**os.environ, **start.environment}, grace_seconds=grace_seconds)
    return -signal.SIGKILL if status is None else status


def _plan(config: LaunchConfig) -> Plan:
    hosts = read_hostfile(config.hostfile) if config.hostfile else ()
    if config.chosen == "local":
        hosts = (Host(name=HERE, slots=config.num_processes),)
    return plan(config, hosts, Surroundings.here(config.python or sys.executable))


def _hand_over(planned: Plan) -> int:
    """Give a scheduler its file; exit status of its own program."""
    (start,) = planned.starts
    if shutil.which(start.argv[0]) is None:
        raise CommandError(f"{start.argv[0]}: not found on this machine: `python -m launch plan` prints the file that it would be given")
    with tempfile.TemporaryDirectory(prefix="eegvision-") as folder:
        for name, text in planned.files.items():
            (Path(folder) / name).write_text(text, encoding="utf-8")
        argv = [str(Path(folder) / word) if word in planned.files else word for word in start.argv]
        return subprocess.run(argv, check=False).returncode
