"""From embeddings to scores to ranks: what the simulator's ceiling, the baselines and every evaluation count by; float64, NaN refused.

Among tied scores a rank is its mean over all orders of the tied: a scorer that cannot tell candidates apart is not rewarded for
the order in which they happen to stand.

Q: queries, G: candidates of the gallery, E: embedding dimension.
"""

from __future__ import annotations

import numpy as np

from data_prep.contract.errors import UserError
from data_prep.contract.row_products import cut_rows, row_blocks, row_products

FIRST, SECOND = "the first embeddings", "the second embeddings"
"""What an error calls the rows whose cosines are asked for."""


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
    """Cosine of every row of ``a_QE`` with every row of ``b_GE``: float64 (Q, G), each a function of its two rows alone.

    Raises
    ------
    UserError
        Not two-dimensional, or a row that is zero, NaN or infinite.
    """
    return row_products(cut_rows(a_QE, FIRST, unit=True), cut_rows(b_GE, SECOND, unit=True))


def ranks_among(query_QE: np.ndarray, gallery_GE: np.ndarray, query_Q: np.ndarray, gallery_G: np.ndarray) -> np.ndarray:
    """:func:`retrieval_ranks` by cosine, of queries ``query_Q`` among candidates ``gallery_G``; relevant is what is equal: float64 (Q,).

    Some queries at a time: no matrix of all scores is ever in memory.

    Raises
    ------
    UserError
        A row that is zero, NaN or infinite, or a query whose own candidate is not in the gallery.
    """
    left, right = cut_rows(query_QE, FIRST, unit=True), cut_rows(gallery_GE, SECOND, unit=True)
    blocks = row_blocks(len(left), len(right))
    return np.concatenate([retrieval_ranks(row_products(left[rows], right), query_Q[rows, None] == gallery_G) for rows in blocks])


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


def within(scores_QG: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Candidates whose mean rank is at most ``k``, fewer than ``2 * k`` a query.

    Returns
    -------
    (query_P, candidate_P)
        One pair a candidate, by query.
    """
    scores_QG = check_scores(scores_QG)
    place = max(0, scores_QG.shape[1] - k)
    last_Q1 = np.partition(scores_QG, place, axis=1)[:, place, None]
    better_QG, tied_QG = scores_QG > last_Q1, scores_QG == last_Q1
    # The tied ones share the places from the last one on: they are within k if the middle of these is.
    tied_QG &= better_QG.sum(axis=1, keepdims=True) + (tied_QG.sum(axis=1, keepdims=True) + 1) / 2 <= k
    query_P, candidate_P = np.nonzero(better_QG | tied_QG)
    return query_P, candidate_P


def top_k(scores_QG: np.ndarray, target_Q: np.ndarray, k: int) -> float:
    """Share of queries whose target (a column) has a mean rank within ``k``."""
    scores_QG = check_scores(scores_QG)
    relevant_QG = np.zeros(scores_QG.shape, dtype=bool)
    relevant_QG[np.arange(len(scores_QG)), target_Q] = True
    return float((retrieval_ranks(scores_QG, relevant_QG) <= k).mean())
