"""From a config to the exact process to start: argv and environment, as a value. Nothing is run here."""

from __future__ import annotations

import base64
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from data_prep.contract.errors import UserError

TRAINER_COMMANDS = ("contrastive", "text", "generate")
"""Trainer commands that run on several ranks."""


@dataclass(frozen=True, kw_only=True)
class LaunchConfig:
    """How to start a training command on this machine, or on the machines of a hostfile, with the ``deepspeed`` launcher."""

    num_processes: int = 1
    """Ranks on this machine; with a hostfile its slots count and this is ignored."""
    hostfile: str = ""
    """DeepSpeed hostfile (``host slots=N`` lines) for several machines; empty: this machine only."""
    accelerator: Literal["cpu", "cuda"] = "cpu"
    """Device family of the ranks; ``cpu`` uses gloo, ``cuda`` nccl."""
    threads_per_process: int = 1
    """OMP_NUM_THREADS of a rank."""
    master_port: int = 0
    """TCP port of rank 0's rendezvous; 0 takes a free one."""
    grace_seconds: float = 60.0
    """Wait between a forwarded signal and a kill of the launcher's process group: time to save a checkpoint."""
    trainer_command: list[str] = field(default_factory=list)
    """What stands after ``--`` on the line: the trainer's command and its arguments."""

    def __post_init__(self) -> None:
        if self.num_processes < 1:
            raise ValueError(f"num_processes: {self.num_processes}, expected at least 1")
        if self.threads_per_process < 1:
            raise ValueError(f"threads_per_process: {self.threads_per_process}, expected at least 1")
        if not 0 <= self.master_port < 65536:
            raise ValueError(f"master_port: {self.master_port}, expected 0 to 65535")
        if self.trainer_command[:1] and self.trainer_command[0] not in TRAINER_COMMANDS:
            raise ValueError(f"trainer_command: {self.trainer_command[0]!r} after '--', expected one of {', '.join(TRAINER_COMMANDS)}")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One process to start."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]

    def __str__(self) -> str:
        settings = [f"{name}={shlex.quote(value)}" for name, value in self.environment.items()]
        return " ".join([*settings, shlex.join(self.argv)])


def plan(config: LaunchConfig, *, python: str, port: int) -> Plan:
    """The launcher's argv and the variables added to its environment.

    Parameters
    ----------
    config
        What to start and where.
    python
        Interpreter of the ranks.
    port
        Rendezvous port, used where the config leaves it open.
    """
    if not config.trainer_command:
        raise UserError("trainer_command: nothing after '--', expected e.g. -- contrastive --config configs/contrastive/quickstart.yaml")
    environment = {"DS_ACCELERATOR": config.accelerator, "OMP_NUM_THREADS": str(config.threads_per_process)}
    port = config.master_port or port
    launcher = _of_hosts(config.hostfile, port) if config.hostfile else of_this_host(config.num_processes, port)
    return Plan(argv=(python, "-m", *launcher, "--module", "trainer", *config.trainer_command), environment=environment)


def of_this_host(ranks: int, port: int) -> tuple[str, ...]:
    """Module and arguments of the launcher of so many ranks here; ``--module`` and what they run come behind."""
    # What the runner would start on one host. It would import torch and DeepSpeed for that alone.
    devices = base64.urlsafe_b64encode(json.dumps({"localhost": list(range(ranks))}).encode()).decode()
    return ("deepspeed.launcher.launch", f"--world_info={devices}", "--master_addr=127.0.0.1", f"--master_port={port}")


def _of_hosts(hostfile: str, port: int) -> tuple[str, ...]:
    # --quiet: of the launchers' own lines only errors; what the ranks say comes through as it is.
    return ("deepspeed.launcher.runner", "--quiet", "--hostfile", hostfile, "--master_port", str(port))
