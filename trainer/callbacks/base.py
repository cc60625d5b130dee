"""Callbacks see the loop; the loop never sees what they do.

Every hook runs on every rank at the same step: a callback that only logs returns early on ranks other than 0, one that
saves with all ranks does not.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainer.training.loop import Loop


class Callback:
    """Base: every hook does nothing."""

    def on_start(self, loop: Loop) -> None:
        """Before the first step; ``loop.state`` is that of the checkpoint on resume."""

    def on_step(self, loop: Loop) -> None:
        """After every optimizer step."""

    def on_metrics(self, loop: Loop, metrics: dict[str, float]) -> None:
        """Every ``log_every_steps`` steps: losses averaged over ranks, ``lr``, ``samples_per_second``, ..."""

    def on_validation(self, loop: Loop, scores: dict[str, float], improved: bool) -> None:
        """After a validation; the same scores on every rank."""

    def on_checkpoint(self, loop: Loop, path: Path) -> None:
        """After a checkpoint is complete on disk."""

    def on_end(self, loop: Loop, reason: str) -> None:
        """After the last step: ``finished``, ``early stopping`` or ``signal``."""

    def on_fault(self, loop: Loop, message: str) -> None:
        """An exception is about to leave the loop; other ranks may be gone: no collectives here."""
