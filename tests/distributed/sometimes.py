"""A term of a loss that is no number at some steps, on one rank of several."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from trainer.losses import LossTerm, Pairs

_CALLS: list[int] = []
"""One for each that there was in this process."""


@dataclass(frozen=True, kw_only=True)
class Sometimes(LossTerm):
    """0 otherwise."""

    calls: list[int]
    """Which have no number."""
    on_rank: int = 1

    def __call__(self, pairs: Pairs) -> Tensor:
        """Once a step."""
        _CALLS.append(1)
        bad = len(_CALLS) in self.calls and pairs.rank == self.on_rank
        return pairs.z_eeg_BP.sum() * (math.nan if bad else 0.0)
