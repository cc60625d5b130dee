"""From embeddings to scores to ranks: what the simulator's ceiling, the baselines and every evaluation count by; float64, NaN refused.

Among tied scores a rank is its mean over all orders of the tied: a scorer that cannot tell candidates apart is not rewarded for
the order in which they happen to stand.

Q: queries, G: candidates of the gallery, E: embedding dimension.
"""

from __future__ import annotations

import numpy as np

from data_prep.contract.errors import UserError


def check_scores(scores_QG: np.ndarray) -> np.ndarray:
    """``scores_QG`` as float64.

    Raises
    ------
    UserError
        Not two-dimensional, no candidate, or a value that is NaN.
    """
    scores_QG = np.asarray(scores_QG, dtype=np.float64)
    if scores_QG.ndim != 2 or 0 in scores_QG.shape:
        raise UserError(f"scores have shape {scores_QG.shape}, expected (queries, candidates), at least one of each")
    if np.isnan(scores_QG).any():
        row, column = np.argwhere(np.isnan(scores_QG))[0]
        raise UserError(f"scores hold NaN (first at query {row}, candidate {column}): expected numbers")
    return scores_QG


def check_relevant(scores_QG: np.ndarray, relevant_QG: np.ndarray) -> np.ndarray:
    """``relevant_QG`` as bool.

    Raises
    ------
    UserError
        Another shape than ``scores_QG``, or a query without a relevant candidate.
    """
    relevant_QG = np.asarray(relevant_QG, dtype=bool)
    if relevant_QG.shape != scores_QG.shape:
        raise UserError(f"relevance has shape {relevant_QG.shape}, scores {scores_QG.shape}: expected the same")
    lacking = np.flatnonzero(~relevant_QG.any(axis=1))
    if len(lacking):
        raise UserError(f"query {int(lacking[0])} has no relevant candidate in the gallery")
    return relevant_QG


def cosine_similarity(a_QE: np.ndarray, b_GE: np.ndarray) -> np.ndarray:
    """Cosine of every row of ``a_QE`` with every row of ``b_GE``: float64 (Q, G).

    Raises
    ------
    UserError
        Not two-dimensional, or a row that is zero, NaN or infinite.
    """
    units = []
    for name, rows in (("first", a_QE), ("second", b_GE)):
        rows = np.asarray(rows, dtype=np.float64)
        if rows.ndim != 2 or 0 in rows.shape:
            raise UserError(f"the {name} embeddings have shape {rows.shape}, expected (rows, dimensions), at least one of each")
        if np.isnan(rows).any():
            raise UserError(f"the {name} embeddings hold NaN (first in row {int(np.argwhere(np.isnan(rows))[0][0])}): expected numbers")
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        lacking = np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))
        if len(lacking):
            raise UserError(f"row {int(lacking[0])} of the {name} embeddings has no direction (norm {norms[lacking[0], 0]:g})")
        units.append(rows / norms)
    cosine_QG: np.ndarray = units[0] @ units[1].T
    return cosine_QG


def retrieval_ranks(scores_QG: np.ndarray, relevant_QG: np.ndarray) -> np.ndarray:
    """Rank (from 1) of each query's first relevant candidate; where it is tied, the mean of it over all orders of the tied.

    With one relevant candidate that is the mean of the ranks that the tied ones occupy; with r relevant and m irrelevant ones
    tied, the first relevant one stands m / (r + 1) places behind those that score higher, on average.

    Parameters
    ----------
    scores_QG
        Higher is better.
    relevant_QG
        bool; at least one relevant candidate a query.
    """
    scores_QG = check_scores(scores_QG)
    relevant_QG = check_relevant(scores_QG, relevant_QG)
    best_Q1 = np.where(relevant_QG, scores_QG, -np.inf).max(axis=1, keepdims=True)
    tied_QG = scores_QG == best_Q1
    tied_irrelevant_Q, tied_relevant_Q = (tied_QG & ~relevant_QG).sum(axis=1), (tied_QG & relevant_QG).sum(axis=1)
    rank_Q: np.ndarray = 1.0 + (scores_QG > best_Q1).sum(axis=1) + tied_irrelevant_Q / (tied_relevant_Q + 1)
    return rank_Q


def top_k(scores_QG: np.ndarray, target_Q: np.ndarray, k: int) -> float:
    """Share of queries whose target (a column) has a mean rank within ``k``."""
    scores_QG = check_scores(scores_QG)
    relevant_QG = np.zeros(scores_QG.shape, dtype=bool)
    relevant_QG[np.arange(len(scores_QG)), target_Q] = True
    return float((retrieval_ranks(scores_QG, relevant_QG) <= k).mean())
