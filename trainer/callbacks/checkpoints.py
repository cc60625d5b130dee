"""When to save: every so many steps, at a new best score, on a signal, and at the end."""

from __future__ import annotations

from trainer.training.callback import Callback, LoopView


class Checkpoints(Callback):
    """Save with all ranks; :meth:`trainer.training.loop.Loop.save` does the work and never saves a step twice.

    A step is saved after its metrics and scores are written and tracked: whoever resumes from it has them.
    """

    def __init__(self, every_steps: int) -> None:
        self.every_steps = every_steps
        self.improved = False

    def on_validation(self, loop: LoopView, scores: dict[str, float], improved: bool) -> None:
        """Remember a new best until the step is over."""
        self.improved = improved

    def after_step(self, loop: LoopView) -> None:
        """A new best, which is pointed to, or a step whose turn it is; the last step's is that of :meth:`on_end`."""
        improved, self.improved = self.improved, False
        ends = loop.state.step >= loop.num_steps or bool(loop.stop_reason)
        due = self.every_steps > 0 and loop.state.step % self.every_steps == 0
        if improved:
            loop.save(best=True)
        elif due and not ends:
            loop.save()

    def on_end(self, loop: LoopView, reason: str) -> None:
        """The last state, whatever ended the run; it is the best where nothing was validated."""
        best = loop.state.best_score is None and reason != "signal"
        if best:
            loop.state.best_step = loop.state.step
        loop.save(best=best)
