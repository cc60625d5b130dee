"""What every run has whatever computes in it: a folder, counters, callbacks that see it, and signals that stop it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
import torch.distributed as dist

from data_prep.contract.errors import CommandError, UserError
from trainer.distributed.world import World
from trainer.training.callback import Callback
from trainer.training.run_folder import RunFolder
from trainer.training.state import TrainState
from trainer.training.stop import StopSignal


class Work(Protocol):
    """What a run asks of its task, whatever computes."""

    study: dict[str, str]
    score_name: str | None

    def settle(self) -> None:
        """Wait until what this rank has read is known to be what was written; refuse it otherwise."""
        ...


class Watched:
    """A run that callbacks see as :class:`trainer.training.callback.LoopView`."""

    def __init__(self, work: Work, world: World, device: torch.device, folder: RunFolder, callbacks: Sequence[Callback]) -> None:
        self.world, self.device, self.folder, self.callbacks = world, device, folder, callbacks
        self.state = TrainState()
        self.stop_reason = ""
        self.stop_signal = StopSignal(device)
        self.saved_step = -1
        self.saved_at = time.monotonic()
        """When a checkpoint was written last, or training began, by this rank's clock."""
        self._work = work

    @property
    def study(self) -> dict[str, str]:
        """Identity of the data."""
        return self._work.study

    @property
    def score_name(self) -> str | None:
        """The validation score that picks the best weights; None: nothing is validated."""
        return self._work.score_name

    def start(self) -> None:
        """Let the callbacks begin: the last that can refuse a run before its first step."""
        self._each("on_start")

    def fault(self, error: BaseException, *, started: bool = True) -> None:
        """Tell the callbacks, and of a run that has ``started`` its folder, too, what ended it. What goes wrong in that (a full disk may be
        what ended the run) is a note on ``error``, never in its place."""
        try:
            self.folder.guard()
        except UserError:  # the run is another process's, and goes on there
            return
        message = " ".join(f"{type(error).__name__}: {error}".split())
        with _noted(error):
            if started:
                self.folder.event("fault", part="training", step=self.state.step, message=message)
        for callback in self.callbacks:
            with _noted(error):
                callback.on_fault(self, message)  # type: ignore[arg-type]  # what a loop adds makes it one

    def _each(self, hook: str, *arguments: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, hook)(self, *arguments)

    def _minutes_are_over(self, minutes: float) -> bool:
        """Whether this rank's clock asks for a checkpoint, of which there is to be one in so many minutes; 0: never."""
        return minutes > 0 and time.monotonic() - self.saved_at >= 60 * minutes

    def _settle(self) -> None:
        """Nothing is kept or told of what was computed from a shard that is not what was written, whichever rank read it."""
        fault: UserError | None = None
        try:
            self._work.settle()
        except UserError as error:
            fault = error
        faults = torch.tensor(float(fault is not None), device=self.device)
        dist.all_reduce(faults)
        if fault is not None:
            raise fault
        if faults:
            raise CommandError(f"{int(faults)} other ranks read a shard that is not what was written: see their errors")


@contextlib.contextmanager
def _noted(error: BaseException) -> Iterator[None]:
    try:
        yield
    except Exception as second:
        error.add_note(f"and while that was recorded: {type(second).__name__}: {second}")
