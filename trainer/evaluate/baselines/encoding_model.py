"""The Gaussian encoding model: which image makes the recorded EEG most likely (identification as Kay et al. 2008)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from data_prep.contract.closed_form import EncodingModel as FittedModel
from data_prep.contract.closed_form import fit_encoding_model
from trainer.artifacts.part import PartArrays
from trainer.evaluate.baselines.base import Baseline, BaselineScores, Trials
from trainer.evaluate.model_scores import candidate_rows
from trainer.evaluate.scores import Products, ProductScores


@dataclass(frozen=True, kw_only=True)
class EncodingModel(Baseline):
    """``encoding model``: log-likelihood of the EEG under the model's prediction for every candidate."""

    within_trial: ClassVar[bool] = True

    def score(self, trials: Trials) -> BaselineScores:
        """A model a subject; noise within stimulus is estimated from single repetitions."""
        return likelihoods(
            "encoding model", trials, lambda part, single: fit_encoding_model(part.eeg_NCT, part.target_NE, part.n_reps_N, single)
        )


def likelihoods(arm: str, trials: Trials, fit: Callable[[PartArrays, Iterator[np.ndarray]], FittedModel]) -> BaselineScores:
    """Log-likelihood of every test trial's EEG under every candidate, by a model a subject that ``fit`` makes of training rows and their
    single repetitions."""
    parts: list[Products] = []
    for subject, rows in trials.by_subject():
        people = np.unique(subject.subject_N)
        fitted = fit(subject, trials.repetitions(int(people[0]) if len(people) == 1 else None))
        queries, n_reps_q = fitted.cut_queries(trials.test.eeg_NCT[rows]), trials.test.n_reps_N[rows]
        for n in np.unique(n_reps_q).tolist():
            own = n_reps_q == n
            parts.append(Products(query_q=rows[own], left=queries[own], right=candidate_rows(fitted, n, trials.gallery_GE)))
    return BaselineScores(arms={arm: ProductScores(parts, len(trials.gallery_GE))})
