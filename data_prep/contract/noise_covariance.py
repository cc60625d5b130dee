"""The noise of single trials, from differences between repetitions of a stimulus, and what makes it white.

Shapes in names: R repetitions, C channels, T time points, D features of a flattened trial, M stimuli, P eigenvalues.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy import linalg

from data_prep.contract.block_sums import BLOCK, gram


def within_covariance(repetitions: Iterable[np.ndarray] | None, width: int, basis: np.ndarray | None) -> tuple[np.ndarray, int]:
    """Covariance of single repetitions about their stimulus' mean, float64 (width, width), and its degrees of freedom.

    Parameters
    ----------
    repetitions
        Arrays (reps, chans, times) of one stimulus each, or (m, reps, chans, times), in any order, read once; None: there are none.
    width
        Features of a trial, or columns of ``basis``.
    basis
        (D, width) onto which trials are projected.
    """
    covariance, freedom = np.zeros((width, width)), 0
    rows: list[np.ndarray] = []
    waiting = 0

    def flush() -> None:
        nonlocal covariance, waiting
        if rows:
            block = np.concatenate(rows)
            covariance += gram((block if basis is None else block @ basis).T)
            rows.clear()
            waiting = 0

    for part in () if repetitions is None else repetitions:
        eeg = np.asarray(part, np.float32)
        eeg_MRD = eeg.reshape((1, len(eeg), -1) if eeg.ndim == 3 else (*eeg.shape[:2], -1))
        m, reps, _ = eeg_MRD.shape
        if reps < 2:
            continue
        for start in range(0, m, max(1, BLOCK // reps)):
            piece = eeg_MRD[start : start + max(1, BLOCK // reps)]
            rows.append((piece - piece.mean(1, keepdims=True)).reshape(-1, piece.shape[2]))
            waiting += len(rows[-1])
            if waiting >= BLOCK:
                flush()
        freedom += m * (reps - 1)
    flush()
    return covariance / max(freedom, 1), freedom


def whitener(covariance: np.ndarray, freedom: int) -> np.ndarray:
    """Matrix that makes data of this sample covariance white, its eigenvalues corrected for their ``freedom``."""
    values, vectors = linalg.eigh(covariance, check_finite=False)
    # A reference or an interpolated channel leaves directions without noise; they carry no signal either.
    keep = values > values[-1] * 1e-9 if len(values) <= freedom else np.arange(len(values)) >= 0
    whitening: np.ndarray = vectors[:, keep] / np.sqrt(_shrink(values[keep], freedom))
    return whitening


def _shrink(values_P: np.ndarray, freedom: int) -> np.ndarray:
    """Analytical nonlinear shrinkage of ascending sample eigenvalues (Ledoit & Wolf 2020, Annals of Statistics 48, section 4.7).

    Linear shrinkage would lift the quiet directions, in which most of what identifies a stimulus lies, to the loud ones' level.
    """
    p, n = len(values_P), freedom
    lam = values_P[max(0, p - n) :]
    h, root5, ratio = n ** (-1 / 3), np.sqrt(5.0), p / n
    width = h * lam[None, :]
    x = (lam[:, None] - lam[None, :]) / width
    density = (0.75 / root5 * np.maximum(1 - x**2 / 5, 0) / width).mean(1)
    near = np.isclose(np.abs(x), root5)
    logs = np.log(np.abs((root5 - np.where(near, 0, x)) / (root5 + np.where(near, 0, x))))
    kernel = -0.3 / np.pi * x + np.where(near, 0, 0.75 / root5 / np.pi * (1 - x**2 / 5) * logs)
    hilbert = (kernel / width).mean(1)
    if p <= n:
        shrunk: np.ndarray = lam / ((np.pi * ratio * lam * density) ** 2 + (1 - ratio - np.pi * ratio * lam * hilbert) ** 2)
        return shrunk
    log0 = np.log((1 + root5 * h) / (1 - root5 * h))
    hilbert0 = (0.3 / h**2 + 0.75 / root5 / h * (1 - 0.2 / h**2) * log0) / np.pi * (1 / lam).mean()
    return np.concatenate([np.full(p - n, 1 / (np.pi * (p - n) / n * hilbert0)), lam / (np.pi**2 * lam**2 * (density**2 + hilbert**2))])
