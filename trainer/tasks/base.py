"""What a task need not say for itself; see :class:`trainer.loop.Task`."""

from __future__ import annotations

from typing import Any

from torch import nn


class BaseTask:
    """A task without notes, whose runs start from random weights."""

    def __init__(self) -> None:
        self.notes: list[tuple[str, dict[str, Any]]] = []
        """Kind and facts of noteworthy events of the set-up, for ``events.jsonl``; filled before the run begins."""
        self.started_from: list[dict[str, Any]] = []
        """Data of the runs whose weights this one began with, oldest first (``fingerprint, split, split_hash``): kept in
        checkpoints and written into exports, so that no evaluation calls trials unseen that an ancestor was trained on."""

    def check_start(self) -> None:
        """On rank 0, before a new run (not a resumed one) writes anything: refuse what it cannot start from."""

    def start(self, model: nn.Module) -> None:
        """On all ranks, with a new run's fresh model: bring weights from elsewhere, where the config says so."""
