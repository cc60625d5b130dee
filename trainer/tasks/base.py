"""What a task need not say for itself; see :class:`trainer.training.loop.Task`."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class BaseTask:
    """A task without notes, whose runs start from random weights and keep all of them in checkpoints."""

    config: Any
    frozen_elsewhere = False
    partitioned_dtype: torch.dtype | None = None

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

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """As the config's ``optimizer`` says, one learning rate for all."""
        return self.config.optimizer.build(model)
