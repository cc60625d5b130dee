"""What ``evaluate-classes`` found: ``classes.json``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trainer.evaluate.results import Results, Score, read_results
from trainer.evaluate.study_facts import StudyFacts


@dataclass(frozen=True, kw_only=True)
class ConceptRow:
    """How one shown concept was named."""

    concept: str
    precision: float
    """Of the trials named so, how many were it; 0 where none was."""
    recall: float
    f1: float
    support: int
    """Its trials."""
    named: int
    """Trials named so."""


@dataclass(frozen=True, kw_only=True)
class ConfusionCell:
    """Trials of one concept that were named as one (the same or another)."""

    true: str
    named: str
    trials: int


@dataclass(frozen=True, kw_only=True)
class ClassesResults(Results, StudyFacts):
    """How trials were named among the concepts that the encoder was trained on."""

    kind: str = "concepts"
    num_trials: int
    num_candidates: int
    num_shown: int
    """Different concepts among the trials."""
    arms: dict[str, dict[str, Score]]
    """By arm: ``top1, top5, balanced_accuracy``."""
    summary: dict[str, dict[str, float | None]]
    """By arm, ``majority`` and ``chance`` among them: point values."""
    model_minus: dict[str, dict[str, Score]]
    """By other arm: ``top1`` of the model minus it, paired by trial."""
    by_subject: dict[str, dict[str, float]]
    per_class: tuple[ConceptRow, ...]
    confusion: tuple[ConfusionCell, ...]
    """Pairs that occur."""
    never_trained: tuple[str, ...]
    """Concepts of the part that the encoder cannot name."""
    trials_left_out: int
    """Their trials."""
    named_by: str
    """``concept head`` or ``nearest concept``."""


def read_classes(path: Path) -> ClassesResults:
    """``classes.json``; see :func:`trainer.evaluate.results.read_results` for what is refused."""
    return read_results(path, ClassesResults)
