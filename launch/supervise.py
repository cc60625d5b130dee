"""Start a plan, forward signals, and believe the run folder's ``completed.json`` rather than an exit code.

The ``deepspeed`` runner can exit 0 although its ranks died, and on SIGTERM it may leave them running. So the launcher
gets a process group of its own, signals go to the whole group, and success is the marker that rank 0 writes last.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_prep.contract.cli import parse
from data_prep.contract.errors import CommandError
from launch.plan import LaunchConfig, Plan, plan
from trainer.distributed.child import run_in_group
from trainer.distributed.world import free_port
from trainer.training.checkpoint import find
from trainer.training.config import RunConfig
from trainer.training.run_folder import RunFolder

_COMMANDS: dict[str, tuple[str, Callable[[Any], Path]]] = {
    "contrastive": ("trainer.tasks.contrastive.config:ContrastiveConfig", lambda config: Path(config.run) / "completed.json"),
    "text": ("trainer.tasks.text.config:TextConfig", lambda config: Path(config.run) / "completed.json"),
    "generate": ("trainer.generate.config:GenerateConfig", lambda config: Path(config.output) / "generate.json"),
}
"""Config of each trainer command, and the file that its success alone writes, last."""


def run(config: LaunchConfig) -> int:
    """``python -m launch run``: check the trainer's config once, start the ranks, wait, and require ``completed.json``."""
    prepared = plan(config, python=sys.executable, port=free_port())
    name, *arguments = config.trainer_command
    where, marker_of = _COMMANDS[name]
    module, config_class = where.split(":")
    importlib.import_module("trainer.callbacks")  # its names may stand in the config
    command = parse(getattr(importlib.import_module(module), config_class), arguments)
    marker = marker_of(command)
    if isinstance(command, RunConfig):
        find(RunFolder(command.run), command.resume)  # what it refuses would take the ranks a minute to say
    if config.hostfile and not Path(config.hostfile).is_file():
        # The runner itself only warns, and trains on one rank.
        raise CommandError(f"hostfile: {config.hostfile}: no such file")
    before = marker.stat().st_mtime_ns if marker.is_file() else None
    status = supervise(prepared, grace_seconds=config.grace_seconds)
    after = marker.stat().st_mtime_ns if marker.is_file() else None
    if after is None or after == before:
        raise CommandError(f"{marker.parent}: the ranks ended with status {status} and did not write {marker.name}")
    return 0


def show(config: LaunchConfig) -> None:
    """``python -m launch plan``: print the command line that ``run`` would start."""
    print(plan(config, python=sys.executable, port=free_port()))


def supervise(prepared: Plan, *, grace_seconds: float) -> int:
    """Run the plan in its own process group until it ends; SIGINT and SIGTERM go to the group, which is killed after the grace time."""
    status, _ = run_in_group(prepared.argv, {**os.environ, **prepared.environment}, grace_seconds=grace_seconds)
    return -signal.SIGKILL if status is None else status
