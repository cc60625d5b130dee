"""Retrieval and classification metrics: pure functions of score matrices, float64, NaN refused.

Every function returns one value a query, so that intervals can be made by resampling queries. Among tied scores a rank is
its mean over all orders of the tied: a scorer that cannot tell candidates apart is not rewarded for the order in which they
happen to stand. Recall@k asks whether that mean rank is within k.

Q: queries, G: candidates of the gallery.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

from data_prep.contract.errors import UserError
from data_prep.contract.ranking import check_relevant, check_scores, retrieval_ranks

CUTOFFS = (1, 5, 10)
"""k of Recall@k and nDCG@k."""


def recall_at(ranks_Q: np.ndarray, k: int) -> np.ndarray:
    """1.0 where the (mean) rank is within ``k``, else 0.0."""
    return (np.asarray(ranks_Q) <= k).astype(np.float64)


def reciprocal_rank(ranks_Q: np.ndarray) -> np.ndarray:
    """1 / rank; its mean is the MRR."""
    return 1.0 / np.asarray(ranks_Q, dtype=np.float64)


def average_precision(scores_QG: np.ndarray, relevant_QG: np.ndarray) -> np.ndarray:
    """Average precision of every query; its mean is the mAP. Tied candidates take their mean rank, also among the relevant."""
    scores_QG = check_scores(scores_QG)
    relevant_QG = check_relevant(scores_QG, relevant_QG)
    ranks_QG = rankdata(-scores_QG, axis=1)
    precision_Q = np.empty(len(scores_QG))
    for query, (scores_G, relevant_G) in enumerate(zip(scores_QG, relevant_QG, strict=True)):
        among_relevant = rankdata(-scores_G[relevant_G])
        precision_Q[query] = (among_relevant / ranks_QG[query, relevant_G]).mean()
    return precision_Q


def ndcg(scores_QG: np.ndarray, relevance_QG: np.ndarray, k: int) -> np.ndarray:
    """Normalised discounted cumulative gain at ``k``, gain ``2**relevance - 1``, the ideal over the whole gallery.

    Tied candidates share the discounts of the places they occupy equally (McSherry & Najork 2008), as in scikit-learn.
    """
    scores_QG = check_scores(scores_QG)
    gains_QG = np.exp2(np.asarray(relevance_QG, dtype=np.float64)) - 1
    num_candidates = scores_QG.shape[1]
    discount_G = 1.0 / np.log2(np.arange(num_candidates) + 2.0)
    discount_G[k:] = 0.0
    ideal_Q = np.sort(gains_QG, axis=1)[:, ::-1] @ discount_G
    if (ideal_Q <= 0).any():
        raise UserError(f"query {int(np.flatnonzero(ideal_Q <= 0)[0])} has no relevant candidate in the gallery")
    cumulative = np.concatenate([[0.0], np.cumsum(discount_G)])
    # A candidate tied in places first..last gets the mean discount of these places.
    last_QG = rankdata(-scores_QG, method="max", axis=1).astype(np.int64)
    first_QG = rankdata(-scores_QG, method="min", axis=1).astype(np.int64)
    mean_discount_QG = (cumulative[last_QG] - cumulative[first_QG - 1]) / (last_QG - first_QG + 1)
    found_Q: np.ndarray = (gains_QG * mean_discount_QG).sum(axis=1) / ideal_Q
    return found_Q


def relevance(stimulus_Q: np.ndarray, concept_Q: np.ndarray, stimulus_G: np.ndarray, concept_G: np.ndarray) -> np.ndarray:
    """2 for the same stimulus, 1 for the same concept, else 0: int64 (Q, G)."""
    same_concept_QG = np.asarray(concept_Q)[:, None] == np.asarray(concept_G)[None, :]
    same_stimulus_QG = np.asarray(stimulus_Q)[:, None] == np.asarray(stimulus_G)[None, :]
    return np.where(same_stimulus_QG, 2, same_concept_QG.astype(np.int64))


def retrieval_metrics(scores_QG: np.ndarray, relevance_QG: np.ndarray) -> dict[str, np.ndarray]:
    """All retrieval metrics of a direction, one value a query.

    Parameters
    ----------
    scores_QG
        Higher is better.
    relevance_QG
        From :func:`relevance`; recall, rank, MRR and mAP count candidates of relevance 2.

    Returns
    -------
    ``recall@1/5/10``, ``rank``, ``mrr``, ``map``, ``ndcg@1/5/10``: float64 (Q,) each.
    """
    exact_QG = np.asarray(relevance_QG) == 2
    ranks_Q = retrieval_ranks(scores_QG, exact_QG)
    found = {f"recall@{k}": recall_at(ranks_Q, k) for k in CUTOFFS}
    found |= {"rank": ranks_Q, "mrr": reciprocal_rank(ranks_Q), "map": average_precision(scores_QG, exact_QG)}
    return found | {f"ndcg@{k}": ndcg(scores_QG, relevance_QG, k) for k in CUTOFFS}


def auc(scores_Q: np.ndarray, positive_Q: np.ndarray) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties counting one half.

    Raises
    ------
    ValueError
        A NaN score, or only one class.
    """
    scores_Q, positive_Q = np.asarray(scores_Q, dtype=np.float64), np.asarray(positive_Q, dtype=bool)
    if np.isnan(scores_Q).any():
        raise UserError(f"scores hold NaN (first at trial {int(np.flatnonzero(np.isnan(scores_Q))[0])}): expected numbers")
    num_positive, num_negative = int(positive_Q.sum()), int((~positive_Q).sum())
    if num_positive == 0 or num_negative == 0:
        raise UserError(f"{num_positive} positive and {num_negative} negative trials: expected at least one of each")
    rank_sum = rankdata(scores_Q)[positive_Q].sum()
    return float((rank_sum - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative))


def balanced_accuracy(predicted_Q: np.ndarray, true_Q: np.ndarray) -> float:
    """Mean over the classes of the share of their trials that are named rightly."""
    predicted_Q, true_Q = np.asarray(predicted_Q), np.asarray(true_Q)
    if len(true_Q) == 0:
        raise UserError("no trials: expected at least one")
    return float(np.mean([(predicted_Q[true_Q == label] == label).mean() for label in np.unique(true_Q)]))
