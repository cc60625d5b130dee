"""What ``evaluate-retrieval`` found: ``retrieval.json`` of an image-level or a class-level study."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data_prep.contract.errors import CommandError
from data_prep.contract.files import read_json
from trainer.evaluate.results import Results, Score, parse_results
from trainer.evaluate.study_facts import StudyFacts


@dataclass(frozen=True, kw_only=True)
class RetrievalArm:
    """One row of the table, both ways."""

    eeg_to_image: dict[str, Score]
    """By metric: an EEG trial among the images."""
    image_to_eeg: dict[str, Score] | None = None
    """By metric: an image among the EEG trials; None where scores compare within a trial only."""
    null: dict[str, float]
    """``p_top1, null_top1, p_top5, null_top5`` under permuted stimuli."""


@dataclass(frozen=True, kw_only=True)
class ClassArm:
    """One row of the table of a class-level study."""

    auc: Score
    balanced_accuracy: Score
    null: dict[str, float]
    """``p_auc, null_auc`` under permuted classes."""


@dataclass(frozen=True, kw_only=True)
class _Counts:
    metric: str
    """The headline score, in words."""
    num_queries: int
    """Trials that were scored, one EEG average each."""
    num_gallery: int
    """Candidates of each: images, or classes."""
    summary: dict[str, dict[str, float | None]]
    """By arm (chance and ceiling among them): point values of the headline metrics."""
    by_subject: dict[str, dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class RetrievalResults(Results, StudyFacts, _Counts):
    """Of an image-level study, or of a file of embeddings."""

    kind: str = "retrieval"
    arms: dict[str, RetrievalArm]
    model_minus: dict[str, dict[str, Score]]
    """By other arm and metric: model minus it, paired by query."""
    repetitions: tuple[int, ...] | None = None
    """How many repetitions the queries average; None: unknown."""
    average: str | None = None


@dataclass(frozen=True, kw_only=True)
class ClassLevelResults(Results, StudyFacts, _Counts):
    """Of a study whose stimuli are known by class only."""

    kind: str = "classes"
    arms: dict[str, ClassArm]
    trials_by_class: dict[str, int]


def read_retrieval(path: Path) -> RetrievalResults | ClassLevelResults:
    """``retrieval.json`` of either kind.

    Raises
    ------
    StudyError, CommandError
        No such file, not JSON, or not what ``evaluate-retrieval`` writes.
    """
    found = read_json(path)
    kind = found.get("kind") if isinstance(found, dict) else None
    if kind == "retrieval":
        return parse_results(found, RetrievalResults, str(path))
    if kind == "classes":
        return parse_results(found, ClassLevelResults, str(path))
    raise CommandError(f"{path}: kind is {kind!r}, expected retrieval or classes, as evaluate-retrieval writes")
