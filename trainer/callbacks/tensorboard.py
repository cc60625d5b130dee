"""Scalars for TensorBoard, in ``RUN/tensorboard``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainer.training.callback import Callback, CallbackConfig, LoopView

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


@dataclass(frozen=True, kw_only=True)
class TensorBoard(CallbackConfig):
    """Also write metrics and validation scores for TensorBoard into the run folder."""

    def build(self) -> Callback:
        """The writer."""
        return TensorBoardScalars()


class TensorBoardScalars(Callback):
    """Write metrics and validation scores from rank 0; a resumed run drops points that it will write again."""

    writer: SummaryWriter | None = None

    def on_start(self, loop: LoopView) -> None:
        """Open the writer."""
        if loop.world.rank == 0:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(loop.folder.path / "tensorboard"), purge_step=loop.state.step + 1)

    def on_metrics(self, loop: LoopView, metrics: dict[str, float]) -> None:
        """One point a metric."""
        self._write("train", loop.state.step, metrics)

    def on_validation(self, loop: LoopView, scores: dict[str, float], improved: bool) -> None:
        """One point a score."""
        self._write("validation", loop.state.step, scores)

    def on_end(self, loop: LoopView, reason: str) -> None:
        """Flush."""
        if self.writer is not None:
            self.writer.close()

    def on_fault(self, loop: LoopView, message: str) -> None:
        """Flush now: the writer's thread must not write on into a folder that is taken away."""
        self.on_end(loop, message)

    def _write(self, group: str, step: int, values: dict[str, float]) -> None:
        if self.writer is not None:
            for name, value in values.items():
                self.writer.add_scalar(f"{group}/{name}", value, step)
