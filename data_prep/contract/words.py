"""Values in sentences."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

MOST_NAMES = 20
"""Names that a sentence lists."""


def listed(names: Iterable[Any], most: int = MOST_NAMES) -> str:
    """``a, b, c``; where there are more than ``most``, ``a, b and 7 more``. None at all: ``none``."""
    every = [short(name) for name in names]
    more = len(every) - most
    return ", ".join(every[:most]) + (f" and {more:,} more" if more > 0 else "") or "none"


def short(value: Any, most: int = 60) -> str:
    """``value`` as text on one line of at most ``most`` characters, ended by an ellipsis where it is longer; lists are joined."""
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


def as_given(text: str, most: int = 60) -> str:
    """A text in quotes, every character of it visible, in at most some ``most`` characters: a blank at its end may be what is wrong."""
    shown = ascii(text) if text.isprintable() is False else repr(text)
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"
