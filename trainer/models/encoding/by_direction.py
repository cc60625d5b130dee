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
MOST_DIRECTIONS = 1200
SHRINKAGES = (0.0, 0.1, 0.3, 0.6, 1.0)
"""How far the covariances of lack of fit may go to zero."""
LEAST_ROWS = 10
_LEAST_SIGNAL = 1e-3
"""Of a direction, in units of the noise of an average: less is nothing that could be predicted."""


def fit_by_direction(
    moments: GroupedMoments,
    noise_DD: np.ndarray,
    freedom: int,
    *,
    penalties: Sequence[float] = PENALTIES,
    most_directions: int = MOST_DIRECTIONS,
    shrinkages: Sequence[float] = SHRINKAGES,
) -> EncodingModel:
    """Fit from sums.

    Parameters
    ----------
    moments
        Of training rows: EEG averaged over repetitions, and the embeddings of their stimuli.
    noise_DD, freedom
        Covariance of single repetitions about their stimulus' mean, in the same features; without freedom what a first regression leaves
        out of fold is taken for noise.
    penalties, shrinkages
        To choose from, as above.
    most_directions
        How many directions there may be.

    Raises
    ------
    UserError
        Fewer than 10 rows, or rows of one fold only.
    """
    whole = moments.total()
    if whole.count < LEAST_ROWS or len(moments.folds) < 2:
        raise UserError(f"{whole.count:.0f} rows in {len(moments.folds)} folds: expected at least {LEAST_ROWS} in 2")
    alike = {n: 1.0 for _, n in moments.groups}
    mean_noise = _mean_noise(moments, alike)
    if freedom:
        to_white = whitener(noise_DD, freedom)
    else:
        to_white = whitener(_Folds.fit(moments, penalties, alike).lack(0.0) / mean_noise, int(whole.count))
    spread_WW = to_white.T @ whole.about(*whole.means).sum_DD @ to_white / whole.count
    signal, turn = linalg.eigh(spread_WW - mean_noise * np.eye(len(spread_WW)), check_finite=False)
    kept = np.flatnonzero(signal > _LEAST_SIGNAL * mean_noise)[::-1][:most_directions]
    if not len(kept):
        kept = np.array([len(signal) - 1])
    basis_DR = to_white @ turn[:, kept]

    weights = _weights(moments, float(signal[kept].mean()))
    folds, means = _fit_weighted(moments, basis_DR, penalties, weights)
    if len(set(weights.values())) > 1:  # what the rows' weights depend on is known now
        weights = _weights(moments, max(float(np.diag(folds.lack(_mean_noise(moments, weights))).mean()), 0.0))
        folds, means = _fit_weighted(moments, basis_DR, penalties, weights)
    mean_noise = _mean_noise(moments, weights)
    width, shrinkage = _choose(folds, mean_noise, most_directions, shrinkages)
    lack_W, axes_WW = linalg.eigh(_shrunk(_clipped(folds.lack(mean_noise))[:width, :width], shrinkage), check_finite=False)
    return EncodingModel(
        mean_D=means[1],
        to_white_DW=basis_DR[:, :width] @ axes_WW,
        embedding_mean_E=means[0],
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


def _clipped(covariance_RR: np.ndarray) -> np.ndarray:
    """The covariance without its negative eigenvalues, which are of no covariance."""
    values, vectors = linalg.eigh(covariance_RR, check_finite=False)
    found: np.ndarray = (vectors * np.maximum(values, 0.0)) @ vectors.T
    return found


def _shrunk(covariance_RR: np.ndarray, shrinkage: float) -> np.ndarray:
    found: np.ndarray = (1 - shrinkage) * covariance_RR + shrinkage * np.diag(np.diag(covariance_RR))
    return found


def _choose(folds: _Folds, mean_noise: float, most: int, shrinkages: Sequence[float]) -> tuple[int, float]:
    """Directions, up to ``most``, and shrinkage of which held-out folds say most: likelihood under the model less that without stimuli."""
    noise_RR = mean_noise * np.eye(folds.all_ER.shape[1])
    gained_SR = np.zeros((len(shrinkages), len(noise_RR)))
    for fold in folds.left:
        others = [other for other in folds.left if other != fold]
        count = sum(folds.count[other] for other in others)
        spread_RR = _clipped(np.sum([folds.total[other] for other in others], axis=0) / count - noise_RR)
        without_R = _log_likelihoods(spread_RR + noise_RR, folds.total[fold], folds.count[fold])
        lack_RR = _clipped(folds.lack(mean_noise, without=fold))
        for row, shrinkage in enumerate(shrinkages):
            within_R = _log_likelihoods(_shrunk(lack_RR, shrinkage) + noise_RR, folds.left[fold], folds.count[fold])
            gained_SR[row] += within_R - without_R
    chosen = int(np.argmax(gained_SR[:, :most].max(axis=1)))
    return int(np.argmax(gained_SR[chosen, :most])) + 1, float(shrinkages[chosen])


def _log_likelihoods(covariance_RR: np.ndarray, sum_RR: np.ndarray, count: float) -> np.ndarray:
    """Of ``count`` rows with this sum of products under a Gaussian of mean zero: of their first 1, 2, ... R directions, but for constants.

    The Cholesky factor of the first directions is the corner of that of all, and so is its inverse: one of them tells for every number.
    """
    lower_RR = linalg.cholesky(covariance_RR, lower=True, check_finite=False)
    half_RR = linalg.solve_triangular(lower_RR, sum_RR, lower=True, check_finite=False)
    squares_R = np.diag(linalg.solve_triangular(lower_RR, half_RR.T, lower=True, check_finite=False))
    found: np.ndarray = np.cumsum(-0.5 * (2.0 * count * np.log(np.diag(lower_RR)) + squares_R))
    return found
