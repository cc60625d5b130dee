"""Two closed-form baselines: ridge regression from EEG to the embedding, and the Gaussian encoding model.

*Ridge* predicts the embedding from the flattened EEG; the penalty is chosen by generalised cross-validation, which the
eigenvalues give for every penalty at once.

*Encoding model* (identification as in Kay et al. 2008, doi:10.1038/nature06713): the embedding's leading components predict
the EEG; a trial is assigned to the candidate whose predicted EEG makes it most likely. The covariance has two parts,
estimated apart: noise within a stimulus, which averaging n repetitions divides by n, and lack of fit, which it does not.

numpy and scipy only, pure functions, the same result for the same input.

Shapes in names: N training stimuli, Q queries, G gallery, C channels, T time points, D features of a flattened trial,
E embedding dimensions, K components, R repetitions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import linalg

from data_prep.contract.block_sums import gram, leading_directions, mean_of, product
from data_prep.contract.errors import UserError
from data_prep.contract.noise_covariance import whitener, within_covariance
from data_prep.contract.row_products import CutRows, cut_rows, row_products

ALPHAS = tuple(float(a) for a in np.logspace(-4, 4, 25))
"""Ridge penalties tried, in units of the mean eigenvalue of the features' covariance."""
MAX_FEATURES = 4096
"""Above this many features (63 channels x 250 points), data are first projected onto their leading principal directions."""


# ------------------------------------------------------------------------------------------------------------ ridge


@dataclass(frozen=True, kw_only=True)
class Ridge:
    """A fitted ridge regression; see :func:`fit_ridge`."""

    mean_D: np.ndarray
    weights_DE: np.ndarray
    intercept_E: np.ndarray
    alpha: float
    """The penalty chosen, in units of the mean eigenvalue of the features' covariance."""

    def predict(self, x_ND: np.ndarray) -> np.ndarray:
        """Predicted targets, float32 (n, e), of x (n, d), or of EEG (n, chans, times) which is flattened."""
        x = x_ND.reshape(len(x_ND), -1)
        if x.shape[1] != len(self.mean_D):
            raise UserError(f"x has {x.shape[1]} features, the regression was fitted on {len(self.mean_D)}")
        predicted_NE: np.ndarray = ((x - self.mean_D) @ self.weights_DE + self.intercept_E).astype(np.float32)
        return predicted_NE


def fit_ridge(x_ND: np.ndarray, y_NE: np.ndarray, *, alphas: Sequence[float] = ALPHAS) -> Ridge:
    """Ridge regression with an unpenalised intercept, one penalty for all targets by generalised cross-validation.

    Parameters
    ----------
    x_ND
        Features (n, d), or EEG averaged over repetitions (n, chans, times), which is flattened. More than
        :data:`MAX_FEATURES` features and stimuli: projected onto their leading principal directions first.
    y_NE
        Targets (n, e).
    alphas
        Penalties to choose from, in units of the mean eigenvalue of the covariance of x.

    Raises
    ------
    ValueError
        Rows that do not match, fewer than three, or values that are not finite.
    """
    x = np.asarray(x_ND, np.float32).reshape(len(x_ND), -1)
    y = np.asarray(y_NE, np.float32)
    _check_rows(x, y)
    mean_D, mean_E = mean_of(x), mean_of(y)
    x, y = x - mean_D, y - mean_E
    basis = leading_directions(x) if min(x.shape) > MAX_FEATURES else None
    if basis is not None:
        x = x @ basis
    n, d = x.shape
    if n >= d:
        values, vectors = linalg.eigh(gram(x.T), overwrite_a=True, check_finite=False)
        projected = vectors.T @ product(x.T, y)  # V' X' Y
        squares = np.square(projected).sum(1) / np.maximum(values, values[-1] * 1e-12)  # ||U' Y||^2 by direction
    else:
        values, vectors = linalg.eigh(gram(x), overwrite_a=True, check_finite=False)
        projected = vectors.T @ y.astype(np.float64)  # U' Y
        squares = np.square(projected).sum(1)
    values = np.maximum(values, 0.0)
    unit = values.sum() / max(d, 1)
    total = float(np.square(y, dtype=np.float64).sum())
    alpha = min(alphas, key=lambda a: _gcv(values, squares, total, n, a * unit))
    penalty = alpha * unit
    if n >= d:
        weights = vectors @ (projected / (values + penalty)[:, None])
    else:
        weights = product(x.T, vectors @ (projected / (values + penalty)[:, None]))
    weights = weights.astype(np.float32)
    return Ridge(mean_D=mean_D, weights_DE=weights if basis is None else basis @ weights, intercept_E=mean_E, alpha=float(alpha))


def _gcv(values: np.ndarray, squares: np.ndarray, total: float, n: int, penalty: float) -> float:
    shrink = values / (values + penalty)
    residual = total - float(((2 * shrink - shrink**2) * squares).sum())
    freedom = 1.0 - (float(shrink.sum()) + 1.0) / n  # the intercept takes one
    return residual / freedom**2 if freedom > 1e-6 else np.inf


# --------------------------------------------------------------------------------------------------- encoding model


@dataclass(frozen=True, kw_only=True)
class EncodingModel:
    """A fitted Gaussian encoding model; see :func:`fit_encoding_model`.

    In the coordinates of ``to_white_DW`` the noise of one repetition is the identity and lack of fit is ``diag(lack_W)``.
    """

    mean_D: np.ndarray
    to_white_DW: np.ndarray
    embedding_mean_E: np.ndarray
    components_EK: np.ndarray
    """Embedding, less its mean, to what predicts: standardised leading components, say."""
    weights_KW: np.ndarray
    lack_W: np.ndarray
    """Variance of lack of fit by direction, in units of one repetition's noise."""

    def in_features(self, basis_DW: np.ndarray) -> EncodingModel:
        """The same model for EEG that was projected onto the orthonormal columns of ``basis`` before it was fitted."""
        return replace(self, mean_D=basis_DW @ self.mean_D, to_white_DW=basis_DW @ self.to_white_DW)

    def log_likelihood(self, eeg_QCT: np.ndarray, n_reps_Q: np.ndarray | int, gallery_GE: np.ndarray) -> np.ndarray:
        """Log-likelihood of averaged EEG under every candidate, up to a constant a query.

        Parameters
        ----------
        eeg_QCT
            EEG of each query, averaged over its repetitions (q, chans, times).
        n_reps_Q
            How many repetitions each average holds (q,), or one number for all.
        gallery_GE
            Embeddings of the candidates (g, e).

        Returns
        -------
        numpy.ndarray
            float64 (q, g): the highest in a row is the model's answer.
        """
        n_reps = np.broadcast_to(np.asarray(n_reps_Q, np.float64), (len(eeg_QCT),))
        if (n_reps < 1).any():
            raise UserError(f"n_reps holds {n_reps.min()}, expected at least 1")
        queries = self.cut_queries(eeg_QCT)
        scores_QG = np.empty((len(queries), len(gallery_GE)))
        for n in np.unique(n_reps):
            candidates, offset_G = self.cut_candidates(gallery_GE, float(n))
            scores_QG[n_reps == n] = row_products(queries[n_reps == n], candidates) + offset_G
        return scores_QG

    def cut_queries(self, eeg_QCT: np.ndarray) -> CutRows:
        """Averaged EEG (q, chans, times) in the coordinates of ``to_white_DW``; the log-likelihood is their product with a candidate's
        row, and the candidate's offset: see :meth:`cut_candidates`."""
        x = np.asarray(eeg_QCT, np.float32).reshape(len(eeg_QCT), -1)
        if x.shape[1] != len(self.mean_D):
            raise UserError(f"EEG has {x.shape[1]} features, the model was fitted on {len(self.mean_D)}")
        return cut_rows((x - self.mean_D) @ self.to_white_DW)

    def cut_candidates(self, gallery_GE: np.ndarray, n_reps: float) -> tuple[CutRows, np.ndarray]:
        """Rows (g, w) and offsets (g,) of candidates for EEG averaged over ``n_reps`` repetitions; each of one candidate alone."""
        centred_GE = np.asarray(gallery_GE, np.float64) - self.embedding_mean_E
        components_GK = row_products(cut_rows(centred_GE), cut_rows(self.components_EK.T))
        candidates_GW = row_products(cut_rows(components_GK), cut_rows(self.weights_KW.T))
        weighted_GW = candidates_GW * (1.0 / (1.0 / n_reps + self.lack_W))
        return cut_rows(weighted_GW), -0.5 * (weighted_GW * candidates_GW).sum(axis=1)


def fit_encoding_model(
    eeg_mean_NCT: np.ndarray,
    target_NE: np.ndarray,
    n_reps_N: np.ndarray | int,
    repetitions: Iterable[np.ndarray] | None,
    *,
    num_components: Sequence[int] = (16, 32, 64, 128, 256),
    alphas: Sequence[float] = ALPHAS,
) -> EncodingModel:
    """Fit the Gaussian encoding model.

    The single-trial noise covariance comes from differences between repetitions of a stimulus, its eigenvalues corrected
    by analytical nonlinear shrinkage. Regression and lack of fit are computed where that noise is white: what the residuals
    have beyond ``noise / n_reps`` is lack of fit, kept only in directions above the Marchenko-Pastur edge and debiased
    (Donoho, Gavish & Johnstone 2018), so estimation noise is not taken for it.

    Parameters
    ----------
    eeg_mean_NCT
        Training EEG averaged over repetitions (n, chans, times), one row a stimulus (and subject).
    target_NE
        Embedding of each row's stimulus (n, e).
    n_reps_N
        Repetitions in each average (n,), or one number for all.
    repetitions
        The single repetitions: arrays (reps, chans, times) of one stimulus each, or (m, reps, chans, times), in any order, read
        once. None, or never two repetitions of a stimulus: the residuals are all taken for noise.
    num_components
        How many leading components of the embedding to choose from, by generalised cross-validation (with the penalty).
    alphas
        Penalties to choose from, relative to the components' unit variance times n.

    Raises
    ------
    ValueError
        Rows that do not match, fewer than three, or values that are not finite.
    """
    x = np.asarray(eeg_mean_NCT, np.float32).reshape(len(eeg_mean_NCT), -1)
    y = np.asarray(target_NE, np.float32)
    _check_rows(x, y)
    n_reps = np.broadcast_to(np.asarray(n_reps_N, np.float64), (len(x),))
    mean_D = mean_of(x)
    x = x - mean_D
    basis = leading_directions(x) if x.shape[1] > MAX_FEATURES else None
    if basis is not None:
        x = x @ basis
    scores_NK, components_EK, mean_E = leading_components(y, max(num_components))

    noise, freedom = within_covariance(repetitions, x.shape[1], basis)
    mean_noise = float((1.0 / n_reps).mean())
    if freedom == 0:  # no repetitions: what a first regression leaves is the noise, and nothing is lack of fit
        first = _regress(x, scores_NK, num_components, alphas)
        residual = x - scores_NK[:, : len(first)] @ first.astype(np.float32)
        noise, freedom = gram(residual.T) / mean_noise / len(x), len(x)
    to_white = whitener(noise, freedom)
    white_NW = x @ to_white.astype(np.float32)
    weights_KW = _regress(white_NW, scores_NK, num_components, alphas)
    k = len(weights_KW)
    residual = white_NW - scores_NK[:, :k] @ weights_KW.astype(np.float32)
    values, turn = linalg.eigh(gram(residual.T) / max(1, len(x) - k - 1), overwrite_a=True, check_finite=False)
    lack_W = _lack_of_fit(values, len(x) - k - 1, freedom, mean_noise)
    to_white = to_white @ turn
    return EncodingModel(
        mean_D=mean_D,
        to_white_DW=(to_white if basis is None else basis @ to_white).astype(np.float32),
        embedding_mean_E=mean_E,
        components_EK=components_EK[:, :k],
        weights_KW=weights_KW @ turn,
        lack_W=lack_W,
    )


def leading_components(y_NE: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Standardised principal components of the rows float32 (n, k), the matrix float64 (e, k) that gives them, and the mean (e,).

    ``(other - mean) @ matrix`` gives them for other rows. Fewer than ``most`` where the rows have no more (or only half as
    many rows: more components than that cannot be told from chance).
    """
    mean_E = mean_of(y_NE)
    centred = y_NE - mean_E
    n, e = centred.shape
    if n >= e:
        values, vectors_EK = linalg.eigh(gram(centred.T) / n, check_finite=False)
    else:
        values, vectors_NK = linalg.eigh(gram(centred) / n, check_finite=False)
        vectors_EK = centred.T @ (vectors_NK / np.sqrt(np.maximum(n * values, values[-1] * 1e-12)))
    keep = np.flatnonzero(values > values[-1] * 1e-9)[::-1][: min(most, n // 2)]
    components_EK = vectors_EK[:, keep] / np.sqrt(values[keep])
    return centred @ components_EK.astype(np.float32), components_EK, mean_E


def _regress(x_NW: np.ndarray, scores_NK: np.ndarray, num_components: Sequence[int], alphas: Sequence[float]) -> np.ndarray:
    """Ridge from the first k components to x, k and penalty by generalised cross-validation: weights (k, w)."""
    n, most = scores_NK.shape
    products_KW = product(scores_NK.T, x_NW)
    squares_K = np.square(products_KW).sum(1) / n  # the components are orthogonal with variance one
    total = float(np.square(x_NW, dtype=np.float64).sum())
    sizes = sorted({min(k, most) for k in num_components})
    k, alpha = min(
        ((k, a) for k in sizes for a in alphas), key=lambda c: _gcv(np.full(c[0], float(n)), squares_K[: c[0]], total, n, c[1] * n)
    )
    weights_KW: np.ndarray = products_KW[:k] / (n * (1.0 + alpha))
    return weights_KW


def _lack_of_fit(values_W: np.ndarray, freedom: int, noise_freedom: int, noise: float) -> np.ndarray:
    """Variance beyond ``noise`` by eigendirection of the residual covariance: a common floor and debiased spikes."""
    ratio, other = len(values_W) / max(freedom, 1), len(values_W) / max(noise_freedom, 1)
    # Where the noise that was made white is itself estimated the eigenvalues are those of an F matrix (Wachter's law).
    edge = ((1 + np.sqrt(ratio + other - ratio * other)) / (1 - other)) ** 2 if other < 0.5 else (1 + np.sqrt(ratio)) ** 2
    spikes = np.zeros(len(values_W), bool)
    bulk = noise
    for _ in range(10):
        bulk = max(noise, float(values_W[~spikes].sum()) / max(1, int((~spikes).sum())))
        found = values_W > 1.1 * bulk * edge
        if (found == spikes).all() or found.mean() > 0.5:
            break
        spikes = found
    middle = values_W / bulk + 1 - ratio
    debiased = 0.5 * bulk * (middle + np.sqrt(np.maximum(middle**2 - 4 * values_W / bulk, 0.0)))
    return np.where(spikes, np.maximum(debiased, bulk), bulk) - noise


# ------------------------------------------------------------------------------------------------- shared arithmetic


def _check_rows(x: np.ndarray, y: np.ndarray) -> None:
    if y.ndim != 2 or len(x) != len(y):
        raise UserError(f"{len(x)} rows of EEG and targets of shape {y.shape}: expected (n, e) with as many rows")
    if len(x) < 3:
        raise UserError(f"{len(x)} rows: expected at least 3")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise UserError("EEG or targets hold values that are not finite")
