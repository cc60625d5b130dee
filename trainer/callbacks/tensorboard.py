"""Scalars for TensorBoard, in ``RUN/tensorboard``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer.callbacks.base import Callback

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from trainer.training.loop import Loop


class TensorBoard(Callback):
    """Write metrics and validation scores from rank 0; a resumed run drops points that it will write again."""

    writer: SummaryWriter | None = None

    def on_start(self, loop: Loop) -> None:
        """Open the writer."""
        if loop.world.rank == 0:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(loop.folder.path / "tensorboard"), purge_step=loop.state.step + 1)

    def on_metrics(self, loop: Loop, metrics: dict[str, float]) -> None:
        """One point a metric."""
        self._write("train", loop.state.step, metrics)

    def on_validation(self, loop: Loop, scores: dict[str, float], improved: bool) -> None:
        """One point a score."""
        self._write("validation", loop.state.step, scores)

    def on_end(self, loop: Loop, reason: str) -> None:
        """Flush."""
        if self.writer is not None:
            self.writer.close()

    def _write(self, group: str, step: int, values: dict[str, float]) -> None:
        if self.writer is not None:
            for name, value in values.items():
                self.writer.add_scalar(f"{group}/{name}", value, step)
