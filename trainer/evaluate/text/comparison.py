"""Arms of a text evaluation compared: point values and paired intervals.

Every arm captioned the same items. A resample draws images (and subjects, where there are several) with the same draw for
all arms, training seeds and metrics, and computes each metric from summed statistics, corpus BLEU included. Over training
seeds values are averaged, image by image; how far the seeds lie apart is told beside, it is not in the interval.

Q: items, E: sets of captions (arm, items), S: training seeds, F: statistics of a metric, N: resamples.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from data_prep.contract.progress import tracked
from data_prep.contract.row_products import cut_rows, row_products
from trainer.evaluate.intervals import resample_weights
from trainer.evaluate.text.metrics import Metric, combine_mean
from trainer.evaluate.text.results import Difference, TextScore

CONTROLS = ("noise", "shuffled", "caption-prior")
"""Arms without which no verdict is given."""
WITH_WORD, WORD_CONTROL = "eeg+concept", "noise+word"
"""The tested arm whose prompt has a word, and the control without which there is no verdict on it."""
TESTED = ("eeg", WITH_WORD)
"""Arms that are compared with every other."""
PRIOR, UPPER = "caption-prior", "image"
BLIND = ("noise", "shuffled")
"""Arms that see nothing of the item: they should say no more than the caption prior does."""


@dataclass(frozen=True, kw_only=True)
class ArmScores:
    """Statistics of one metric for all arms."""

    metric: Metric
    statistics: Mapping[str, np.ndarray] = field(repr=False)
    """By arm: float64 (S, Q, F), zero where an item has none."""
    present: Mapping[str, np.ndarray] = field(repr=False)
    """By arm: bool (Q,), the items that the arm captioned."""

    def counted(self, arm: str) -> np.ndarray:
        """bool (Q,): items that the arm has a value of; not every metric is defined for every caption."""
        defined_Q = self.statistics[arm][..., 1].any(axis=0) if self.metric.combine is combine_mean else True
        return np.asarray(self.present[arm] & defined_Q)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value with its bootstrap."""

    value: float
    se: float
    """Bootstrap standard error."""
    low: float
    high: float
    """Not a number, as ``se``, where nothing can be resampled: of one image."""
    by_seed: tuple[float, ...]

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of 0."""
        return bool(self.low > 0 or self.high < 0)

    def score(self) -> TextScore:
        """For the results: what is not a number is None."""
        spread = float(np.std(self.by_seed, ddof=1)) if len(self.by_seed) > 1 else float("nan")
        return TextScore(
            value=_finite(self.value),
            se=_finite(self.se),
            low=_finite(self.low),
            high=_finite(self.high),
            seeds_sd=_finite(spread),
            by_seed=tuple(_finite(v) for v in self.by_seed),
        )

    def difference(self) -> Difference:
        """For the results, where it is a difference."""
        return Difference(**vars(self.score()), excludes_zero=self.excludes_zero)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Everything the table and the verdict need; arms and metrics by name."""

    arms: dict[str, dict[str, Estimate]]
    differences: dict[str, dict[str, dict[str, Estimate]]]
    """tested arm -> other arm -> metric."""
    shares: dict[str, dict[str, Estimate]]
    """tested arm -> metric: (arm - caption prior) / (image - caption prior)."""
    num_items: dict[str, dict[str, int]]
    """tested arm -> other arm: items that both captioned."""
    num_images: dict[str, dict[str, dict[str, int]]]
    """tested arm -> other arm -> metric: images that both have a value of."""
    controls: dict[str, dict[str, Estimate]]
    """control -> metric: control - caption prior. An interval that includes 0 says that the control is one."""


def compare(
    scores: Sequence[ArmScores],
    *,
    stimulus_Q: np.ndarray,
    subject_Q: np.ndarray,
    num_resamples: int,
    seed: int,
    level: float = 0.95,
    shares: bool = True,
) -> Comparison:
    """Values of all arms, and differences of the tested arms to every other, with intervals from the same resamples.

    ``shares``: whether the image arm is an upper bound, of whose distance above the prior an arm can have a share.
    """
    plan = _plan(list(scores[0].statistics), scores[0].present, shares=shares)
    stacked = [np.stack([score.statistics[arm] * which_Q[None, :, None] for (arm, _), which_Q in plan.sets.items()]) for score in scores]
    resamples = resample_weights(len(stimulus_Q), stimulus_Q=stimulus_Q, subject_Q=subject_Q, num_resamples=num_resamples, seed=seed)
    draws = _draw(scores, stacked, resamples)

    def images(score: ArmScores, *arms: str) -> int:
        return len(np.unique(stimulus_Q[np.all([score.counted(arm) for arm in arms], axis=0)]))

    found = Comparison(
        arms={arm: {} for arm in plan.arms},
        differences={a: {b: {} for b in plan.arms if b != a} for a in plan.tested},
        shares={a: {} for a in plan.three},
        num_items={a: {b: int(plan.pairs[a, b].sum()) for b in plan.arms if b != a} for a in plan.tested},
        num_images={a: {b: {s.metric.name: images(s, a, b) for s in scores} for b in plan.arms if b != a} for a in plan.tested},
        controls={arm: {} for arm in plan.controls},
    )
    for score, block_ESQF, draws_NE in zip(scores, stacked, draws, strict=True):
        value_ES = score.metric.combine(block_ESQF.sum(axis=2))
        _compare_metric(score.metric, value_ES, draws_NE, functools.partial(images, score), plan, found, level)
    return found


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What is compared with what, on which items."""

    arms: list[str]
    tested: list[str]
    controls: list[str]
    """Controls that are held against the caption prior."""
    pairs: dict[tuple[str, str], np.ndarray]
    """bool (Q,): items that both captioned."""
    three: dict[str, np.ndarray]
    """By tested arm: bool (Q,), items that it, the prior and the image captioned."""
    sets: dict[tuple[str, bytes], np.ndarray]
    """Every (arm, items) of which a value is needed: bool (Q,)."""
    alone: dict[str, np.ndarray]
    """bool (Q,): an arm's own items."""

    def row(self, arm: str, which_Q: np.ndarray) -> int:
        """Place of a set among the E."""
        return list(self.sets).index((arm, which_Q.tobytes()))


def _plan(arms: list[str], present: Mapping[str, np.ndarray], *, shares: bool) -> _Plan:
    tested = [arm for arm in TESTED if arm in arms]
    controls = [arm for arm in BLIND if arm in arms and PRIOR in arms]
    pairs = {(a, b): present[a] & present[b] for a in tested for b in arms if a != b}
    pairs |= {(arm, PRIOR): present[arm] & present[PRIOR] for arm in controls}
    three = {a: present[a] & present[PRIOR] & present[UPPER] for a in tested} if shares and {PRIOR, UPPER} <= set(arms) else {}
    sets: dict[tuple[str, bytes], np.ndarray] = {(arm, present[arm].tobytes()): present[arm] for arm in arms}
    for (a, b), both_Q in pairs.items():
        sets |= {(a, both_Q.tobytes()): both_Q, (b, both_Q.tobytes()): both_Q}
    for a, all_Q in three.items():
        sets |= {(arm, all_Q.tobytes()): all_Q for arm in (a, PRIOR, UPPER)}
    return _Plan(arms=arms, tested=tested, controls=controls, pairs=pairs, three=three, sets=sets, alone=dict(present))


def _draw(scores: Sequence[ArmScores], stacked: Sequence[np.ndarray], resamples: Iterable[np.ndarray]) -> list[np.ndarray]:
    """Values of every metric and set in every resample, mean over seeds: (N, E) each."""
    draws: list[list[np.ndarray]] = [[] for _ in scores]
    # A row for each set, seed and statistic: a set that stands twice draws the same digits twice, so arms that say the same differ by 0.
    cut = [cut_rows(block_ESQF.transpose(0, 1, 3, 2).reshape(-1, block_ESQF.shape[2])) for block_ESQF in stacked]
    for weights_NQ in tracked(resamples, "bootstrap: blocks of resamples"):
        weights_NQ = weights_NQ[weights_NQ.any(axis=1)]  # subjects x images may draw no item at all
        drawn = cut_rows(weights_NQ)
        for m, (score, block_ESQF) in enumerate(zip(scores, stacked, strict=True)):
            num_sets, num_seeds, _, num_statistics = block_ESQF.shape
            sums = row_products(drawn, cut[m])
            draws[m].append(score.metric.combine(sums.reshape(-1, num_sets, num_seeds, num_statistics)).mean(axis=2))
    return [np.concatenate(of_metric) for of_metric in draws]


def _compare_metric(
    metric: Metric,
    value_ES: np.ndarray,
    draws_NE: np.ndarray,
    images: Callable[..., int],
    plan: _Plan,
    found: Comparison,
    level: float,
) -> None:
    """Write one metric's estimates into ``found``; ``images`` counts those of which all of some arms have a value."""
    name = metric.name

    def estimate_of(arms: Sequence[str], value: Any, draws_N: np.ndarray, by_seed_S: np.ndarray) -> Estimate:
        return _estimate(value, draws_N if images(*arms) > 1 else draws_N[:0], by_seed_S, level)

    for arm in plan.arms:
        e = plan.row(arm, plan.alone[arm])
        found.arms[arm][name] = estimate_of([arm], value_ES[e].mean(), draws_NE[:, e], value_ES[e])
    if not metric.compared:
        return
    for (a, b), both_Q in plan.pairs.items():
        i, j = plan.row(a, both_Q), plan.row(b, both_Q)
        minus_S = value_ES[i] - value_ES[j]
        estimate = estimate_of([a, b], minus_S.mean(), draws_NE[:, i] - draws_NE[:, j], minus_S)
        if a in plan.tested:
            found.differences[a][b][name] = estimate
        else:
            found.controls[a][name] = estimate
    for a, all_Q in plan.three.items():
        i, p, u = (plan.row(arm, all_Q) for arm in (a, PRIOR, UPPER))
        whole = _share(value_ES[i].mean(), value_ES[p].mean(), value_ES[u].mean())
        by_seed_S = _share(value_ES[i], value_ES[p], value_ES[u])
        draws_N = _share(draws_NE[:, i], draws_NE[:, p], draws_NE[:, u])
        found.shares[a][name] = estimate_of([a, PRIOR, UPPER], whole, draws_N, by_seed_S)


def _share(arm: Any, prior: Any, upper: Any) -> Any:
    # Where the image itself does no better than the prior there is no distance to have a share of.
    distance = np.asarray(upper - prior, dtype=np.float64)
    return np.where(distance > 1e-9, (arm - prior) / np.where(distance > 1e-9, distance, 1.0), np.nan)


def _estimate(value: Any, draws_N: np.ndarray, by_seed_S: np.ndarray, level: float) -> Estimate:
    known_N = draws_N[np.isfinite(draws_N)]
    low, high = np.quantile(known_N, [(1 - level) / 2, (1 + level) / 2]) if len(known_N) else (np.nan, np.nan)
    error = float(known_N.std(ddof=1)) if len(known_N) > 1 else float("nan")
    seeds = tuple(float(v) for v in np.atleast_1d(by_seed_S))
    return Estimate(value=float(value), se=error, low=float(low), high=float(high), by_seed=seeds)


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
