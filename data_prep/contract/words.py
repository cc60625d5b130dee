"""Values in sentences."""

from __future__ import annotations

from typing import Any


def short(value: Any, most: int = 60) -> str:
    """``value`` as text on one line of at most ``most`` characters, ended by an ellipsis where it is longer; lists are joined."""
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 1]}…"
