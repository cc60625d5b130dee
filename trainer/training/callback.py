"""Callbacks see the loop; the loop never sees what they do.

Every hook runs on every rank at the same step: a callback that only logs returns early on ranks other than 0, one that
saves with all ranks does not.

A callback of your own is one file with two classes and one line of a config, ``callbacks: [{class_path: my_lab.Bell}]``::

    @dataclass(frozen=True, kw_only=True)
    class Bell(CallbackConfig):
        every_steps: int = 100

        def build(self) -> Callback:
            return RingingBell(self.every_steps)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from data_prep.contract.cli import polymorphic
from trainer.data.config import DataConfig
from trainer.distributed.world import World
from trainer.training.run_folder import RunFolder
from trainer.training.state import TrainState


class ConfigView(Protocol):
    """What callbacks read of a :class:`trainer.training.config.RunConfig`; they may write it down whole."""

    @property
    def run(self) -> str:
        """Run folder."""
        ...

    @property
    def data(self) -> DataConfig:
        """Study, split, embedding and selection."""
        ...


class LoopView(Protocol):
    """What a callback sees of :class:`trainer.training.loop.Loop`; ``state`` and ``stop_reason`` are for it to set."""

    world: World
    device: torch.device
    folder: RunFolder
    state: TrainState
    num_steps: int
    """Optimizer steps of the whole run."""
    stop_reason: str
    """Set it, on all ranks at the same step, to end training after this step."""

    @property
    def config(self) -> ConfigView:
        """The run's config."""
        ...

    @property
    def study(self) -> dict[str, str]:
        """Identity of the data."""
        ...

    @property
    def score_name(self) -> str | None:
        """The validation score that picks the best weights, higher is better; None: nothing is validated."""
        ...

    def validation_due(self) -> bool:
        """Whether the step just done is followed by a validation."""
        ...

    def save(self, *, best: bool = False) -> None:
        """Checkpoint the present step with all ranks; with ``best`` it holds an export, too, and ``best`` and ``export/`` follow it."""
        ...


class Callback:
    """Base: every hook does nothing."""

    def on_start(self, loop: LoopView) -> None:
        """Before the first step; ``loop.state`` is that of the checkpoint on resume. The last to refuse a run: what is written into its
        folder now is taken away should the start fail, here or on another rank; what is made elsewhere belongs into ``on_begin``."""

    def on_begin(self, loop: LoopView) -> None:
        """The start has succeeded on all ranks; the first step comes next."""

    def on_step(self, loop: LoopView) -> None:
        """After every optimizer step, before its metrics and its validation."""

    def on_skip(self, loop: LoopView, reason: str) -> None:
        """After an optimizer step that changed nothing, before ``on_step``; on all ranks, which decide alike."""

    def on_rollback(self, loop: LoopView, step: int) -> None:
        """The run, which was at ``step``, has gone back to a checkpoint, whose counters ``loop.state`` has; no other hook of that step
        follows."""

    def on_metrics(self, loop: LoopView, metrics: dict[str, float]) -> None:
        """Every ``log_every_steps`` steps: losses averaged over ranks, ``lr``, ``samples_per_second``, ..."""

    def on_validation(self, loop: LoopView, scores: dict[str, float], improved: bool) -> None:
        """After a validation; the same scores on every rank."""

    def after_step(self, loop: LoopView) -> None:
        """After all of a step, its metrics and its validation: what is saved here holds what they left."""

    def on_checkpoint(self, loop: LoopView, path: Path) -> None:
        """After a checkpoint is complete on disk."""

    def on_end(self, loop: LoopView, reason: str) -> None:
        """After the last step: ``finished``, ``early stopping`` or ``signal``."""

    def on_fault(self, loop: LoopView, message: str) -> None:
        """An exception is about to leave the loop; other ranks may be gone: no collectives here."""


@polymorphic
@dataclass(frozen=True, kw_only=True)
class CallbackConfig:
    """Base of the configs of callbacks; a subclass says what it needs and builds it."""

    def build(self) -> Callback:
        """The callback of a run, on this rank."""
        raise NotImplementedError
