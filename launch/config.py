"""The config of ``launch run`` and ``launch plan``: what to start, where, and what to do when something is lost."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from launch.clusters.kubernetes import KubernetesConfig
from launch.clusters.slurm import SlurmConfig

TRAINER_COMMANDS = ("contrastive", "encoding", "text", "generate")
"""Trainer commands that run on several ranks."""
Target = Literal["local", "hosts", "deepspeed", "torchrun", "slurm", "kubernetes"]
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, kw_only=True)
class LaunchConfig:
    """How to start a training command on this machine, on those of a hostfile, or on a cluster that has a scheduler."""

    target: Literal["auto", Target] = "auto"
    """``local``: ranks here; ``hosts``: on the machines of a hostfile, by ssh; ``deepspeed``: by DeepSpeed's own launchers; ``torchrun``:
    by torch's; ``slurm``, ``kubernetes``: a job for these. ``auto``: ``hosts`` with a hostfile, else ``local``."""
    num_processes: int = 1
    """Ranks a machine; with a hostfile its slots count and this is ignored."""
    nodes: int = 1
    """Machines, of ``torchrun`` without a hostfile, ``slurm`` and ``kubernetes``."""
    hostfile: str = ""
    """Hostfile (``host slots=N`` lines) for several machines; empty: this machine only."""
    accelerator: Literal["cpu", "cuda"] = "cpu"
    """Device family of the ranks; ``cpu`` uses gloo, ``cuda`` nccl."""
    threads_per_process: int = 1
    """OMP_NUM_THREADS of a rank."""
    master_port: int = 0
    """TCP port of rank 0's rendezvous; 0 takes a free one."""
    interface: str = ""
    """Network interface by which ranks on several hosts talk, the same on all; empty: on each the one by which ssh came in."""
    python: str = ""
    """Interpreter of the ranks, the same path on all hosts; empty: this command's."""
    environment: dict[str, str] = field(default_factory=dict)
    """Further variables of every rank."""
    grace_seconds: float = 60.0
    """Wait between a signal to stop and a kill of what still runs: time to save a checkpoint."""
    max_restarts: int = 0
    """Restarts in a row without a new checkpoint in between, after a rank, a host or a link was lost; 0: the run ends, and is gone on
    with by hand."""
    min_nodes: int = 1
    """Fewest hosts on which a restart goes on without those that do not answer."""
    backoff_seconds: float = 2.0
    """Wait before the first restart; each further one in a row waits twice as long, at most 5 minutes."""
    stall_seconds: float = 1800.0
    """Where runs are restarted: longest time without a step, once there was one; validations must fit. 0: no limit."""
    slurm: SlurmConfig = field(default_factory=SlurmConfig)
    """Of the batch script."""
    kubernetes: KubernetesConfig = field(default_factory=KubernetesConfig)
    """Of the JobSet."""
    trainer_command: list[str] = field(default_factory=list)
    """What stands after ``--`` on the line: the trainer's command and its arguments."""

    def __post_init__(self) -> None:
        for name in ("num_processes", "nodes", "threads_per_process", "min_nodes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)}, expected at least 1")
        for name in ("max_restarts", "backoff_seconds", "grace_seconds", "stall_seconds"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: {getattr(self, name)}, expected 0 or more")
        if not 0 <= self.master_port < 65536:
            raise ValueError(f"master_port: {self.master_port}, expected 0 to 65535")
        if self.target == "hosts" and not self.hostfile:
            raise ValueError("target: hosts without a hostfile, expected lines such as `node0 slots=8` in one")
        if self.hostfile and self.target in ("local", "slurm", "kubernetes"):
            raise ValueError(f"target: {self.target} has no use for a hostfile, expected none, or target hosts, deepspeed or torchrun")
        if bad := [name for name in self.environment if _VARIABLE.fullmatch(name) is None]:
            raise ValueError(f"environment: {bad[0]!r}, expected the name of a variable")
        if self.trainer_command[:1] and self.trainer_command[0] not in TRAINER_COMMANDS:
            raise ValueError(f"trainer_command: {self.trainer_command[0]!r} after '--', expected one of {', '.join(TRAINER_COMMANDS)}")

    @property
    def chosen(self) -> Target:
        """The target, where ``auto`` leaves it open."""
        if self.target != "auto":
            return self.target
        return "hosts" if self.hostfile else "local"
