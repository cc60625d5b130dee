"""Whose recording it is, and which of theirs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Recording:
    """One file, or the first of several."""

    file: Path
    subject: str
    """``01``"""
    session: str
    """``02``"""
    run: str
    """``03``: its place among the session's files, by name."""
    entities: Mapping[str, str] = field(default_factory=dict)
    """What else its name says, in BIDS: ``task``, ``acquisition`` ..."""

    @property
    def label(self) -> str:
        """Distinct over subjects and sessions."""
        return f"sub-{self.subject}_ses-{self.session}_run-{self.run}"
