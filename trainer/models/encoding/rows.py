"""What an encoding model is fitted on, read from a training part: averages over repetitions, and repetitions about them.

Every sample's numbers are functions of the sample alone, in float64: they do not depend on which others are read with it.

N: samples, R: repetitions, D: features of a flattened trial, E: embedding dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from trainer.data.batch import normalise_trials
from trainer.data.loader import Loader
from trainer.models.encoding.exact import Quantum
from trainer.models.encoding.moments import folds_of_new

_LOOKED_AT = 64
_VALUES_AT_ONCE = 2**23


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Some samples."""

    eeg_ND: np.ndarray
    """Averaged over repetitions, normalised; float64."""
    target_NE: np.ndarray
    """Embedding of each sample's stimulus."""
    count_N: np.ndarray
    """Repetitions of each."""
    noise_RD: np.ndarray
    """Repetitions less their sample's mean, of the samples that have several; float64."""

    @property
    def freedom(self) -> int:
        """Degrees of freedom of the noise."""
        return int((self.count_N - 1).sum())


@dataclass(frozen=True, kw_only=True)
class Units:
    """Quanta of the sums, and their sizes."""

    eeg: Quantum
    noise: Quantum
    embedding: Quantum
    num_features: int
    embedding_dim: int


def read_rows(loader: Loader, samples: np.ndarray) -> Rows:
    """Samples of a part by number (0 ... ``num_samples`` - 1)."""
    host = loader.samples_batch(samples)
    single_RCT = loader.repetitions(host).to(torch.float64)
    count_N = host.counts_B.numpy()
    mean_NCT = _means(single_RCT.numpy(), count_N)
    normalise = loader.config.normalise
    eeg_NCT = normalise_trials(torch.from_numpy(mean_NCT), normalise).numpy()
    if normalise != "none":  # what one repetition has as noise is that of a trial by itself, which is normalised, too
        single_RCT = normalise_trials(single_RCT, normalise)
        mean_NCT = _means(single_RCT.numpy(), count_N)
    noise_RCT = single_RCT.numpy() - np.repeat(mean_NCT, count_N, axis=0)
    return Rows(
        eeg_ND=eeg_NCT.reshape(len(eeg_NCT), -1),
        target_NE=host.embedding_BE.numpy(),
        count_N=count_N,
        noise_RD=noise_RCT[np.repeat(count_N > 1, count_N)].reshape(-1, eeg_NCT[0].size),
    )


def read_in_pieces(loader: Loader, samples: np.ndarray) -> Iterator[tuple[np.ndarray, Rows]]:
    """Samples of a part by number, so many at a time that a rank's memory is not theirs."""
    at_once = max(1, _VALUES_AT_ONCE // (loader.n_chans * loader.n_times * loader.most_repetitions))
    for start in range(0, len(samples), at_once):
        some = samples[start : start + at_once]
        yield some, read_rows(loader, some)


def _means(single_RCT: np.ndarray, count_N: np.ndarray) -> np.ndarray:
    starts_N = np.cumsum(count_N) - count_N
    mean_NCT: np.ndarray = np.add.reduceat(single_RCT, starts_N, axis=0) / count_N[:, None, None]
    return mean_NCT


def units_of(loader: Loader) -> Units:
    """The units in which sums over a part are taken: by samples that the order of the shards does not choose, the same on every rank."""
    order = np.lexsort((loader.item_stimuli, loader.item_subjects))
    looked_at = read_rows(loader, order[np.unique(np.linspace(0, len(order) - 1, _LOOKED_AT).astype(np.int64))])
    return Units(
        eeg=Quantum.for_values(_largest(looked_at.eeg_ND)),
        noise=Quantum.for_values(_largest(looked_at.noise_RD)),
        embedding=Quantum.for_values(_largest(loader.gallery)),
        num_features=loader.n_chans * loader.n_times,
        embedding_dim=loader.embedding_dim,
    )


def _largest(values: np.ndarray) -> float:
    return float(np.abs(values).max(initial=0.0))


def fold_of_samples(loader: Loader) -> np.ndarray:
    """:func:`folds_of_new` of every sample of a part: (num_samples,)."""
    return folds_of_new(loader.item_concepts, loader.item_stimuli)
