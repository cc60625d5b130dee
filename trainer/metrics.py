"""Retrieval and classification metrics: pure functions of score matrices, float64, NaN refused.

Every function returns one value a query, so that intervals can be made by resampling queries. Among tied scores a rank is
its mean over all orders of the tied: a scorer that cannot tell candidates apart is not rewarded for the order in which they
happen to stand. Recall@k asks whether that mean rank is within k. A query's values depend on its own scores alone: of some
queries they are the same digits as of all.

Q: queries, G: candidates of the gallery, P: pairs of a query and a candidate that counts for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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
    return _average_precision(_places(scores_QG, relevant_QG))


def ndcg(scores_QG: np.ndarray, relevance_QG: np.ndarray, k: int) -> np.ndarray:
    """Normalised discounted cumulative gain at ``k``, gain ``2**relevance - 1``, the ideal over the whole gallery.

    Tied candidates share the discounts of the places they occupy equally (McSherry & Najork 2008), as in scikit-learn.
    """
    scores_QG, relevance_QG = check_scores(scores_QG), np.asarray(relevance_QG)
    return _ndcg(_places(scores_QG, relevance_QG != 0), relevance_QG, k)


@dataclass(frozen=True)
class _Places:
    """Where the candidates that count stand, one entry a pair of a query and such a candidate (P), by query.

    All sums over a query's pairs are made in their order, so that they do not depend on the queries beside it.
    """

    shape: tuple[int, int]
    query_P: np.ndarray
    candidate_P: np.ndarray
    first_P: np.ndarray
    last_P: np.ndarray
    """The places, from 1, that the candidate and those tied with it occupy."""

    def where(self, chosen_P: np.ndarray) -> _Places:
        return _Places(self.shape, *(array[chosen_P] for array in (self.query_P, self.candidate_P, self.first_P, self.last_P)))

    def sum_Q(self, value_P: np.ndarray | None = None) -> np.ndarray:
        """Sum over each query's pairs, or their number."""
        return np.bincount(self.query_P, weights=value_P, minlength=self.shape[0])

    def order_Q(self, key_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pairs by query and ascending key, and the place (from 0) of each within its query."""
        order_P = np.lexsort((key_P, self.query_P))
        count_Q = self.sum_Q()
        return order_P, np.arange(len(order_P)) - np.repeat(np.cumsum(count_Q) - count_Q, count_Q)


def _places(scores_QG: np.ndarray, chosen_QG: np.ndarray) -> _Places:
    num_candidates = scores_QG.shape[1]
    query_P, candidate_P = np.nonzero(chosen_QG)
    score_P = scores_QG[query_P, candidate_P]
    below_P, up_to_P = np.empty(len(query_P), np.int64), np.empty(len(query_P), np.int64)
    end_Q = np.cumsum(np.bincount(query_P, minlength=len(scores_QG))).tolist()
    for start, end, ascending_G in zip([0, *end_Q], end_Q, np.sort(scores_QG, axis=1), strict=False):
        below_P[start:end] = ascending_G.searchsorted(score_P[start:end], "left")
        up_to_P[start:end] = ascending_G.searchsorted(score_P[start:end], "right")
    return _Places(scores_QG.shape, query_P, candidate_P, num_candidates - up_to_P + 1, num_candidates - below_P)


def _average_precision(relevant: _Places) -> np.ndarray:
    order_P, place_P = relevant.order_Q(relevant.first_P)
    sorted_query_P, sorted_first_P = relevant.query_P[order_P], relevant.first_P[order_P]
    # The tied ones stand side by side now: their mean place among the relevant is that of the first and the last of them.
    new_P = np.r_[True, (np.diff(sorted_query_P) != 0) | (np.diff(sorted_first_P) != 0)]
    start_T = np.flatnonzero(new_P)
    size_T = np.diff(np.r_[start_T, len(new_P)])
    among_P = np.empty(len(order_P))
    among_P[order_P] = np.repeat(place_P[start_T] + (size_T + 1) / 2, size_T)
    precision_P = among_P / ((relevant.first_P + relevant.last_P) / 2)
    precision_Q: np.ndarray = relevant.sum_Q(precision_P) / relevant.sum_Q()
    return precision_Q


def _ndcg(places: _Places, relevance_QG: np.ndarray, k: int) -> np.ndarray:
    gain_P = np.exp2(relevance_QG[places.query_P, places.candidate_P].astype(np.float64)) - 1
    discount_G = 1.0 / np.log2(np.arange(places.shape[1]) + 2.0)
    discount_G[k:] = 0.0
    order_P, place_P = places.order_Q(-gain_P)
    ideal_Q = np.bincount(places.query_P, weights=gain_P[order_P] * discount_G[place_P], minlength=places.shape[0])
    if (ideal_Q <= 0).any():
        raise UserError(f"query {int(np.flatnonzero(ideal_Q <= 0)[0])} has no relevant candidate in the gallery")
    cumulative = np.concatenate([[0.0], np.cumsum(discount_G)])
    # A candidate tied in places first..last gets the mean discount of these places.
    mean_discount_P = (cumulative[places.last_P] - cumulative[places.first_P - 1]) / (places.last_P - places.first_P + 1)
    found_Q: np.ndarray = places.sum_Q(gain_P * mean_discount_P) / ideal_Q
    return found_Q


def relevance(stimulus_Q: np.ndarray, concept_Q: np.ndarray, stimulus_G: np.ndarray, concept_G: np.ndarray) -> np.ndarray:
    """2 for the same stimulus, 1 for the same concept, else 0: int8 (Q, G)."""
    same_concept_QG = np.asarray(concept_Q)[:, None] == np.asarray(concept_G)[None, :]
    same_stimulus_QG = np.asarray(stimulus_Q)[:, None] == np.asarray(stimulus_G)[None, :]
    return np.where(same_stimulus_QG, np.int8(2), same_concept_QG.astype(np.int8))


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
    scores_QG, relevance_QG = check_scores(scores_QG), np.asarray(relevance_QG)
    ranks_Q = retrieval_ranks(scores_QG, relevance_QG == 2)
    places = _places(scores_QG, relevance_QG != 0)
    exact = places.where(relevance_QG[places.query_P, places.candidate_P] == 2)
    found = {f"recall@{k}": recall_at(ranks_Q, k) for k in CUTOFFS}
    found |= {"rank": ranks_Q, "mrr": reciprocal_rank(ranks_Q), "map": _average_precision(exact)}
    return found | {f"ndcg@{k}": _ndcg(places, relevance_QG, k) for k in CUTOFFS}


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
    _, place_Q, count = np.unique(scores_Q, return_inverse=True, return_counts=True)
    rank_sum = (count.cumsum() - (count - 1) / 2)[place_Q][positive_Q].sum()  # ties have their mean rank
    return float((rank_sum - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative))


def balanced_accuracy(predicted_Q: np.ndarray, true_Q: np.ndarray) -> float:
    """Mean over the classes of the share of their trials that are named rightly."""
    predicted_Q, true_Q = np.asarray(predicted_Q), np.asarray(true_Q)
    if len(true_Q) == 0:
        raise UserError("no trials: expected at least one")
    return float(np.mean([(predicted_Q[true_Q == label] == label).mean() for label in np.unique(true_Q)]))
