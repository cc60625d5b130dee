"""The arms that an encoder has to beat, fitted on the split's training rows only.

A baseline is one file: a frozen dataclass that scores every candidate for every test trial from the training trials. Of a
user's own, ``baselines`` in the config names the import path (``{class_path: my_lab.baselines.Nearest}``).

Q: test trials, G: candidates (images of the gallery, or concepts), E: embedding dimension.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np

from data_prep.contract.cli import polymorphic
from data_prep.contract.errors import CommandError, UserError
from data_prep.contract.progress import tracked
from trainer.artifacts.guards import part_of
from trainer.artifacts.part import PartArrays, repetitions
from trainer.data.loader import Loader
from trainer.evaluate.scores import Scores, as_scores

MIN_TRAINING_ROWS = 16
"""Fewer rows of a subject's own than this, and all training subjects are used."""
Candidates = Literal["images", "concepts"]


@dataclass(frozen=True, kw_only=True)
class Trials:
    """Training trials, test trials and what the latter may be."""

    train: PartArrays
    test: PartArrays
    train_loader: Loader
    gallery_GE: np.ndarray
    """Embeddings of the images to choose from; no rows where concepts are named."""
    concepts_G: np.ndarray
    """Concepts to choose from, rows of the study's table; empty where images are ranked."""

    def by_subject(self, *, all_concepts: bool = False) -> list[tuple[PartArrays, np.ndarray]]:
        """Training trials and test rows of every tested subject.

        They are the subject's own, or all where it has fewer than 16 (leave one subject out), as the encoder has them; with
        ``all_concepts`` its own must show every concept.
        """
        pairs = []
        for subject in np.unique(self.test.subject_N):
            own_N = self.train.subject_N == subject
            rows = np.flatnonzero(self.test.subject_N == subject)
            enough = own_N.sum() >= MIN_TRAINING_ROWS
            enough &= not all_concepts or len(np.unique(self.train.concept_N[own_N])) == len(self.concepts_G)
            pairs.append((self.train.where(own_N) if enough else self.train, rows))
        return pairs

    def repetitions(self, subject: int | None) -> Iterator[np.ndarray]:
        """Single training repetitions of each sample that has several, (R, C, T) each; of one subject, or of all."""
        return repetitions(self.train_loader, subject)


@dataclass(frozen=True, kw_only=True)
class BaselineScores:
    """What a baseline gives."""

    arms: Mapping[str, np.ndarray | Scores] = field(repr=False)
    """By name in the table: scores (Q, G), higher is better, every value finite; a matrix, or :class:`Scores` where it would be large."""
    notes: tuple[str, ...] = ()
    """Sentences for the report."""


@polymorphic
@dataclass(frozen=True, kw_only=True)
class Baseline:
    """Base of the baselines; fields of a subclass are its settings."""

    candidates: ClassVar[Candidates] = "images"
    """What it ranks: the images of a gallery, or concepts."""
    within_trial: ClassVar[bool] = False
    """Whether its scores compare only within a trial (a likelihood): then images do not search among trials by it."""

    def score(self, trials: Trials) -> BaselineScores:
        """Fit on ``trials.train`` and score ``trials.test``."""
        raise NotImplementedError


def score_baselines(baselines: Sequence[Baseline], trials: Trials) -> tuple[dict[str, Scores], set[str], list[str]]:
    """Scores of every arm, the arms whose scores compare within a trial only, and notes.

    Raises
    ------
    CommandError
        A baseline that cannot be fitted on so few trials, two arms of one name, or scores of another shape or that are not finite.
    """
    scores: dict[str, Scores] = {}
    within: set[str] = set()
    notes: list[str] = []
    shape = (len(trials.test), len(trials.gallery_GE) or len(trials.concepts_G))
    for baseline in tracked(baselines, "baselines"):
        name = type(baseline).__name__
        fitted = f"{part_of(trials.train_loader)}: baseline {name}, fitted on its {len(trials.train)} trials: "
        try:
            found = baseline.score(trials)
        except UserError as error:
            raise CommandError(f"{fitted}{error}; leave it out of baselines") from error
        for arm, scores_QG in found.arms.items():
            if arm in ("model", "chance", "ceiling", "majority", *scores):
                raise CommandError(f"baselines: {name} calls an arm {arm!r}, expected a name that no other row of the table has")
            found_shape = scores_QG.shape if isinstance(scores_QG, Scores) else np.shape(scores_QG)
            if found_shape != shape:
                raise CommandError(f"baselines: {name} gave {arm!r} scores of shape {found_shape}, expected {shape}")
            if not (isinstance(scores_QG, Scores) or np.isfinite(scores_QG).all()):
                raise CommandError(f"{fitted}{arm!r} has scores that are not finite, expected numbers; leave it out of baselines")
            scores[arm] = as_scores(scores_QG)
            within |= {arm} if baseline.within_trial else set()
        notes += found.notes
    return scores, within, notes
