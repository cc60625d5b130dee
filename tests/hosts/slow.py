"""A callback by import path: steps take their time, so that there is some in which something can be lost."""

from __future__ import annotations

import time
from dataclasses import dataclass

from trainer.training.callback import Callback, CallbackConfig, LoopView


@dataclass(frozen=True, kw_only=True)
class Slow(CallbackConfig):
    """What stands in the config."""

    seconds: float = 0.1
    """Wait after each step."""

    def build(self) -> Callback:
        """The callback."""
        return _Slow(self.seconds)


class _Slow(Callback):
    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def on_step(self, loop: LoopView) -> None:
        """Wait."""
        time.sleep(self.seconds)
