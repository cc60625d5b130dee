"""A callback that lets a library and a user speak on every rank, and then breaks one."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from trainer.training.callback import Callback, CallbackConfig, LoopView


@dataclass(frozen=True, kw_only=True)
class Noisy(CallbackConfig):
    """What stands in the config."""

    breaks: int = 1
    """Rank that breaks after the second step."""

    def build(self) -> Callback:
        """The callback."""
        return _Noisy(self.breaks)


class _Noisy(Callback):
    def __init__(self, breaks: int) -> None:
        self.breaks = breaks

    def on_start(self, loop: LoopView) -> None:
        """Before the run has begun."""
        logging.getLogger("DeepSpeed").warning("library chatter of rank %d", loop.world.rank)

    def on_step(self, loop: LoopView) -> None:
        """One step each."""
        if loop.state.step == 1:
            print(f"a user's own line of rank {loop.world.rank}", flush=True)
            logging.getLogger("DeepSpeed").error("library trouble of rank %d", loop.world.rank)
        elif loop.world.rank == self.breaks:
            raise RuntimeError("this callback breaks")
