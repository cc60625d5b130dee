"""A callback by import path: how much of a training's time goes into what guards it, to ``guarding.json`` in the run folder."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from trainer.training.callback import Callback, CallbackConfig, LoopView

GUARDS = ("folder.heartbeat", "folder.guard", "stop_signal.agreed", "buffers.keep", "task.settle", "check_finite", "_minutes_are_over")
"""Methods of the loop, and of what it holds, that are there for safety alone."""


@dataclass(frozen=True, kw_only=True)
class WatchedLoop(CallbackConfig):
    """What stands in the config."""

    warm_steps: int = 20
    """Steps before that are not counted."""

    def build(self) -> Callback:
        """The callback."""
        return _Watched(self.warm_steps)


class _Watched(Callback):
    def __init__(self, warm_steps: int) -> None:
        self.warm_steps = warm_steps
        self.begun: float | None = None
        self.guarding, self.inside = 0.0, False

    def on_start(self, loop: LoopView) -> None:
        """Put a watch around each of :data:`GUARDS`."""
        for name in GUARDS:
            owner: Any = loop
            *path, method = name.split(".")
            for each in path:
                owner = getattr(owner, each)
            setattr(owner, method, self._timed(getattr(owner, method)))

    def on_step(self, loop: LoopView) -> None:
        """Begin to count."""
        if self.begun is None and loop.state.step >= self.warm_steps:
            self.begun, self.guarding = time.perf_counter(), 0.0

    def on_end(self, loop: LoopView, reason: str) -> None:
        """Write down both times, in seconds."""
        assert self.begun is not None
        whole = time.perf_counter() - self.begun
        (loop.folder.path / "guarding.json").write_text(json.dumps({"whole": whole, "guarding": self.guarding}))

    def _timed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*given: Any, **named: Any) -> Any:
            if self.inside:  # one of them calls another
                return method(*given, **named)
            self.inside, begun = True, time.perf_counter()
            try:
                return method(*given, **named)
            finally:
                self.inside = False
                self.guarding += time.perf_counter() - begun

        return timed
