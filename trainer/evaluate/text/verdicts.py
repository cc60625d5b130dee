"""The sentences that say what EEG adds, and when nothing is said."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from trainer.evaluate.text.comparison import CONTROLS, TESTED, UPPER, WITH_WORD, WORD_CONTROL, Comparison, Estimate
from trainer.evaluate.text.metrics import Metric
from trainer.evaluate.text.results import Verdict

WORDLESS = ("noise", "shuffled", "shuffled-within-concept")
"""Arms that lack the word that ``eeg+concept`` is given, unless ``generate`` says that they have one."""
NAMES = {
    "noise": "matched noise",
    "noise+word": "matched noise with its predicted word",
    "shuffled": "EEG of another image",
    "shuffled-within-concept": "EEG of another image of the concept",
    "concept-mean": "the predicted concept's mean embedding",
    "label-only": "the model trained on predicted labels only",
    "image": "the image itself",
    "nearest-caption": "the nearest training caption",
    "keywords": "an untuned language model given the decoded words",
    "caption-prior": "the caption prior",
    "eeg": "EEG alone",
    "eeg+concept": "EEG with the predicted word",
}


def missing_controls(arms: Sequence[str]) -> list[str]:
    """Controls that were not generated."""
    return [arm for arm in CONTROLS if arm not in arms]


def lacks_word_control(arm: str, arms: Collection[str]) -> bool:
    """Whether no verdict is given on ``arm`` because noise with its own word was not generated."""
    return arm == WITH_WORD and WORD_CONTROL not in arms


def verdicts(
    comparison: Comparison, metrics: Sequence[Metric], *, simulated: bool = False, images: str = "images", with_words: Sequence[str] = ()
) -> list[Verdict]:
    """A sentence for each tested arm, other arm and metric; the sentences of one metric stand together.

    Nothing where a control or every tested arm is missing: without them a number does not say what EEG adds. Nothing on EEG with the
    predicted word where noise with its own word is missing: a word helps whatever it comes with. ``images`` is what was captioned,
    ``with_words`` names arms whose prompts have words.
    """
    found: list[Verdict] = []
    if missing_controls(list(comparison.arms)):
        return []
    for metric in metrics:
        for arm, others in comparison.differences.items():
            if lacks_word_control(arm, comparison.arms):
                continue
            for other, by_metric in others.items():
                estimate = by_metric.get(metric.name)
                if estimate is None or not np.isfinite([estimate.value, estimate.low, estimate.high]).all() or (arm, other) == TESTED:
                    continue
                count = comparison.num_images[arm][other][metric.name]
                wordless = arm == WITH_WORD and other in WORDLESS and other not in with_words
                sentence = verdict(metric, arm, other, estimate, f"{count} {images}", simulated=simulated, wordless=wordless)
                excludes = estimate.excludes_zero
                found.append(Verdict(metric=metric.name, arm=arm, other=other, excludes_zero=excludes, sentence=sentence))
        for arm, shares in comparison.shares.items():
            if lacks_word_control(arm, comparison.arms):
                continue
            estimate = shares.get(metric.name)
            if estimate is not None and np.isfinite(estimate.value) and np.isfinite(estimate.low):
                reached = f"{_who(arm, simulated)} reaches {estimate.value:.0%} of the image arm's distance above the caption prior"
                sentence = f"{reached} in {metric.title} (95 % interval {estimate.low:.0%} to {estimate.high:.0%})."
                found.append(Verdict(metric=metric.name, arm=arm, other=UPPER, excludes_zero=None, sentence=sentence))
    return found


def verdict(
    metric: Metric, arm: str, other: str, estimate: Estimate, images: str, *, simulated: bool = False, wordless: bool = False
) -> str:
    """``EEG adds 0.05 ± 0.02 BLEU-1 over matched noise (95 % interval 0.01 to 0.09, excludes 0; ...).``"""
    who = _who(arm, simulated)
    near_zero = 0.0 in (round(estimate.low, 2), round(estimate.high, 2))
    digits = 3 if 0 < estimate.se < 0.005 or (estimate.se and near_zero) else 2
    amount = f"{_rounded(abs(estimate.value), digits)} ± {_rounded(estimate.se, digits)} {metric.unit or metric.title}"
    over = NAMES.get(other, other) + (" (without a word)" if wordless else "")
    excludes = estimate.excludes_zero
    claim = f"{who} adds {amount} over {over}" if estimate.value >= 0 else f"{who} stays {amount} below {over}"
    if not excludes:
        claim = f"{who} is not told apart from {over}: {'+' if estimate.value >= 0 else '−'}{amount}"
    seeds = f", {len(estimate.by_seed)} training seeds" if len(estimate.by_seed) > 1 else ", one training seed"
    ends = f"{_rounded(estimate.low, digits)} to {_rounded(estimate.high, digits)}"
    span = f"95 % interval {ends}, {'excludes' if excludes else 'includes'} 0"
    return f"{claim} ({span}; {images}{seeds})."


def _who(arm: str, simulated: bool) -> str:
    return ("Simulated EEG" if simulated else "EEG") + ("" if arm == "eeg" else " with the predicted word")


def _rounded(value: float, digits: int) -> str:
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")  # + 0.0: no minus before a zero
