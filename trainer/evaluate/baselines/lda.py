"""Linear discriminant analysis as an arm of the table; the arithmetic is :mod:`trainer.evaluate.lda`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trainer.evaluate.baselines.base import Baseline, BaselineScores, Candidates, Trials
from trainer.evaluate.lda import SHRINKAGES, lda_scores


@dataclass(frozen=True, kw_only=True)
class Lda(Baseline):
    """``lda``: shrinkage chosen in inner folds over recordings; more than two classes are one against the others each."""

    candidates: ClassVar[Candidates] = "concepts"

    def score(self, trials: Trials) -> BaselineScores:
        """The arm, and a note on the shrinkages."""
        scores_QG, shrinkages = lda_class_scores(trials)
        chosen = ", ".join("automatic" if s is None else str(s) for s in shrinkages)
        note = f"LDA's shrinkage, chosen in inner folds over the training recordings: {chosen}."
        return BaselineScores(arms={"lda": scores_QG}, notes=(note,))


def lda_class_scores(trials: Trials) -> tuple[np.ndarray, list[float | None]]:
    """LDA scores of every test trial for every class (Q, G), and the shrinkages that inner folds over recordings chose.

    Two classes are one problem; more are one class against the others each. With fewer than two training recordings to
    choose the shrinkage from, it is the automatic one (None).
    """
    concepts_G, test = trials.concepts_G, trials.test
    scores_QG = np.empty((len(test), len(concepts_G)))
    shrinkages = []
    two = len(concepts_G) == 2
    for subject, rows in trials.by_subject(all_concepts=True):
        for number in range(1 if two else 0, len(concepts_G)):
            class_N = (subject.concept_N == concepts_G[number]).astype(int)
            inner = [r for r in np.unique(subject.recording_N) if len(np.unique(class_N[subject.recording_N == r])) == 2]
            candidates = SHRINKAGES if len(inner) > 1 else None
            found = lda_scores(subject.eeg_NCT, class_N, subject.recording_N, test.eeg_NCT[rows], shrinkages=candidates)
            scores_QG[rows, number] = found.scores_B
            shrinkages.append(found.shrinkage)
    if two:
        scores_QG[:, 0] = -scores_QG[:, 1]
    return scores_QG, shrinkages
