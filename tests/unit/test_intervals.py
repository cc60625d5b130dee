"""Intervals cover what they claim to, and the null is a null."""

from __future__ import annotations

import numpy as np
import pytest

from trainer import metrics
from trainer.evaluate.intervals import bootstrap_mean, bootstrap_statistic, permutation_p_value


def test_interval_of_a_share_is_the_binomial_one() -> None:
    values_Q = np.r_[np.ones(60), np.zeros(140)]
    found = bootstrap_mean(values_Q, seed=1)
    half = 1.96 * np.sqrt(0.3 * 0.7 / 200)
    assert found.value == pytest.approx(0.3)
    assert (found.low, found.high) == (pytest.approx(0.3 - half, abs=0.012), pytest.approx(0.3 + half, abs=0.012))


def test_the_seed_fixes_the_interval() -> None:
    values_Q = np.random.default_rng(0).random(50)
    assert bootstrap_mean(values_Q, seed=3) == bootstrap_mean(values_Q, seed=3)
    assert bootstrap_mean(values_Q, seed=3) != bootstrap_mean(values_Q, seed=4)


def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    draws = [bootstrap_mean((rng.random(100) < 0.3).astype(float), num_resamples=300, seed=s) for s in range(150)]
    assert 0.88 <= np.mean([found.low <= 0.3 <= found.high for found in draws]) <= 1.0


def test_queries_of_one_stimulus_are_drawn_together() -> None:
    # Each stimulus asked ten times with the same outcome is no more evidence than asked once.
    stimulus_Q = np.repeat(np.arange(40), 10)
    values_Q = (stimulus_Q % 2).astype(float)
    clustered, naive = bootstrap_mean(values_Q, stimulus_Q=stimulus_Q), bootstrap_mean(values_Q)
    assert clustered.high - clustered.low > 2.5 * (naive.high - naive.low)


def test_several_subjects_are_resampled_too() -> None:
    # Four subjects, two who can and two who cannot: the interval must not be that of 400 independent queries.
    subject_Q, stimulus_Q = np.repeat(np.arange(4), 100), np.tile(np.arange(100), 4)
    values_Q = (subject_Q < 2).astype(float)
    within, across = bootstrap_mean(values_Q, stimulus_Q=stimulus_Q), bootstrap_mean(values_Q, stimulus_Q=stimulus_Q, subject_Q=subject_Q)
    assert across.high - across.low > 0.7
    assert within.high - within.low < 0.01
    one = bootstrap_mean(values_Q, stimulus_Q=stimulus_Q, subject_Q=np.zeros(400))
    assert one == within


def test_no_queries_are_refused() -> None:
    with pytest.raises(ValueError, match="no queries"):
        bootstrap_mean(np.empty(0))


def test_any_statistic_keeps_the_size_of_every_group() -> None:
    groups_Q = np.repeat([0, 1, 2], [5, 20, 50])
    seen = []

    def statistic(rows: np.ndarray) -> float:
        seen.append(np.bincount(groups_Q[rows]).tolist())
        return float(rows.mean())

    found = bootstrap_statistic(statistic, groups_Q, num_resamples=20)
    assert seen == [[5, 20, 50]] * 21
    assert found.value == pytest.approx(37.0)
    assert found.low < found.value < found.high


def test_auc_interval_has_the_width_of_its_standard_error() -> None:
    rng = np.random.default_rng(2)
    positive_Q = np.repeat([True, False], 100)
    scores_Q = rng.standard_normal(200) + 0.7 * positive_Q
    found = bootstrap_statistic(lambda rows: metrics.auc(scores_Q[rows], positive_Q[rows]), positive_Q)
    area, q1, q2 = found.value, found.value / (2 - found.value), 2 * found.value**2 / (1 + found.value)
    # Hanley & McNeil 1982
    error = np.sqrt((area * (1 - area) + 99 * (q1 - area**2) + 99 * (q2 - area**2)) / 1e4)
    assert (found.high - found.low) / (2 * 1.96 * error) == pytest.approx(1.0, abs=0.2)


def test_p_counts_the_observed_value_among_the_permutations() -> None:
    scores_QG = np.eye(30)

    def top1(order_G: np.ndarray) -> float:
        return float((scores_QG.argmax(axis=1) == order_G).mean())

    p, null = permutation_p_value(top1, 30, num_permutations=199)
    assert p == 1 / 200
    assert null.mean() == pytest.approx(1 / 30, abs=0.01)
    assert permutation_p_value(lambda order_G: 1.0, 30, num_permutations=99)[0] == 1.0


def test_p_is_uniform_when_there_is_nothing_to_find() -> None:
    rng = np.random.default_rng(5)
    found = []
    for seed in range(200):
        scores_QG = rng.standard_normal((20, 20))
        rank_QG = scores_QG.argsort(axis=1).argsort(axis=1)
        found.append(
            permutation_p_value(lambda order_G, r=rank_QG: r[np.arange(20), order_G].mean(), 20, num_permutations=99, seed=seed)[0]
        )
    assert np.mean(np.array(found) <= 0.05) <= 0.1
    assert 0.4 < np.mean(found) < 0.6
