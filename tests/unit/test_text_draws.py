"""Intervals of a text evaluation hang on the arms that they are of, to the last digit, and on nothing beside them."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.evaluate.text.comparison import ArmScores, Comparison, compare
from trainer.evaluate.text.metrics import Metric


def compared(values: dict[str, np.ndarray], stimulus_Q: np.ndarray, subject_Q: np.ndarray) -> Comparison:
    present = {arm: np.ones(len(stimulus_Q), bool) for arm in values}
    statistics = {arm: np.stack([value_SQ, np.ones_like(value_SQ)], axis=2) for arm, value_SQ in values.items()}
    score = ArmScores(metric=Metric(name="m", title="M", how="h"), statistics=statistics, present=present)
    return compare([score], stimulus_Q=stimulus_Q, subject_Q=subject_Q, num_resamples=150, seed=1)


@pytest.mark.parametrize("seed", range(12))
def test_arms_that_say_the_same_differ_by_nothing_and_others_change_no_digit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    num_images, num_subjects = int(rng.integers(3, 40)), int(rng.integers(1, 4))
    stimulus_Q, subject_Q = np.repeat(np.arange(num_images), num_subjects), np.tile(np.arange(num_subjects), num_images)
    shape = (int(rng.integers(1, 4)), len(stimulus_Q))
    eeg = rng.random(shape).round(6)
    values = {"eeg": eeg, "noise": rng.random(shape), "shuffled": eeg.copy(), "caption-prior": rng.random(shape), "image": eeg.copy()}
    found = compared(values, stimulus_Q, subject_Q)
    for other in ("shuffled", "image"):
        same = found.differences["eeg"][other]["m"]
        assert (same.value, same.low, same.high, same.se) == (0.0, 0.0, 0.0, 0.0)
        assert not same.excludes_zero
    fewer = compared({"eeg": eeg, "noise": values["noise"]}, stimulus_Q, subject_Q)
    assert fewer.arms["eeg"] == found.arms["eeg"]
    assert fewer.differences["eeg"]["noise"] == found.differences["eeg"]["noise"]
    weighed = found.arms["noise"]["m"]
    assert weighed.value == pytest.approx(values["noise"].mean(), abs=1e-12)
    assert weighed.low < weighed.value < weighed.high
