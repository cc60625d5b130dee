"""Intervals cover what they claim to, and the null is a null."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.helpers.intervals import bootstrap_class_mean, bootstrap_mean
from trainer import metrics
from trainer.evaluate import intervals
from trainer.evaluate.intervals import (
    bootstrap_class_means,
    bootstrap_means,
    bootstrap_statistic,
    permutation_p_value,
    resample_weights,
)


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


@pytest.mark.parametrize("num_queries", [1, 2, 7])
@pytest.mark.parametrize("num_stimuli", [1, 2])
@pytest.mark.parametrize("num_subjects", [1, 2])
def test_what_cannot_be_resampled_has_no_interval(num_queries: int, num_stimuli: int, num_subjects: int) -> None:
    """One of no width would claim certainty."""
    number_Q = np.arange(num_queries)
    labels = {"stimulus_Q": number_Q % num_stimuli, "subject_Q": number_Q // num_stimuli % num_subjects}
    varies = any(len(np.unique(label_Q)) > 1 for label_Q in labels.values())
    values_Q, class_Q = np.random.default_rng(0).random(num_queries), np.zeros(num_queries, int)
    for found in (bootstrap_mean(values_Q, **labels), bootstrap_class_mean(values_Q, class_Q, **labels)):
        assert found.value == pytest.approx(values_Q.mean())
        assert (found.low is None) == (found.high is None) == (not varies)
    blocks = list(resample_weights(num_queries, **labels, num_resamples=50))
    assert sum(map(len, blocks)) == 50 * varies
    assert {block.shape[1] for block in blocks} <= {num_queries}
    alone = bootstrap_statistic(lambda rows: float(values_Q[rows].mean()), number_Q)
    together = bootstrap_statistic(lambda rows: float(values_Q[rows].mean()), class_Q)
    assert (alone.low, alone.high) == (None, None)
    assert (together.low is None) == (num_queries == 1)


@pytest.mark.parametrize("num_labels", [0, 1])
def test_a_null_of_one_label_is_refused(num_labels: int) -> None:
    with pytest.raises(ValueError, match=f"{num_labels} labels to permute, expected at least 2"):
        permutation_p_value(lambda _: 1.0, num_labels)


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


# ------------------------------------------------------------------------------------------------ one draw, in blocks


def labelled(seed: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Scores of several kinds, and labels of several subjects."""
    rng = np.random.default_rng(seed)
    num_queries = int(rng.integers(5, 60))
    values = {
        "hit": (rng.random(num_queries) < 0.4).astype(float),
        "mrr": 1 / rng.integers(1, 90, num_queries),
        "rank": 1e4 * rng.random(num_queries),
    }
    stimulus_Q, subject_Q = rng.integers(0, 9, num_queries), rng.integers(0, 1 + seed % 3, num_queries)
    return values, {"stimulus_Q": stimulus_Q, "subject_Q": subject_Q, "seed": seed}


@pytest.mark.parametrize("seed", range(9))
def test_an_interval_is_the_same_alone_among_others_and_in_blocks_of_any_size(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    values, labels = labelled(seed)
    class_Q = np.arange(len(values["hit"])) % 4
    together = bootstrap_means(values, **labels, num_resamples=150)
    by_class = bootstrap_class_means(values, class_Q, **labels, num_resamples=150)
    for block in (1, 7, 64, 149, 1000):
        monkeypatch.setattr(intervals, "_RESAMPLES_A_BLOCK", block)
        assert bootstrap_means(values, **labels, num_resamples=150) == together
        assert bootstrap_class_means(values, class_Q, **labels, num_resamples=150) == by_class
        for name, value_Q in values.items():
            assert bootstrap_mean(value_Q, **labels, num_resamples=150) == together[name]
            assert bootstrap_class_mean(value_Q, class_Q, **labels, num_resamples=150) == by_class[name]


@pytest.mark.parametrize("seed", range(9))
def test_intervals_are_those_of_a_plain_loop_over_resamples(seed: int) -> None:
    values, labels = labelled(seed)
    class_Q = np.arange(len(values["hit"])) % 4
    streams = np.random.default_rng(seed), np.random.default_rng(np.random.SeedSequence(seed).spawn(1)[0])
    draws: dict[str, list[float]] = {name: [] for name in values}
    class_draws: dict[str, list[float]] = {name: [] for name in values}
    for _ in range(150):
        weight_Q = np.ones(len(class_Q))
        for label_Q, rng in zip((labels["stimulus_Q"], labels["subject_Q"]), streams, strict=True):
            known = sorted(set(label_Q.tolist()))
            if label_Q is labels["stimulus_Q"] or len(known) > 1:
                drawn = dict(zip(known, rng.multinomial(len(known), np.full(len(known), 1 / len(known))), strict=True))
                weight_Q *= [drawn[label] for label in label_Q.tolist()]
        if not weight_Q.any():
            continue
        for name, value_Q in values.items():
            draws[name].append(np.average(value_Q, weights=weight_Q))
            shown = [k for k in range(4) if weight_Q[class_Q == k].any()]
            class_draws[name].append(np.mean([np.average(value_Q[class_Q == k], weights=weight_Q[class_Q == k]) for k in shown]))
    found = bootstrap_means(values, **labels, num_resamples=150)
    by_class = bootstrap_class_means(values, class_Q, **labels, num_resamples=150)
    for name, value_Q in values.items():
        assert found[name].value == value_Q.mean()
        assert [found[name].low, found[name].high] == pytest.approx(np.quantile(draws[name], [0.025, 0.975]).tolist(), rel=1e-12)
        expected = np.quantile(class_draws[name], [0.025, 0.975]).tolist()
        assert [by_class[name].low, by_class[name].high] == pytest.approx(expected, rel=1e-12)


def test_weights_come_in_blocks_that_fit_memory() -> None:
    blocks = [weights_NQ.shape for weights_NQ in resample_weights(50, num_resamples=150)]
    assert blocks == [(64, 50), (64, 50), (22, 50)]
