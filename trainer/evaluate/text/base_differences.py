"""Base models compared by the captions of their eeg arms: paired by item, clustered by image, held against training seeds.

Q: items, S: training seeds, F: statistics of a metric.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

from trainer.artifacts.generations import read_generations
from trainer.evaluate.text.command import EvaluateTextConfig, arm_scores, score
from trainer.evaluate.text.comparison import ArmScores, compare

ARM = "eeg"
FAMILIES = ("bleu", "rouge", "attributes")


def differences(generations: Mapping[str, Sequence[Path]], settings: EvaluateTextConfig, metrics: Sequence[str]) -> list[dict[str, Any]]:
    """Every pair of bases and metric: how much better the first one's captions of the same items are.

    Parameters
    ----------
    generations
        By base: folders of ``generate``, one a training seed, the same seeds for all.
    settings
        How captions are scored; its ``resamples`` and ``seed`` are those of the bootstrap.
    metrics
        Names of metrics.

    Returns
    -------
    list of dict
        ``a, b, metric, title``; ``value, se, low, high`` of a minus b, by the bootstrap of :func:`comparison.compare` (images, and
        subjects where there are several, are drawn alike for both); ``by_seed`` and ``seeds_low, seeds_high``, its 95 % t interval over
        training seeds (null with one); ``clear``: whether both intervals exclude 0 (null with one seed).

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
                estimate = compared[key][found.metric.name].plain()
                about = {"a": names[a], "b": names[b], "metric": found.metric.name, "title": found.metric.unit or found.metric.title}
                results.append(about | estimate | _over_seeds(estimate))
    return results


def _over_seeds(estimate: Mapping[str, Any]) -> dict[str, Any]:
    by_seed = np.array(estimate["by_seed"], dtype=np.float64)
    if len(by_seed) < 2:
        return {"seeds_low": None, "seeds_high": None, "clear": None}
    reach = float(student.ppf(0.975, len(by_seed) - 1) * by_seed.std(ddof=1) / np.sqrt(len(by_seed)))
    low, high = float(by_seed.mean() - reach), float(by_seed.mean() + reach)
    clear = (estimate["low"] > 0 and low > 0) or (estimate["high"] < 0 and high < 0)
    return {"seeds_low": low, "seeds_high": high, "clear": bool(clear)}


def sentences(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the differences say, plainly: which exceed the spread over seeds, and which do not."""
    said = []
    for d in found:
        better, worse = (d["a"], d["b"]) if d["value"] >= 0 else (d["b"], d["a"])
        amount = f"{abs(d['value']):.3f} ± {d['se']:.3f} {d['title']}"
        span = f"{d['a']} minus {d['b']}: 95 % interval {d['low']:+.3f} to {d['high']:+.3f} over images"
        if d["clear"] is not None:
            span += f", {d['seeds_low']:+.3f} to {d['seeds_high']:+.3f} over {len(d['by_seed'])} training seeds"
        excludes = d["low"] > 0 or d["high"] < 0
        if not excludes:
            said.append(f"{better} and {worse} are not told apart: {amount} ({span}).")
        elif d["clear"]:
            said.append(f"{better} beats {worse} by {amount}, more than training seeds differ ({span}).")
        elif d["clear"] is None:
            said.append(f"{better} is ahead of {worse} by {amount} ({span}); one training seed says nothing about another training.")
        else:
            said.append(f"{better} is ahead of {worse} by {amount}, but no more than training seeds differ ({span}).")
    return said
