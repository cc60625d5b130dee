"""A signal that ends a run at the same step on all ranks."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from trainer.distributed.stop_signals import stop_signals


class StopSignal:
    """SIGTERM, SIGHUP or SIGINT on any rank, agreed upon by all: they must leave the loop after the same step.

    The answer is that of the reduction begun one step ago, so that no device waits for it.
    """

    def __init__(self, device: torch.device) -> None:
        self.received = False
        self.device = device
        self._pending: tuple[Tensor, Any] | None = None

    def __enter__(self) -> StopSignal:
        self._previous = {s: signal.signal(s, self._receive) for s in stop_signals(signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def agreed(self) -> bool:
        """Whether any rank had received a signal one step ago; every rank calls it once a step."""
        before = self._pending
        flag = torch.tensor([int(self.received)], device=self.device, dtype=torch.int32)
        self._pending = (flag, dist.all_reduce(flag, op=dist.ReduceOp.MAX, async_op=True))
        if before is None:
            return False
        before[1].wait()
        return bool(before[0].item())

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = True
