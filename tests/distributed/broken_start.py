"""A callback that writes into the run folder when it begins, and then ends its rank in one of several ways."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass

from trainer.training.callback import Callback, CallbackConfig, LoopView


@dataclass(frozen=True, kw_only=True)
class BrokenStart(CallbackConfig):
    """Ends one rank."""

    rank: int = 1
    """Which."""
    how: str = "raise"
    """``raise`` an exception, or ``kill`` the process."""

    def build(self) -> Callback:
        """The callback."""
        return _Broken(self)


class _Broken(Callback):
    def __init__(self, config: BrokenStart) -> None:
        self.config = config

    def on_start(self, loop: LoopView) -> None:
        """Write, then break."""
        (loop.folder.path / "callback").mkdir(exist_ok=True)
        (loop.folder.path / "callback" / f"rank-{loop.world.rank}").write_text("begun")
        loop.folder.event("note", message="begun")
        if loop.world.rank == self.config.rank:
            if self.config.how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("this callback cannot begin")
