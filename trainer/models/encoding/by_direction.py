"""A Gaussian encoding model with a penalty for each direction of the response, and its lack of fit measured where it did not learn.

::

    noise of repetitions -> whitening -> directions by their signal -> ridge, a penalty a direction -> residuals out of fold -> lack of fit

In coordinates in which a repetition's noise is white, the directions are eigenvectors of the covariance between stimuli beyond noise. Each
has the penalty that generalised cross-validation chooses for it: strong responses follow many dimensions of the embedding, weak ones few.
What is left out of fold, beyond noise, is the lack of fit of a *new* stimulus, with all its covariances; how many directions are kept, and
how far those covariances shrink to their diagonal, is decided by the likelihood of folds that chose neither.

All of it from sums (:mod:`trainer.models.encoding.moments`), float64: the result does not depend on the order or the cut of the rows.

N: rows, E: embedding dimensions, D: features of a flattened trial, R: directions, W: those that are kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import linalg

from data_prep.contract.closed_form import EncodingModel
from data_prep.contract.errors import UserError
from data_prep.contract.noise_covariance import whitener
from trainer.models.encoding.moments import GroupedMoments, Moments

PENALTIES = tuple(float(a) for a in np.logspace(-4, 5, 37))
"""Ridge penalties tried, in units of the total variance of the embedding."""
NUM_DIRECTIONS = (25, 50, 100, 150, 200, 300, 400, 600, 800, 1200)
SHRINKAGES = (0.0, 0.1, 0.3, 0.6, 1.0)
"""How far the covariances of lack of fit may go to zero."""
LEAST_ROWS = 10
_LEAST_SIGNAL = 1e-3
"""Of a direction, in units of the noise of an average: less is nothing that could be predicted."""


@dataclass(frozen=True, kw_only=True)
class NoiseSum:
    """Sum of squares of repetitions about their stimulus' mean."""

    sum_DD: np.ndarray
    freedom: int


def fit_by_direction(
    moments: GroupedMoments,
    noise: NoiseSum,
    *,
    penalties: Sequence[float] = PENALTIES,
    num_directions: Sequence[int] = NUM_DIRECTIONS,
    shrinkages: Sequence[float] = SHRINKAGES,
) -> EncodingModel:
    """Fit from sums.

    Parameters
    ----------
    moments
        Of training rows: EEG averaged over repetitions, and the embeddings of their stimuli.
    noise
        Of single repetitions in the same features; without freedom what a first regression leaves out of fold is taken for noise.
    penalties, num_directions, shrinkages
        To choose from, as above.

    Raises
    ------
    UserError
        Fewer than 10 rows, or rows of one fold only.
    """
    whole = moments.total()
    if whole.count < LEAST_ROWS or len(moments.folds) < 2:
        raise UserError(f"{whole.count:.0f} rows in {len(moments.folds)} folds: expected at least {LEAST_ROWS} in 2")
    mean_noise = _mean_noise(moments, {n: 1.0 for _, n in moments.groups})
    if noise.freedom:
        to_white = whitener(noise.sum_DD / noise.freedom, noise.freedom)
    else:
        first = _Folds.fit(moments, penalties, {n: 1.0 for _, n in moments.groups})
        to_white = whitener(first.residual_RR / whole.count / mean_noise, int(whole.count))
    white = moments.map(lambda each: each.about(*whole.means).projected(to_white))
    signal, turn = linalg.eigh(white.total().sum_DD / whole.count - mean_noise * np.eye(to_white.shape[1]), check_finite=False)
    kept = np.flatnonzero(signal > _LEAST_SIGNAL * mean_noise)[::-1][: max(num_directions)]
    if not len(kept):
        kept = np.array([len(signal) - 1])
    basis_DR = to_white @ turn[:, kept]

    weights = _weights(moments, float(signal[kept].mean()))
    folds, means = _fit_weighted(moments, basis_DR, penalties, weights)
    if len(set(weights.values())) > 1:  # what the rows' weights depend on is known now
        weights = _weights(moments, max(float(np.diag(folds.lack(_mean_noise(moments, weights))).mean()), 0.0))
        folds, means = _fit_weighted(moments, basis_DR, penalties, weights)
    mean_noise = _mean_noise(moments, weights)
    width, shrinkage = _choose(folds, mean_noise, num_directions, shrinkages)
    lack_W, axes_WW = linalg.eigh(_shrunk(folds.lack(mean_noise)[:width, :width], shrinkage), check_finite=False)
    return EncodingModel(
        mean_D=means[1].astype(np.float32),
        to_white_DW=(basis_DR[:, :width] @ axes_WW).astype(np.float32),
        embedding_mean_E=means[0].astype(np.float32),
        components_EK=folds.all_ER[:, :width] @ axes_WW,
        weights_KW=np.eye(width),
        lack_W=np.maximum(lack_W, 0.0),
    )


def _mean_noise(moments: GroupedMoments, weights: Mapping[int, float]) -> float:
    """Weighted mean over rows of 1 / repetitions: the noise of an average in units of that of one repetition."""
    weighed = [(n, weights[n] * m.count) for (_, n), m in moments.groups.items()]
    return sum(weight / n for n, weight in weighed) / sum(weight for _, weight in weighed)


def _weights(moments: GroupedMoments, lack: float) -> dict[int, float]:
    """Weight of a row by its repetitions, mean one over rows: the inverse of the variance that no regression explains."""
    raw = {n: 1.0 / (1.0 / n + lack) for _, n in moments.groups}
    mean = sum(raw[n] * m.count for (_, n), m in moments.groups.items()) / sum(m.count for m in moments.groups.values())
    return {n: weight / mean for n, weight in raw.items()}


def _fit_weighted(
    moments: GroupedMoments, basis_DR: np.ndarray, penalties: Sequence[float], weights: Mapping[int, float]
) -> tuple[_Folds, tuple[np.ndarray, np.ndarray]]:
    """The regressions on the responses ``eeg @ basis``, and the means of embedding and EEG about which they are."""
    means = moments.total(weights).means
    return _Folds.fit(moments.map(lambda each: each.about(*means).projected(basis_DR)), penalties, weights), means


@dataclass(frozen=True, kw_only=True)
class _Folds:
    """A regression on all rows, and what those on all but a fold leave of its rows."""

    all_ER: np.ndarray
    left: Mapping[int, np.ndarray]
    """Fold -> sum over its rows of products of residuals (R, R)."""
    total: Mapping[int, np.ndarray]
    """Fold -> sum of products of the responses themselves, about the mean of the other folds."""
    count: Mapping[int, float]

    @classmethod
    def fit(cls, moments: GroupedMoments, penalties: Sequence[float], weights: Mapping[int, float]) -> _Folds:
        whole = moments.total(weights)
        left, total, count = {}, {}, {}
        for fold in moments.folds:
            own = moments.total(weights, fold=fold)
            others = whole - own
            weights_ER = _ridge(others, penalties)
            held = own.about(*others.means)
            crossed = weights_ER.T @ held.sum_ED
            left[fold] = held.sum_DD - crossed - crossed.T + weights_ER.T @ held.sum_EE @ weights_ER
            total[fold], count[fold] = held.sum_DD, own.count
        return cls(all_ER=_ridge(whole, penalties), left=left, total=total, count=count)

    @property
    def residual_RR(self) -> np.ndarray:
        found: np.ndarray = np.sum([self.left[fold] for fold in self.left], axis=0)
        return found

    def lack(self, mean_noise: float, *, without: int | None = None) -> np.ndarray:
        """Covariance of lack of fit: of residuals out of fold, less the noise that an average has (R, R)."""
        folds = [fold for fold in self.left if fold != without]
        residual = np.sum([self.left[fold] for fold in folds], axis=0) / sum(self.count[fold] for fold in folds)
        covariance: np.ndarray = residual - mean_noise * np.eye(len(residual))
        return covariance


def _ridge(moments: Moments, penalties: Sequence[float]) -> np.ndarray:
    """Weights (E, R) of centred rows, each response with the penalty that generalised cross-validation gives it."""
    n, centred = moments.count, moments.about(*moments.means)
    values, vectors = linalg.eigh(centred.sum_EE, check_finite=False)
    values = np.maximum(values, 0.0)
    known = values > values[-1] * 1e-10
    values, vectors = values[known], vectors[:, known]
    products_KR = vectors.T @ centred.sum_ED
    squares_KR = np.square(products_KR) / values[:, None]
    total_R = np.diag(centred.sum_DD)
    unit = values.sum() / n
    scores = []
    for penalty in penalties:
        shrink_K = values / (values + penalty * unit)
        freedom = 1.0 - (float(shrink_K.sum()) + 1.0) / n  # the intercept takes one
        residual_R = total_R - (2 * shrink_K - shrink_K**2) @ squares_KR
        scores.append(residual_R / freedom**2 if freedom > 1e-3 else np.full(len(total_R), np.inf))
    chosen_R = np.asarray(penalties)[np.argmin(scores, axis=0)] * unit
    weights_ER: np.ndarray = vectors @ (products_KR / (values[:, None] + chosen_R))
    return weights_ER


def _shrunk(covariance_WW: np.ndarray, shrinkage: float) -> np.ndarray:
    diagonal = np.diag(np.diag(covariance_WW))
    found: np.ndarray = (1 - shrinkage) * covariance_WW + shrinkage * diagonal
    return found


def _precision(covariance_WW: np.ndarray, mean_noise: float) -> tuple[np.ndarray, float]:
    """Inverse and log determinant of a covariance beyond noise, negative eigenvalues of which are none, with the noise."""
    values, vectors = linalg.eigh(covariance_WW, check_finite=False)
    values = np.maximum(values, 0.0) + mean_noise
    return (vectors / values) @ vectors.T, float(np.log(values).sum())


def _choose(folds: _Folds, mean_noise: float, num_directions: Sequence[int], shrinkages: Sequence[float]) -> tuple[int, float]:
    """Directions and shrinkage of which held-out folds say most: likelihood under the model less that without stimuli, in nats."""
    most = folds.all_ER.shape[1]
    widths = sorted({min(width, most) for width in num_directions})
    gained = np.zeros((len(widths), len(shrinkages)))
    for fold in folds.left:
        others = [other for other in folds.left if other != fold]
        lack = folds.lack(mean_noise, without=fold)
        count = sum(folds.count[other] for other in others)
        spread = np.sum([folds.total[other] for other in others], axis=0) / count - mean_noise * np.eye(most)
        for row, width in enumerate(widths):
            own = slice(0, width)
            null = _log_likelihood(_precision(spread[own, own], mean_noise), folds.total[fold][own, own], folds.count[fold])
            for column, shrinkage in enumerate(shrinkages):
                model = _precision(_shrunk(lack[own, own], shrinkage), mean_noise)
                gained[row, column] += _log_likelihood(model, folds.left[fold][own, own], folds.count[fold]) - null
    best = int(np.argmax(gained))
    return widths[best // len(shrinkages)], float(shrinkages[best % len(shrinkages)])


def _log_likelihood(precision: tuple[np.ndarray, float], sum_WW: np.ndarray, count: float) -> float:
    """Of ``count`` rows with this sum of products under a Gaussian of mean zero, up to a constant by width."""
    inverse_WW, log_determinant = precision
    return -0.5 * (count * log_determinant + float((inverse_WW * sum_WW).sum()))
