"""Intervals by the bootstrap and a null by permutation: pure functions of per-query scores, seeded.

The bootstrap resamples queries with the gallery fixed: it says how far the score would move with other test trials, not
with another gallery or another training seed. Across subjects it resamples subjects and stimuli, since both are drawn.
Resamples are drawn in blocks, once for all scores that are compared.
The permutation null asks whether scores are above chance; it cannot see leakage.

Q: queries, G: candidates, N: resamples, M: kinds of score, K: classes.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from data_prep.contract.errors import UserError
from data_prep.contract.row_products import cut_rows, row_products

Name = TypeVar("Name", bound=Hashable)

_RESAMPLES_A_BLOCK = 64


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean with its percentile interval."""

    value: float
    low: float | None
    high: float | None
    """None: there is nothing to resample, as of a single query; an interval of no width would claim certainty."""


def bootstrap_means(
    values: Mapping[Name, np.ndarray],
    *,
    stimulus_Q: np.ndarray | None = None,
    subject_Q: np.ndarray | None = None,
    num_resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[Name, Interval]:
    """Means of per-query scores with percentile intervals, all from the same resamples.

    With more than one subject, subjects and stimuli are resampled independently and a query counts as often as both of
    its own were drawn (two-way bootstrap, Owen 2007); otherwise queries of the same stimulus are drawn together. An interval
    depends on its own scores, labels and the seed alone: the same digits alone and among others.
    """
    if not values:
        return {}
    values_MQ = np.stack([np.asarray(value_Q, dtype=np.float64) for value_Q in values.values()])
    num_queries = values_MQ.shape[1]
    if num_queries == 0:
        raise UserError("no queries: expected at least one")
    cut_MQ = cut_rows(values_MQ)
    means = []
    for weights_NQ in resample_weights(num_queries, stimulus_Q=stimulus_Q, subject_Q=subject_Q, num_resamples=num_resamples, seed=seed):
        totals_N = weights_NQ.sum(axis=1)
        drawn_N = totals_N > 0  # subjects x stimuli may draw no query at all
        means.append(row_products(cut_rows(weights_NQ[drawn_N]), cut_MQ) / totals_N[drawn_N, None])
    draws_MN = np.concatenate(means).T
    return {
        name: _interval(float(value_Q.mean()), draws_N, level) for name, value_Q, draws_N in zip(values, values_MQ, draws_MN, strict=True)
    }


def bootstrap_class_means(
    values: Mapping[Name, np.ndarray],
    class_Q: np.ndarray,
    *,
    stimulus_Q: np.ndarray | None = None,
    subject_Q: np.ndarray | None = None,
    num_resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[Name, Interval]:
    """Means over classes of each class's mean score (of hits: balanced accuracy), resampled as by :func:`bootstrap_means`.

    A class of which a resample has no query is left out of that resample's mean.
    """
    number_Q, num_queries = np.unique(class_Q, return_inverse=True)[1].reshape(-1), len(class_Q)
    if num_queries == 0:
        raise UserError("no queries: expected at least one")
    order_Q = np.argsort(number_Q, kind="stable")
    start_K = np.searchsorted(number_Q[order_Q], np.arange(number_Q.max() + 1))
    ordered = {name: np.asarray(value_Q, dtype=np.float64)[order_Q] for name, value_Q in values.items()}

    def class_means(weights_NQ: np.ndarray, value_Q: np.ndarray, totals_NK: np.ndarray) -> np.ndarray:
        drawn_NK = totals_NK > 0
        sums_NK = np.add.reduceat(weights_NQ * value_Q, start_K, axis=1)
        means_NK = np.divide(sums_NK, totals_NK, out=np.zeros_like(sums_NK), where=drawn_NK)
        means_N: np.ndarray = means_NK.sum(axis=1) / drawn_NK.sum(axis=1)
        return means_N

    draws: dict[Name, list[np.ndarray]] = {name: [] for name in values}
    for weights_NQ in resample_weights(num_queries, stimulus_Q=stimulus_Q, subject_Q=subject_Q, num_resamples=num_resamples, seed=seed):
        weights_NQ = weights_NQ[weights_NQ.any(axis=1)][:, order_Q]
        totals_NK = np.add.reduceat(weights_NQ, start_K, axis=1)
        for name, value_Q in ordered.items():
            draws[name].append(class_means(weights_NQ, value_Q, totals_NK))
    once_1Q = np.ones((1, num_queries))
    sizes_1K = np.add.reduceat(once_1Q, start_K, axis=1)
    return {
        name: _interval(float(class_means(once_1Q, value_Q, sizes_1K)[0]), np.concatenate(draws[name]), level)
        for name, value_Q in ordered.items()
    }


def bootstrap_statistic(
    statistic: Callable[[np.ndarray], float], groups_Q: np.ndarray, *, num_resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Any statistic of chosen queries (an AUC, say) with a percentile interval; queries are resampled within groups.

    Parameters
    ----------
    statistic
        From query numbers (with repeats) to a number.
    groups_Q
        Group of every query; each group keeps its size, such as the trials of a class in a recording.
    """
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(groups_Q == group) for group in np.unique(groups_Q)]
    draws_N = [statistic(np.concatenate([rng.choice(rows, len(rows)) for rows in members])) for _ in range(num_resamples)]
    varies = any(len(rows) > 1 for rows in members)
    return _interval(statistic(np.arange(len(groups_Q))), np.asarray(draws_N if varies else []), level)


def resample_weights(
    num_queries: int,
    *,
    stimulus_Q: np.ndarray | None = None,
    subject_Q: np.ndarray | None = None,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Iterator[np.ndarray]:
    """How often each query counts in each resample, as :func:`bootstrap_means` draws them: float64 (some of N, Q), block by block.

    For statistics that are no mean: multiply by per-query sums of whatever the statistic is made of. Everything that is
    multiplied by the same weights is compared pairwise. Stimuli and subjects have a random stream each, so that the resamples
    do not depend on the size of a block. Of a single stimulus and subject there are none.
    """
    stimuli = _Labels(np.arange(num_queries) if stimulus_Q is None else stimulus_Q, np.random.SeedSequence(seed))
    people = None
    if subject_Q is not None and len(np.unique(subject_Q)) > 1:
        people = _Labels(subject_Q, np.random.SeedSequence(seed).spawn(1)[0])
    if stimuli.num_labels < 2 and people is None:
        yield np.empty((0, num_queries))  # nothing can be drawn in another's place
        return
    for start in range(0, num_resamples, _RESAMPLES_A_BLOCK):
        size = min(_RESAMPLES_A_BLOCK, num_resamples - start)
        weights_NQ = stimuli.counts(size)
        if people is not None:
            weights_NQ *= people.counts(size)
        yield weights_NQ


def permutation_p_value(
    statistic: Callable[[np.ndarray], float], num_labels: int, *, num_permutations: int = 1000, seed: int = 0
) -> tuple[float, np.ndarray]:
    """p = (1 + b) / (1 + m) of a statistic under permuted labels, b of m permutations reaching the observed value.

    Parameters
    ----------
    statistic
        From a permutation of ``range(num_labels)`` (of gallery stimuli, the same one for every subject) to the score under it.

    Raises
    ------
    UserError
        Fewer than two labels.

    Returns
    -------
    (p, null)
        The p-value and the scores of all permutations.
    """
    if num_labels < 2:
        raise UserError(f"{num_labels} labels to permute, expected at least 2: under every permutation the score is the observed one")
    rng = np.random.default_rng(seed)
    observed = statistic(np.arange(num_labels))
    null = np.array([statistic(rng.permutation(num_labels)) for _ in range(num_permutations)])
    return (1 + int((null >= observed).sum())) / (1 + num_permutations), null


class _Labels:
    """Labels of queries that are drawn with replacement, resample after resample of one random stream."""

    def __init__(self, label_Q: np.ndarray, seed: np.random.SeedSequence) -> None:
        labels, number_Q = np.unique(label_Q, return_inverse=True)
        self.num_labels, self.number_Q = len(labels), number_Q.reshape(-1)
        self.rng = np.random.default_rng(seed)

    def counts(self, num_resamples: int) -> np.ndarray:
        """How often each query's label was drawn: float64 (N, Q)."""
        drawn = self.rng.multinomial(self.num_labels, np.full(self.num_labels, 1 / self.num_labels), size=num_resamples)
        return drawn.astype(np.float64)[:, self.number_Q]


def _interval(value: float, draws_N: np.ndarray, level: float) -> Interval:
    if not len(draws_N):
        return Interval(value=value, low=None, high=None)
    low, high = np.quantile(draws_N, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value=value, low=float(low), high=float(high))
