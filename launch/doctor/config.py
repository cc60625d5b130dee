"""What is to be looked at: a launch config, whose ranks are not started, and the limits of the checks."""

from __future__ import annotations

from dataclasses import dataclass

from launch.config import LaunchConfig


@dataclass(frozen=True, kw_only=True)
class DoctorConfig(LaunchConfig):
    """The launch config that is to be run, and the limits of the checks. Without a hostfile and a command: this machine."""

    folder: str = "."
    """Folder whose disk will hold studies and runs, where no command names a run."""
    min_free_bytes: int = 10 * 2**30
    """Free disk below which the check fails, bytes."""
    timeout_seconds: float = 180.0
    """Longest wait for a host in each part: connection, its facts, the run folder, the bandwidth. Others do not wait for it longer."""
    hash_seconds: float = 20.0
    """How long each host hashes the study's shards; what is not hashed by then is said. 0: none."""
    bandwidth_bytes: int = 2**24
    """Bytes of a tensor that the ranks reduce and gather; 0: bandwidth is not measured."""
    json: bool = False
    """Print a list of objects (check, hosts, level, found, do) instead of the table."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target not in ("auto", "local", "hosts"):
            raise ValueError(
                f"target: {self.target}, expected auto, local or hosts: of a scheduler's machines doctor is run on one of them"
            )
        if not self.timeout_seconds > 0:
            raise ValueError(f"timeout_seconds: {self.timeout_seconds}, expected a positive number")
        for name in ("min_free_bytes", "hash_seconds", "bandwidth_bytes"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: {getattr(self, name)}, expected 0 or more")
