"""Base models compared by the captions of their eeg arms: paired by item, clustered by image, held against training seeds.

Q: items, S: training seeds, F: statistics of a metric.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from trainer.artifacts.generations import read_generations
from trainer.evaluate.text.comparison import ArmScores, compare
from trainer.evaluate.text.config import EvaluateTextConfig
from trainer.evaluate.text.results import TextScore
from trainer.evaluate.text.scoring import arm_scores, score

ARM = "eeg"
FAMILIES = ("bleu", "rouge", "attributes")


@dataclass(frozen=True, kw_only=True)
class OverSeeds:
    """A difference held against the spread of training seeds; None with one seed."""

    seeds_low: float | None
    seeds_high: float | None
    """Ends of its 95 % t interval over training seeds."""
    clear: bool | None
    """Whether this interval and that over images both exclude 0."""


@dataclass(frozen=True, kw_only=True)
class BaseDifference(TextScore, OverSeeds):
    """Base ``a`` minus base ``b``, by the bootstrap of :func:`comparison.compare`: images, and subjects where there are several, are
    drawn alike for both."""

    a: str
    b: str
    metric: str
    title: str


def differences(generations: Mapping[str, Sequence[Path]], settings: EvaluateTextConfig, metrics: Sequence[str]) -> list[BaseDifference]:
    """Every pair of bases and metric: how much better the first one's captions of the same items are.

    Parameters
    ----------
    generations
        By base: folders of ``generate``, one a training seed, the same seeds for all.
    settings
        How captions are scored; its ``resamples`` and ``seed`` are those of the bootstrap.
    metrics
        Names of metrics.

    Raises
    ------
    CommandError
        The folders are not of one experiment: another part, decoding, or other items.
    """
    names = list(generations)
    everything = read_generations([folder for name in names for folder in generations[name]], may_differ=("base",))
    eeg = replace(everything, arms=[ARM], records={key: record for key, record in everything.records.items() if key[1] == ARM})
    scored, _ = score(replace(settings, metrics=[family for family in settings.metrics if family in FAMILIES]), eeg)
    arranged = [found for found in arm_scores(eeg, scored) if found.metric.name in metrics]
    num_seeds = len(generations[names[0]])
    present = eeg.present(ARM)

    def of(base: int, found: ArmScores) -> np.ndarray:  # (S, Q, F)
        return found.statistics[ARM][base * num_seeds : (base + 1) * num_seeds]

    results = []
    for a in range(len(names) - 1):
        others = {f"base {b}": b for b in range(a + 1, len(names))}
        # What comparison calls the tested arm is the first base, its other arms are the other bases.
        scores = [
            ArmScores(
                metric=found.metric,
                statistics={ARM: of(a, found), **{key: of(b, found) for key, b in others.items()}},
                present=dict.fromkeys((ARM, *others), present),
            )
            for found in arranged
        ]
        compared = compare(
            scores, stimulus_Q=eeg.stimulus_Q, subject_Q=eeg.subject_Q, num_resamples=settings.resamples, seed=settings.seed
        ).differences[ARM]
        for key, b in others.items():
            for found in arranged:
                estimate = compared[key][found.metric.name].score()
                title = found.metric.unit or found.metric.title
                measured = vars(estimate) | vars(over_seeds(estimate))
                results.append(BaseDifference(a=names[a], b=names[b], metric=found.metric.name, title=title, **measured))
    return results


def over_seeds(estimate: TextScore) -> OverSeeds:
    """Whether a difference exceeds what training seeds differ by."""
    by_seed = np.array(estimate.by_seed, dtype=np.float64)
    if len(by_seed) < 2:
        return OverSeeds(seeds_low=None, seeds_high=None, clear=None)
    from scipy.stats import t as student  # slow to import

    reach = float(student.ppf(0.975, len(by_seed) - 1) * by_seed.std(ddof=1) / np.sqrt(len(by_seed)))
    low, high = float(by_seed.mean() - reach), float(by_seed.mean() + reach)
    clear = (_least(estimate) > 0 and low > 0) or (_most(estimate) < 0 and high < 0)
    return OverSeeds(seeds_low=low, seeds_high=high, clear=bool(clear))


def sentences(found: Sequence[BaseDifference]) -> list[str]:
    """What the differences say, plainly: which exceed the spread over seeds, and which do not."""
    said = []
    for d in found:
        if d.value is None:
            said.append(f"{d.a} and {d.b} have no {d.title} to compare.")
            continue
        better, worse = (d.a, d.b) if d.value >= 0 else (d.b, d.a)
        amount = f"{abs(d.value):.3f} ± {d.se or 0.0:.3f} {d.title}"
        span = f"{d.a} minus {d.b}: 95 % interval {_least(d):+.3f} to {_most(d):+.3f} over images"
        if d.clear is not None:
            span += f", {d.seeds_low:+.3f} to {d.seeds_high:+.3f} over {len(d.by_seed)} training seeds"
        if not (_least(d) > 0 or _most(d) < 0):
            said.append(f"{better} and {worse} are not told apart: {amount} ({span}).")
        elif d.clear:
            said.append(f"{better} beats {worse} by {amount}, more than training seeds differ ({span}).")
        elif d.clear is None:
            said.append(f"{better} is ahead of {worse} by {amount} ({span}); one training seed says nothing about another training.")
        else:
            said.append(f"{better} is ahead of {worse} by {amount}, but no more than training seeds differ ({span}).")
    return said


def _least(estimate: TextScore) -> float:
    return -np.inf if estimate.low is None else estimate.low


def _most(estimate: TextScore) -> float:
    return np.inf if estimate.high is None else estimate.high
