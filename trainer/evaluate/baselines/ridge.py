"""Ridge regression from EEG to the image embedding; candidates are ranked by cosine."""

from __future__ import annotations

from dataclasses import dataclass

from data_prep.contract.closed_form import fit_ridge
from trainer.evaluate.baselines.base import Baseline, BaselineScores, Trials
from trainer.evaluate.scores import Products, ProductScores, cosines


@dataclass(frozen=True, kw_only=True)
class Ridge(Baseline):
    """``ridge``: cosine of the predicted embedding with the candidates' as they are. ``centred ridge``: both sides less the mean
    training embedding. Features after a ReLU share a large mean, which hides what distinguishes images from a cosine: the stronger
    opponent."""

    def score(self, trials: Trials) -> BaselineScores:
        """Both arms, of one fit a subject."""
        parts: dict[str, list[Products]] = {"ridge": [], "centred ridge": []}
        for subject, rows in trials.by_subject():
            predicted_QE = fit_ridge(subject.eeg_NCT, subject.target_NE).predict(trials.test.eeg_NCT[rows])
            parts["ridge"].append(cosines(rows, predicted_QE, trials.gallery_GE))
            parts["centred ridge"].append(cosines(rows, predicted_QE, trials.gallery_GE, subject.target_NE.mean(axis=0)))
        return BaselineScores(arms={name: ProductScores(found, len(trials.gallery_GE)) for name, found in parts.items()})
