"""A run that learns from sums: one pass over the training samples, on all ranks, saved and gone on with in the middle of it.

A step adds some samples, each rank its share of them; what ranks hold is joined on rank 0 where it is saved or solved. The cursor is the
number of samples that are done, which depends neither on how many there are a step nor on the ranks.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from data_prep.contract.errors import CommandError
from trainer.distributed.world import World
from trainer.training import checkpoint
from trainer.training.callback import Callback
from trainer.training.clock import Clock, memory_gib
from trainer.training.config import FolderConfig, PassConfig
from trainer.training.run_folder import RunFolder
from trainer.training.seal import Checkpoint
from trainer.training.watched import Watched, Work

SUMS = "sums.safetensors"


class Summing(Work, Protocol):
    """A task that learns from sums."""

    num_items: int
    """Samples of the pass."""
    notes: list[tuple[str, dict[str, Any]]]
    """Kind and facts of events to be written at the start."""

    def num_steps(self, seen: int) -> int:
        """Steps from so many samples on to the end."""
        ...

    def add(self, seen: int) -> int:
        """One step on all ranks, from so many samples on: this rank's share is added; returns how many samples are done. A collective."""
        ...

    def saved(self) -> Mapping[str, np.ndarray]:
        """All that has come of the samples that are done, for rank 0 to write, which has it then; nothing on other ranks. A collective."""
        ...

    def load(self, saved: Mapping[str, np.ndarray], seen: int) -> None:
        """On rank 0: go on from what :meth:`saved` gave."""
        ...

    def validate(self) -> dict[str, float]:
        """On rank 0, after the last step: scores of what was learnt; never sees test data."""
        ...

    def export(self, output: Path, step: int) -> None:
        """On rank 0, after the last step: write what was learnt where no launcher is needed to load it."""
        ...


class DataPass(Watched):
    """One run. Public attributes are for callbacks to read; ``stop_reason`` and ``state`` for them to set."""

    def __init__(
        self,
        config: FolderConfig,
        pass_config: PassConfig,
        task: Summing,
        world: World,
        folder: RunFolder,
        callbacks: Sequence[Callback],
    ) -> None:
        super().__init__(task, world, torch.device("cpu"), folder, callbacks)
        self.config, self.pass_config, self.task = config, pass_config, task
        self.num_steps = task.num_steps(0)

    def resume(self, found: Checkpoint) -> None:
        """Go on from a checkpoint, which rank 0 reads."""
        self.state, self.saved_step = found.state, found.state.step
        self.num_steps = self.state.step + self.task.num_steps(self.state.samples_seen)
        if self.world.is_main:
            self.task.load(load_file(found.path / SUMS), self.state.samples_seen)

    def validation_due(self) -> bool:
        """Whether the step just done is followed by a validation."""
        return self.task.score_name is not None and self.state.step == self.num_steps

    def train(self) -> str:
        """Go through the samples, after :meth:`start`; returns why it ended: ``finished`` or ``signal``."""
        self._each("on_begin")
        clock, state = Clock(), self.state
        while state.step < self.num_steps and not self.stop_reason:
            seen = self.task.add(state.samples_seen)
            clock.samples += seen - state.samples_seen
            state.step, state.samples_seen = state.step + 1, seen
            self._each("on_step")
            if state.step % self.pass_config.log_every_steps == 0 or state.step == self.num_steps:
                metrics = {"samples_per_second": clock.restart()["samples_per_second"], "memory_gib": memory_gib(self.device)}
                self.folder.metrics(state.step, metrics)
                self._each("on_metrics", metrics)
            if self.validation_due():
                self._validate()
            self._each("after_step")
            self.folder.heartbeat(state.step)
            agreed = self.stop_signal.agreed(save_due=self._minutes_are_over(self.config.checkpoint.every_minutes))
            if agreed.stop:
                self.stop_reason = "signal"
            elif agreed.save and state.step - self.saved_step > 1:
                self.save()
        reason = "finished" if state.step >= self.num_steps else self.stop_reason
        self._each("on_end", reason)
        return reason

    def save(self, *, best: bool = False) -> None:
        """Checkpoint the present step with all ranks (once); with ``best`` it holds the export, too."""
        self._settle()
        sealed = self.saved_step == self.state.step
        if sealed and not best:
            return
        self.folder.guard()
        path = self.folder.checkpoint(self.state.step)
        saved = {} if sealed else self.task.saved()
        checkpoint.on_rank_0(
            self.world, lambda: self._commit(saved, sealed=sealed, best=best), lost_seconds=self.pass_config.timeout_seconds
        )
        self.saved_step, self.saved_at = self.state.step, time.monotonic()
        if not sealed:
            self._each("on_checkpoint", path)

    def _commit(self, saved: Mapping[str, np.ndarray], *, sealed: bool, best: bool) -> None:
        path = self.folder.checkpoint(self.state.step)
        work = path if sealed else checkpoint.of_this_process(path, self.folder.owner)

        def write() -> None:
            work.mkdir(parents=True, exist_ok=True)
            save_file(dict(saved), work / SUMS)

        export: Callable[[Path], None] | None = (lambda output: self.task.export(output, self.state.step)) if best else None
        checkpoint.commit(
            self.folder,
            work,
            self.state,
            checkpoint.Written(world_size=self.world.size),
            rest=None if sealed else write,
            export=export,
            keep_last=self.config.checkpoint.keep_last,
        )

    def _validate(self) -> None:
        self._settle()
        scores = checkpoint.on_rank_0(self.world, self.task.validate, lost_seconds=self.pass_config.timeout_seconds)
        for name, value in scores.items():
            if not math.isfinite(value):
                raise CommandError(f"validation: {name} is {value}, expected a number: check the data")
        self.state.best_score, self.state.best_step = scores[str(self.task.score_name)], self.state.step
        self.folder.metrics(self.state.step, {f"validation_{name}": value for name, value in scores.items()})
        self._each("on_validation", scores, True)
