"""The progress line: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from data_prep.contract.terminal import Terminal
from trainer.training.callback import Callback, LoopView


class ProgressLine(Callback):
    """Loss, samples/s, share of time spent waiting for data, memory and learning rate, from rank 0."""

    def __init__(self) -> None:
        self.console = Terminal(file=sys.stdout, soft_wrap=True)
        self.bar: Progress | None = None

    def on_start(self, loop: LoopView) -> None:
        """Open the bar where a person watches."""
        if loop.world.rank:
            return
        if self.console.is_terminal:
            columns = (
                TextColumn("train"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[line]}", markup=False),
                TimeRemainingColumn(),
            )
            self.bar = Progress(*columns, console=self.console)
            self.bar.start()
            self.bar.add_task("train", total=loop.num_steps, completed=loop.state.step, line="")
        where = f"{loop.world.size} rank{'s' if loop.world.size > 1 else ''} on {loop.device.type}"
        self.console.print(f"training {loop.num_steps} steps on {where}, from step {loop.state.step}: {loop.folder.path}")
        if loop.score_name is None:
            self.console.print("the split has no validation part: the last weights count as the best")

    def on_step(self, loop: LoopView) -> None:
        """Move the bar."""
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=loop.state.step)

    def on_skip(self, loop: LoopView, reason: str) -> None:
        """One line a skipped step."""
        if loop.world.rank == 0:
            self.console.print(f"step {loop.state.step}/{loop.num_steps}  skipped: {reason}")

    def on_rollback(self, loop: LoopView, step: int) -> None:
        """One line a rollback."""
        if loop.world.rank == 0:
            self.console.print(
                f"step {step}/{loop.num_steps}  too many steps were skipped: back to step {loop.state.step}, on with other items"
            )

    def on_metrics(self, loop: LoopView, metrics: dict[str, float]) -> None:
        """Refresh the bar's text, or print a line."""
        line = progress_text(metrics)
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], line=line)
        elif loop.world.rank == 0:
            self.console.print(f"step {loop.state.step}/{loop.num_steps}  {line}")

    def on_validation(self, loop: LoopView, scores: dict[str, float], improved: bool) -> None:
        """One line a validation."""
        if loop.world.rank == 0:
            values = "  ".join(f"{name} {value:.4f}" for name, value in scores.items())
            self.console.print(f"step {loop.state.step}/{loop.num_steps}  validation  {values}{'  (best)' if improved else ''}")

    def on_end(self, loop: LoopView, reason: str) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.stop()
        if loop.world.rank == 0:
            self.console.print(f"{reason} at step {loop.state.step}: {loop.folder.path}")

    def on_fault(self, loop: LoopView, message: str) -> None:
        """Give the terminal back."""
        if self.bar is not None:
            self.bar.stop()


def progress_text(metrics: dict[str, float]) -> str:
    """``loss 3.21  1234 samples/s  data wait 2 %  0.61 GiB  lr 3.0e-04``; what has no optimizer has neither loss nor learning rate."""
    told = [f"{metrics['samples_per_second']:.0f} samples/s", f"{metrics['memory_gib']:.2f} GiB"]
    if "lr" in metrics:
        loss = metrics.get("loss", float("nan"))  # of a skipped step there may be none
        told = [f"loss {loss:.4f}", told[0], f"data wait {100 * metrics['data_wait_share']:.0f} %", told[1], f"lr {metrics['lr']:.1e}"]
    return "  ".join(told)
