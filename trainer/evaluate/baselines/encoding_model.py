"""The Gaussian encoding model: which image makes the recorded EEG most likely (identification as Kay et al. 2008)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from data_prep.contract.closed_form import fit_encoding_model
from trainer.evaluate.baselines.base import Baseline, BaselineScores, Trials


@dataclass(frozen=True, kw_only=True)
class EncodingModel(Baseline):
    """``encoding model``: log-likelihood of the EEG under the model's prediction for every candidate."""

    within_trial: ClassVar[bool] = True

    def score(self, trials: Trials) -> BaselineScores:
        """A model a subject; noise within stimulus is estimated from single repetitions."""
        scores_QG = np.empty((len(trials.test), len(trials.gallery_GE)))
        for subject, rows in trials.by_subject():
            people = np.unique(subject.subject_N)
            single = trials.repetitions(int(people[0]) if len(people) == 1 else None)
            fitted = fit_encoding_model(subject.eeg_NCT, subject.target_NE, subject.n_reps_N, single)
            scores_QG[rows] = fitted.log_likelihood(trials.test.eeg_NCT[rows], trials.test.n_reps_N[rows], trials.gallery_GE)
        return BaselineScores(arms={"encoding model": scores_QG})
