"""What the figures of several reports share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

COLOUR = "#4878a8"


class Interval(Protocol):
    """A value with the ends of its interval; None where it has none."""

    @property
    def value(self) -> float | None: ...
    @property
    def low(self) -> float | None: ...
    @property
    def high(self) -> float | None: ...


def draw_scores(axis: Any, scores: Mapping[str, Interval], colours: Mapping[str, str] | None = None) -> None:
    """A bar with its interval for each name, the first at the top; ``colours`` by name, grey for others."""
    names = list(scores)[::-1]
    value, low, high = (np.array([getattr(scores[n], end) for n in names], dtype=np.float64) for end in ("value", "low", "high"))
    errors = np.nan_to_num(np.maximum(np.stack([value - low, high - value]), 0))
    colour = COLOUR if colours is None else [colours.get(name, "#b0b0b0") for name in names]
    # A dollar sign would begin a formula in a matplotlib label.
    axis.barh([name.replace("$", r"\$") for name in names], np.nan_to_num(value), xerr=errors, color=colour, capsize=3)


def legend(axis: Any) -> None:
    """A legend above the axis, where it hides no bar."""
    axis.legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, borderaxespad=0.2)
