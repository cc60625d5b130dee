"""The arms of the table from their scores, block by block: metrics both ways, intervals, null, paired differences.

::

    Scores -> metrics a query, and its candidates of rank 5 and better -> intervals of all arms together, null of each

Q: queries, G: gallery stimuli, P: pairs of a query and a candidate.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_prep.contract.progress import tracked
from data_prep.contract.ranking import within
from trainer import metrics
from trainer.evaluate.intervals import Interval, bootstrap_means, permutation_p_value
from trainer.evaluate.results import Score
from trainer.evaluate.retrieval.config import EvaluateRetrievalConfig
from trainer.evaluate.retrieval.results import RetrievalArm
from trainer.evaluate.scores import Block, Scores, as_scores

SUMMARY = {"top1": "recall@1", "top5": "recall@5", "mrr": "mrr", "median_rank": "median_rank"}
PAIRED = ("recall@1", "recall@5", "mrr")
"""Metrics in which the model is compared with every other arm."""
NULL_AT = (1, 5)
"""k of the top-k that is tested against chance."""
Pairs = tuple[np.ndarray, np.ndarray]
"""Queries and candidates, one entry a pair."""


@dataclass(frozen=True, kw_only=True)
class Queries:
    """What is asked and what may be answered."""

    stimulus_Q: np.ndarray
    concept_Q: np.ndarray
    subject_Q: np.ndarray
    stimulus_G: np.ndarray
    concept_G: np.ndarray

    @property
    def target_Q(self) -> np.ndarray:
        """Gallery position of each query's stimulus."""
        return np.searchsorted(self.stimulus_G, self.stimulus_Q)

    def relevance(self, rows: np.ndarray) -> np.ndarray:
        """Of the gallery for some queries (q, G)."""
        return metrics.relevance(self.stimulus_Q[rows], self.concept_Q[rows], self.stimulus_G, self.concept_G)

    def reverse_relevance(self, rows: np.ndarray) -> np.ndarray:
        """Of the queries for some stimuli of the gallery (g, Q)."""
        return metrics.relevance(self.stimulus_G[rows], self.concept_G[rows], self.stimulus_Q, self.concept_Q)


@dataclass(frozen=True, kw_only=True)
class ScoredArms:
    """What scores say."""

    arms: dict[str, RetrievalArm]
    summary: dict[str, dict[str, float | None]]
    model_minus: dict[str, dict[str, Score]]
    model_Q: dict[str, np.ndarray]
    """The first arm's metrics by query."""


def score_arms(
    config: EvaluateRetrievalConfig, queries: Queries, scores: Mapping[str, Scores | np.ndarray], one_way: Collection[str]
) -> ScoredArms:
    """Metrics with intervals of every arm, both ways (``one_way``: scores that compare within a query only); the first is the model."""
    forward: dict[str, dict[str, np.ndarray]] = {}
    backward: dict[str, dict[str, np.ndarray]] = {}
    null: dict[str, dict[str, float]] = {}
    for name, of_arm in tracked(scores.items(), "arms scored", len(scores)):
        found = as_scores(of_arm)
        forward[name], best = _score_blocks(found.blocks(), queries.relevance, len(queries.stimulus_Q), NULL_AT)
        null[name] = _null(config, queries, best)
        if name not in one_way:
            backward[name], _ = _score_blocks(found.reverse_blocks(), queries.reverse_relevance, len(queries.stimulus_G))
    model = next(iter(scores))
    differences = {(name, metric): forward[model][metric] - forward[name][metric] for name in scores if name != model for metric in PAIRED}
    options: dict[str, Any] = {"num_resamples": config.num_resamples, "seed": config.seed}
    ways = {("forward", *key): value_Q for key, value_Q in _flat(forward).items()}
    ways |= {("minus", *key): value_Q for key, value_Q in differences.items()}
    means = bootstrap_means(ways, stimulus_Q=queries.stimulus_Q, subject_Q=queries.subject_Q, **options)
    reverse_means = bootstrap_means(_flat(backward), stimulus_Q=queries.stimulus_G, **options)
    arms = {
        name: RetrievalArm(
            eeg_to_image=_row({m: means["forward", name, m] for m in forward[name]}, forward[name]["rank"]),
            image_to_eeg=_row({m: reverse_means[name, m] for m in backward[name]}, backward[name]["rank"]) if name in backward else None,
            null=null[name],
        )
        for name in scores
    }
    return ScoredArms(
        arms=arms,
        summary={name: {short: arm.eeg_to_image[long].value for short, long in SUMMARY.items()} for name, arm in arms.items()},
        model_minus={name: {m: _score(means["minus", name, m]) for m in PAIRED} for name in scores if name != model},
        model_Q=forward[model],
    )


def _score_blocks(
    blocks: Iterable[Block], relevance: Callable[[np.ndarray], np.ndarray], num_rows: int, cutoffs: Collection[int] = ()
) -> tuple[dict[str, np.ndarray], dict[int, Pairs]]:
    """Every metric by row, and by cutoff k the pairs of a row and a candidate whose mean rank is within k."""
    found: dict[str, np.ndarray] = {}
    best: dict[int, list[Pairs]] = {k: [] for k in cutoffs}
    for rows, scores in blocks:
        for name, values in metrics.retrieval_metrics(scores, relevance(rows)).items():
            found.setdefault(name, np.empty(num_rows))[rows] = values
        for k in cutoffs:
            row_P, candidate_P = within(scores, k)
            best[k].append((rows[row_P], candidate_P))
    return found, {k: (np.concatenate([q for q, _ in pairs]), np.concatenate([c for _, c in pairs])) for k, pairs in best.items()}


def _null(config: EvaluateRetrievalConfig, queries: Queries, best: Mapping[int, Pairs]) -> dict[str, float]:
    num_queries = len(queries.stimulus_Q)
    found: dict[str, float] = {}
    for k, (query_P, candidate_P) in best.items():
        target_P = queries.target_Q[query_P]

        def top(permutation_G: np.ndarray, target_P: np.ndarray = target_P, candidate_P: np.ndarray = candidate_P) -> float:
            return float((permutation_G[target_P] == candidate_P).sum() / num_queries)

        p, null = permutation_p_value(top, len(queries.stimulus_G), num_permutations=config.num_permutations, seed=config.seed)
        found |= {f"p_top{k}": p, f"null_top{k}": float(null.mean())}
    return found


def _row(means: Mapping[str, Interval], ranks: np.ndarray) -> dict[str, Score]:
    found = {"mean_rank" if name == "rank" else name: _score(mean) for name, mean in means.items()}
    return found | {"median_rank": Score(value=float(np.median(ranks)))}


def _flat(by_arm: Mapping[str, Mapping[str, np.ndarray]]) -> dict[tuple[str, str], np.ndarray]:
    return {(arm, name): values for arm, found in by_arm.items() for name, values in found.items()}


def _score(mean: Interval) -> Score:
    return Score(value=mean.value, low=mean.low, high=mean.high)
