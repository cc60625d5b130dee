"""Stop when the validation score has stopped rising."""

from __future__ import annotations

from trainer.training.callback import Callback, LoopView


class EarlyStopping(Callback):
    """Ask the loop to stop after ``patience`` validations in a row without a better score.

    The count lives in the checkpointed state, so a resumed run stops where an uninterrupted one would.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience

    def on_validation(self, loop: LoopView, scores: dict[str, float], improved: bool) -> None:
        """Every rank decides from the same state."""
        if loop.state.validations_since_best >= self.patience:
            loop.stop_reason = "early stopping"

    def on_start(self, loop: LoopView) -> None:
        """A run resumed after it had stopped early stays stopped."""
        if loop.state.validations_since_best >= self.patience:
            loop.stop_reason = "early stopping"
