"""What each rank learns for itself, a signal or that its clock asks for a checkpoint, and all must act on after the same step."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import NamedTuple

import torch
import torch.distributed as dist

from trainer.distributed.collectives import num_ranks
from trainer.distributed.stop_signals import stop_signals


class Agreed(NamedTuple):
    """What any rank has asked for."""

    stop: bool
    save: bool


_NOTHING = Agreed(stop=False, save=False)


class StopSignal:
    """SIGTERM, SIGUSR1, SIGHUP or SIGINT on any rank, agreed upon by all: they must leave the loop after the same step.

    A single rank asks nobody. Several ask each other after every step, so that even steps of a minute are not many before a run is
    saved, and read the answer after the next one. On a GPU the question travels on a stream of its own, behind no computation, and is
    read when a whole step is queued after it: the device never idles for it, and the host waits only where it is more than a step ahead.
    """

    def __init__(self, device: torch.device) -> None:
        self.received = False
        beside = device.type == "cuda" and num_ranks() > 1
        self._stream = torch.cuda.Stream(device) if beside else None  # type: ignore[no-untyped-call]
        self._answer: Callable[[], Agreed] | None = None

    def __enter__(self) -> StopSignal:
        self._previous = {s: signal.signal(s, self._receive) for s in stop_signals(signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def agreed(self, *, save_due: bool = False) -> Agreed:
        """Whether this rank has received a signal, and whether it asks for a checkpoint; of several, whether any did one step ago.

        Every rank calls it once a step.
        """
        asks = Agreed(stop=self.received, save=save_due)
        if num_ranks() == 1:
            return asks
        before = self._answer
        self._answer = self._ask(asks) if self._stream is None else self._ask_beside(self._stream, asks)
        return _NOTHING if before is None else before()

    def _ask(self, asks: Agreed) -> Callable[[], Agreed]:
        flags = torch.tensor(asks, dtype=torch.int32)
        asked = dist.all_reduce(flags, op=dist.ReduceOp.MAX, async_op=True)

        def answer() -> Agreed:
            asked.wait()
            return Agreed(*map(bool, flags.tolist()))

        return answer

    def _ask_beside(self, stream: torch.cuda.Stream, asks: Agreed) -> Callable[[], Agreed]:
        with torch.cuda.stream(stream):
            flags = torch.zeros(len(asks), dtype=torch.int32, device=stream.device)  # filled there: a copy would wait
            for flag, asked in zip(flags, asks, strict=True):
                flag.fill_(int(asked))
            dist.all_reduce(flags, op=dist.ReduceOp.MAX, async_op=True).wait()  # this stream waits, nobody else
            found = torch.empty(len(asks), dtype=torch.int32, pin_memory=True).copy_(flags, non_blocking=True)
            copied = stream.record_event()

        def answer() -> Agreed:
            copied.synchronize()
            return Agreed(*map(bool, found.tolist()))

        return answer

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = True
