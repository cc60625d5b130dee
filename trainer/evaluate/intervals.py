"""Intervals by the bootstrap and a null by permutation: pure functions of per-query scores, seeded.

The bootstrap resamples queries with the gallery fixed: it says how far the score would move with other test trials, not
with another gallery or another training seed. Across subjects it resamples subjects and stimuli, since both are drawn.
The permutation null asks whether scores are above chance; it cannot see leakage.

Q: queries, G: candidates, N: resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from data_prep.contract.errors import UserError

_WEIGHTS_A_BLOCK = 1 << 23


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean with its percentile interval."""

    value: float
    low: float
    high: float


def bootstrap_mean(
    values_Q: np.ndarray,
    *,
    stimulus_Q: np.ndarray | None = None,
    subject_Q: np.ndarray | None = None,
    num_resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Mean of per-query scores with a percentile interval.

    With more than one subject, subjects and stimuli are resampled independently and a query counts as often as both of
    its own were drawn (two-way bootstrap, Owen 2007); otherwise queries of the same stimulus are drawn together.
    """
    values_Q = np.asarray(values_Q, dtype=np.float64)
    if len(values_Q) == 0:
        raise UserError("no queries: expected at least one")
    weights_NQ = _weights(len(values_Q), stimulus_Q, subject_Q, num_resamples, np.random.default_rng(seed))
    totals_N = weights_NQ.sum(axis=1)
    means_N = (weights_NQ @ values_Q)[totals_N > 0] / totals_N[totals_N > 0]
    return _interval(float(values_Q.mean()), means_N, level)


def bootstrap_class_mean(
    values_Q: np.ndarray,
    class_Q: np.ndarray,
    *,
    stimulus_Q: np.ndarray | None = None,
    subject_Q: np.ndarray | None = None,
    num_resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Mean over classes of each class's mean score (of hits: balanced accuracy), resampled as by :func:`bootstrap_mean`.

    A class of which a resample has no query is left out of that resample's mean.
    """
    values_Q, class_Q = np.asarray(values_Q, dtype=np.float64), np.unique(class_Q, return_inverse=True)[1].reshape(-1)
    if len(values_Q) == 0:
        raise UserError("no queries: expected at least one")
    weights_NQ = _weights(len(values_Q), stimulus_Q, subject_Q, num_resamples, np.random.default_rng(seed))
    member_QK = np.eye(int(class_Q.max()) + 1)[class_Q]
    with np.errstate(invalid="ignore"):
        draws_NK = ((weights_NQ * values_Q) @ member_QK) / (weights_NQ @ member_QK)
    draws_N = np.nanmean(draws_NK[~np.isnan(draws_NK).all(axis=1)], axis=1)
    return _interval(float(((values_Q @ member_QK) / member_QK.sum(axis=0)).mean()), draws_N, level)


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
    return _interval(statistic(np.arange(len(groups_Q))), np.asarray(draws_N), level)


def resample_weights(
    num_queries: int,
    *,
    stimulus_Q: np.ndarray | None = None,
    subject_Q: np.ndarray | None = None,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Iterator[np.ndarray]:
    """How often each query counts in each resample, as :func:`bootstrap_mean` draws them: blocks (some of N, Q) that fit memory.

    For statistics that are no mean: multiply by per-query sums of whatever the statistic is made of. Everything that is
    multiplied by the same weights is compared pairwise.
    """
    rng = np.random.default_rng(seed)
    block = max(1, _WEIGHTS_A_BLOCK // max(num_queries, 1))
    for start in range(0, num_resamples, block):
        yield _weights(num_queries, stimulus_Q, subject_Q, min(block, num_resamples - start), rng)


def permutation_p_value(
    statistic: Callable[[np.ndarray], float], num_labels: int, *, num_permutations: int = 1000, seed: int = 0
) -> tuple[float, np.ndarray]:
    """p = (1 + b) / (1 + m) of a statistic under permuted labels, b of m permutations reaching the observed value.

    Parameters
    ----------
    statistic
        From a permutation of ``range(num_labels)`` (of gallery stimuli, the same one for every subject) to the score under it.

    Returns
    -------
    (p, null)
        The p-value and the scores of all permutations.
    """
    rng = np.random.default_rng(seed)
    observed = statistic(np.arange(num_labels))
    null = np.array([statistic(rng.permutation(num_labels)) for _ in range(num_permutations)])
    return (1 + int((null >= observed).sum())) / (1 + num_permutations), null


def _weights(
    num_queries: int, stimulus_Q: np.ndarray | None, subject_Q: np.ndarray | None, num_resamples: int, rng: np.random.Generator
) -> np.ndarray:
    stimulus_Q = np.arange(num_queries) if stimulus_Q is None else np.asarray(stimulus_Q)
    weights_NQ = _counts(stimulus_Q, num_resamples, rng)
    if subject_Q is not None and len(np.unique(subject_Q)) > 1:
        weights_NQ = weights_NQ * _counts(np.asarray(subject_Q), num_resamples, rng)
    return weights_NQ


def _counts(label_Q: np.ndarray, num_resamples: int, rng: np.random.Generator) -> np.ndarray:
    labels, number_Q = np.unique(label_Q, return_inverse=True)
    drawn = rng.multinomial(len(labels), np.full(len(labels), 1 / len(labels)), size=num_resamples)
    return drawn[:, number_Q].astype(np.float64)


def _interval(value: float, draws_N: np.ndarray, level: float) -> Interval:
    low, high = np.quantile(draws_N, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value=value, low=float(low), high=float(high))
