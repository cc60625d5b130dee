"""Scores as they stand in the tables of a report."""

from __future__ import annotations

from data_prep.contract.page import NO_VALUE, Cell, number
from trainer.evaluate.results import Score


def interval(score: Score) -> str:
    """``[low, high]``, or nothing where no interval is known."""
    return "" if score.low is None or score.high is None else f"[{number(score.low)}, {number(score.high)}]"


def score_cell(score: Score | None) -> Cell:
    """A score with its interval below it."""
    return Cell("") if score is None else Cell(NO_VALUE if score.value is None else number(score.value), interval(score))


def score_text(score: Score | None) -> str:
    """A score with its interval, on one line."""
    return " ".join(filter(None, score_cell(score)))
