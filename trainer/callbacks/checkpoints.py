"""When to save: every so many steps, at a new best score, on a signal, and at the end."""

from __future__ import annotations

from trainer.training.callback import Callback, LoopView


class Checkpoints(Callback):
    """Save with all ranks; :meth:`trainer.training.loop.Loop.save` does the work and never saves a step twice."""

    def __init__(self, every_steps: int) -> None:
        self.every_steps = every_steps

    def on_step(self, loop: LoopView) -> None:
        """Periodic. A step that is validated is saved after its validation, so that the saved state holds its score."""
        if self.every_steps and loop.state.step % self.every_steps == 0 and not loop.validation_due():
            loop.save()

    def on_validation(self, loop: LoopView, scores: dict[str, float], improved: bool) -> None:
        """A new best is saved and pointed to."""
        if improved:
            loop.save(best=True)
        elif self.every_steps and loop.state.step % self.every_steps == 0:
            loop.save()

    def on_end(self, loop: LoopView, reason: str) -> None:
        """The last state, whatever ended the run; it is the best where nothing was validated."""
        loop.save()
        if loop.state.best_score is None and reason != "signal":
            loop.export()
