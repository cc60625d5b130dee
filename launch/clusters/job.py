"""What a cluster's own scheduler is asked to start: so many ranks on so many machines, all alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Job:
    """A training command on ``nodes`` machines of ``ranks_per_node`` ranks."""

    nodes: int
    ranks_per_node: int
    accelerator: str
    threads_per_rank: int
    grace_seconds: float
    """Time that the ranks need to save a checkpoint."""
    max_restarts: int
    python: str
    folder: str
    """Where relative paths of the command begin, on every machine."""
    command: tuple[str, ...]
    """Trainer's command and its arguments."""
    environment: Mapping[str, str]
    """Variables of every rank."""
