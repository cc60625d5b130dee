"""Ridge regression from EEG to which concept was shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from data_prep.contract.closed_form import fit_ridge
from trainer.evaluate.baselines.base import Baseline, BaselineScores, Candidates, Trials


@dataclass(frozen=True, kw_only=True)
class ConceptRidge(Baseline):
    """``ridge``: regression to 0 or 1 for each concept; the concept with the largest prediction is named."""

    candidates: ClassVar[Candidates] = "concepts"

    def score(self, trials: Trials) -> BaselineScores:
        """A regression a subject."""
        scores_QG = np.empty((len(trials.test), len(trials.concepts_G)))
        for subject, rows in trials.by_subject():
            shown_NG = (subject.concept_N[:, None] == trials.concepts_G).astype(np.float32)
            scores_QG[rows] = fit_ridge(subject.eeg_NCT, shown_NG).predict(trials.test.eeg_NCT[rows])
        return BaselineScores(arms={"ridge": scores_QG})
