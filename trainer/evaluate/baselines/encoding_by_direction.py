"""The Gaussian encoding model with a penalty a response direction: the closed form that networks have to beat."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from data_prep.contract.block_sums import leading_directions
from data_prep.contract.closed_form import MAX_FEATURES, EncodingModel
from data_prep.contract.noise_covariance import within_covariance
from trainer.artifacts.part import PartArrays
from trainer.evaluate.baselines.base import Baseline, BaselineScores, Trials
from trainer.evaluate.baselines.encoding_model import likelihoods
from trainer.models.encoding.by_direction import fit_by_direction
from trainer.models.encoding.moments import GroupedMoments, folds_of_new
from trainer.models.encoding.rows import fold_of_samples, units_of
from trainer.models.encoding.sums import RowSums, keys_of


@dataclass(frozen=True, kw_only=True)
class EncodingByDirection(Baseline):
    """``encoding by direction``: as the encoding model, each direction of the response with a penalty of its own, lack of fit with its
    covariances from residuals out of fold."""

    within_trial: ClassVar[bool] = True

    def score(self, trials: Trials) -> BaselineScores:
        """A model a subject; noise within stimulus is estimated from single repetitions."""
        loader = trials.train_loader
        if loader.n_chans * loader.n_times > MAX_FEATURES:
            return likelihoods("encoding by direction", trials, fit_reduced)
        units, fold_N = units_of(loader), fold_of_samples(loader)

        def fit(part: PartArrays, _: Iterator[np.ndarray]) -> EncodingModel:
            samples = np.flatnonzero(np.isin(loader.item_subjects, part.subject_N))
            sums = RowSums(units, keys_of(loader, samples, fold_N))
            sums.add_samples(loader, samples, fold_N)
            return sums.fit()

        return likelihoods("encoding by direction", trials, fit)


def fit_reduced(part: PartArrays, repetitions: Iterator[np.ndarray]) -> EncodingModel:
    """The model of training rows in the leading directions of their EEG, for more features than sums of products have room for."""
    eeg_ND = part.eeg_NCT.reshape(len(part), -1)
    mean_D = eeg_ND.mean(0, dtype=np.float64).astype(np.float32)
    basis = leading_directions(eeg_ND - mean_D)
    eeg_ND = eeg_ND @ basis
    covariance, freedom = within_covariance(repetitions, eeg_ND.shape[1], basis)
    moments = GroupedMoments.of(part.target_NE, eeg_ND, folds_of_new(part.concept_N, part.stimulus_N), part.n_reps_N)
    return fit_by_direction(moments, covariance, freedom).in_features(basis)
