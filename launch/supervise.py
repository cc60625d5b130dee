"""Start the launcher, forward signals, and leave nothing of it behind.

DeepSpeed's launchers can exit 0 although their ranks died, and on SIGTERM they may leave them running. So :mod:`launch.ranks` gets
a process group of its own, signals go to the whole group, and success is the marker that rank 0 writes last.
"""

from __future__ import annotations

import json
import os
import signal
import sys

from data_prep.contract.cli import to_plain
from data_prep.contract.errors import CommandError
from launch.hostfile import read_hostfile
from launch.plan import LaunchConfig, Plan, plan
from trainer.distributed.child import run_in_group
from trainer.distributed.rendezvous import free_port


def run(config: LaunchConfig) -> int:
    """``python -m launch run``: start the launcher, which checks the trainer's config and starts the ranks, and wait for it.

    Raises
    ------
    CommandError
        The launcher was ended and could not say why; everything else it says itself.
    """
    prepared = plan(config, python=sys.executable, port=config.master_port)
    if config.hostfile:
        read_hostfile(config.hostfile)
    status = supervise(Plan(argv=launcher(config), environment=prepared.environment), grace_seconds=config.grace_seconds)
    if status < 0:
        raise CommandError(f"{config.trainer_command[0]}: the launcher was ended by {signal.Signals(-status).name}")
    return status


def launcher(config: LaunchConfig) -> tuple[str, ...]:
    """Command line of the process that checks a trainer's command and starts its ranks."""
    return (sys.executable, "-m", "launch.launcher", json.dumps(to_plain(config)))


def show(config: LaunchConfig) -> None:
    """``python -m launch plan``: print the command line that ``run`` would start."""
    print(plan(config, python=sys.executable, port=free_port()))


def supervise(prepared: Plan, *, grace_seconds: float) -> int:
    """Run the plan in its own process group until it ends; SIGINT, SIGTERM and SIGHUP (as SIGTERM) go to the group, which is killed
    after the grace time."""
    status, _ = run_in_group(prepared.argv, {**os.environ, **prepared.environment}, grace_seconds=grace_seconds)
    return -signal.SIGKILL if status is None else status
