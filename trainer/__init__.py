"""Shards to models. In a notebook::

    from trainer import load_encoder, load_text

    load_encoder("runs/ID/export").embed(eeg)
    load_text("runs/ID/export").caption(eeg)

Both are loaded when they are first asked for: ``import trainer`` brings in neither torch nor a language model.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.artifacts.encoder import load_encoder
    from trainer.artifacts.text import load_text

__all__ = ["load_encoder", "load_text"]
_PLACES = {"load_encoder": "trainer.artifacts.encoder", "load_text": "trainer.artifacts.text"}


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(importlib.import_module(_PLACES[name]), name)
    raise AttributeError(f"module 'trainer' has no attribute {name!r}; it has {', '.join(__all__)}")
