"""What is known of how many trials a model has learnt from, and how it is said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What is known of how many of some trials a model has learnt from."""

    asked: int
    """How many trials it is about."""
    count: int
    """Of them, how many any training that can be compared has learnt from."""
    splits: tuple[str, ...]
    """Of which splits they are training trials."""
    chosen: int
    """Of them, by how many the best step of any training was chosen."""
    not_known: tuple[str, ...]
    """Of trainings that cannot be compared, which and why."""

    @property
    def known_count(self) -> int | None:
        """Of them, how many it has learnt from; None: not known."""
        return None if self.not_known else self.count


def step_chosen_by(who: str, count: int) -> str:
    """The sentence that ``who`` was picked by trials that it is scored on."""
    return f"{count} of these trials are validation trials of a training of {who}: its best step was chosen by them, so the scores flatter."


def trained_not_known(who: str, reasons: Sequence[str]) -> str:
    """The sentence that nothing tells whether ``who`` was trained on what it is scored on."""
    why = "; ".join(reasons) or "this was made by an older version, which did not ask"
    return f"Whether {who} was trained on any of these trials is not known: {why}."
