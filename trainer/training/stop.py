"""A signal that ends a run at the same step on all ranks."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType

import torch
import torch.distributed as dist

from trainer.distributed.collectives import num_ranks
from trainer.distributed.stop_signals import stop_signals


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
        self._answer: Callable[[], bool] | None = None

    def __enter__(self) -> StopSignal:
        self._previous = {s: signal.signal(s, self._receive) for s in stop_signals(signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def agreed(self) -> bool:
        """Whether this rank has received a signal or, of several, any had one step ago; every rank calls it once a step."""
        if num_ranks() == 1:
            return self.received
        before = self._answer
        self._answer = self._ask() if self._stream is None else self._ask_beside(self._stream)
        return before is not None and before()

    def _ask(self) -> Callable[[], bool]:
        flag = torch.tensor([self.received], dtype=torch.int32)
        asked = dist.all_reduce(flag, op=dist.ReduceOp.MAX, async_op=True)

        def answer() -> bool:
            asked.wait()
            return bool(flag)

        return answer

    def _ask_beside(self, stream: torch.cuda.Stream) -> Callable[[], bool]:
        with torch.cuda.stream(stream):
            flag = torch.full((1,), int(self.received), dtype=torch.int32, device=stream.device)  # filled there: a copy would wait
            dist.all_reduce(flag, op=dist.ReduceOp.MAX, async_op=True).wait()  # this stream waits, nobody else
            found = torch.empty(1, dtype=torch.int32, pin_memory=True).copy_(flag, non_blocking=True)
            copied = stream.record_event()

        def answer() -> bool:
            copied.synchronize()
            return bool(found)

        return answer

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = True
