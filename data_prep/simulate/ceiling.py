"""The best possible identification of simulated trials, whoever decodes them.

The noise is Gaussian with known covariance and the noiseless responses are known, so the Bayes-optimal decoder (equal
priors over the gallery) picks the nearest response where the noise is white. Its accuracy over fresh noise is the ceiling.
Shapes in names: G gallery stimuli, W white dimensions, Q queries.
"""

from __future__ import annotations

import numpy as np

from data_prep.contract.ranking import top_k
from data_prep.simulate.forward import Noise

REPETITIONS = (1, 2, 5, 10, 20, 40, 80)


def identification_ceiling(
    signal_GCT: np.ndarray, noise: Noise, *, repetitions: tuple[int, ...], draws: int, seed: int
) -> list[dict[str, float | int]]:
    """Top-1 and top-5 of the Bayes-optimal decoder for averages over each number of repetitions, by Monte Carlo.

    Parameters
    ----------
    signal_GCT
        Noiseless response to each candidate (g, chans, times).
    draws
        Averages drawn of each candidate.

    Returns
    -------
    list of dict
        ``repetitions, top1, top5``.
    """
    white_GW = noise.whiten(signal_GCT)
    white_GW -= white_GW.mean(0)
    gram_GG = white_GW @ white_GW.T
    values, vectors = np.linalg.eigh(gram_GG)
    root_GG = vectors * np.sqrt(np.maximum(values, 0.0))  # noise projected on the responses has covariance gram
    rng = np.random.default_rng([seed, 30])
    own = np.arange(len(gram_GG))
    rows: list[dict[str, float | int]] = []
    for n in repetitions:
        top1, top5 = [], []
        for _ in range(draws):
            scores_QG = gram_GG + rng.standard_normal(gram_GG.shape) @ root_GG.T / np.sqrt(n) - 0.5 * np.diag(gram_GG)
            top1.append(top_k(scores_QG, own, 1))
            top5.append(top_k(scores_QG, own, 5))
        rows.append({"repetitions": n, "top1": round(float(np.mean(top1)), 4), "top5": round(float(np.mean(top5)), 4)})
    return rows


def oracle_scores(mean_QCT: np.ndarray, signal_GCT: np.ndarray, noise: Noise) -> np.ndarray:
    """Log-likelihood (q, g), up to a constant, of these very averages under each candidate's known response.

    Multiplying all noise by ``1 / n_reps`` changes no order, so the number of repetitions is not needed.
    """
    queries_QW, gallery_GW = noise.whiten(mean_QCT), noise.whiten(signal_GCT)
    scores_QG: np.ndarray = queries_QW @ gallery_GW.T - 0.5 * np.square(gallery_GW).sum(1)
    return scores_QG
