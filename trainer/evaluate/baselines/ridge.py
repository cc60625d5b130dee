"""Ridge regression from EEG to the image embedding; candidates are ranked by cosine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_prep.contract.closed_form import fit_ridge
from data_prep.contract.ranking import cosine_similarity
from trainer.evaluate.baselines.base import Baseline, BaselineScores, Trials


@dataclass(frozen=True, kw_only=True)
class Ridge(Baseline):
    """``ridge``: cosine of the predicted embedding with the candidates' as they are. ``centred ridge``: both sides less the mean
    training embedding. Features after a ReLU share a large mean, which hides what distinguishes images from a cosine: the stronger
    opponent."""

    def score(self, trials: Trials) -> BaselineScores:
        """Both arms, of one fit a subject."""
        arms = {name: np.empty((len(trials.test), len(trials.gallery_GE))) for name in ("ridge", "centred ridge")}
        for subject, rows in trials.by_subject():
            predicted_QE = fit_ridge(subject.eeg_NCT, subject.target_NE).predict(trials.test.eeg_NCT[rows])
            mean_E = subject.target_NE.mean(axis=0)
            arms["ridge"][rows] = cosine_similarity(predicted_QE, trials.gallery_GE)
            arms["centred ridge"][rows] = cosine_similarity(predicted_QE - mean_E, trials.gallery_GE - mean_E)
        return BaselineScores(arms=arms)
