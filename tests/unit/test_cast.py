"""EEG in the dtype of a study: the quick look at its extremes refuses what looking at every value refuses, and nothing else."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.contract.errors import StudyError
from data_prep.measure.trials import measure_trials
from data_prep.shards import cast
from data_prep.shards.measuring import MeasureConfig, Trials, keep_trials


def kept(eeg_RCT: np.ndarray) -> tuple[Trials, Any, Any]:
    plan: Any = SimpleNamespace(n_reps=len(eeg_RCT), key="sub-01_stim-000000", recording=[0] * len(eeg_RCT))
    n_chans, n_times = eeg_RCT.shape[1:]
    facts: Any = SimpleNamespace(
        n_chans=n_chans, n_times=n_times, ch_names=[f"E{c}" for c in range(n_chans)], unit="microvolts", masked_channels=lambda _: None
    )
    return keep_trials(plan, eeg_RCT, measure_trials(eeg_RCT, 0), MeasureConfig()), plan, facts


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.integers(0, 2**20), st.floats(-7, 3), st.floats(-3, 4), st.sampled_from([np.float32, np.float64]))
def test_what_is_surely_fine_loses_less_than_is_allowed(seed: int, scale: float, offset: float, dtype: Any) -> None:
    random = np.random.default_rng(seed)
    eeg_RCT = (10.0**scale * (random.standard_t(3, (3, 4, 60)) + 10.0**offset * random.integers(-1, 2, (1, 4, 1)))).astype(dtype)
    trials, plan, facts = kept(eeg_RCT)
    with np.errstate(over="ignore"):
        stored_RCT = eeg_RCT.astype(np.float16)
    std_C, error_C = cast._std_and_error(eeg_RCT, stored_RCT)
    loses = bool((error_C > cast.MAX_ROUNDING * std_C).any())
    assert not (loses and cast._surely_fine(trials, np.dtype(np.float16)))
    if loses or not np.isfinite(stored_RCT).all():
        with pytest.raises(StudyError, match=r"rounding channel|beyond the range of float16"):
            cast.cast_eeg(trials, plan, np.dtype(np.float16), facts)
    else:
        np.testing.assert_array_equal(cast.cast_eeg(trials, plan, np.dtype(np.float16), facts), stored_RCT)


def test_ordinary_eeg_is_not_looked_at_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cast, "_std_and_error", None)
    trials, plan, facts = kept(np.random.default_rng(0).normal(0, 10, (3, 4, 200)).astype(np.float32))
    assert cast.cast_eeg(trials, plan, np.dtype(np.float16), facts).dtype == np.float16


@pytest.mark.parametrize(
    ("value", "words"),
    [(1e6, "E2 has values beyond the range of float16"), (np.nan, "E2 has values that are not finite"), (np.inf, "E2 has values that")],
)
def test_one_value_is_named_by_its_channel(value: float, words: str) -> None:
    eeg_RCT = np.random.default_rng(0).normal(0, 10, (3, 4, 200)).astype(np.float32)
    eeg_RCT[1, 2, 7] = value
    trials, plan, facts = kept(eeg_RCT)
    with pytest.raises(StudyError, match=words):
        cast.cast_eeg(trials, plan, np.dtype(np.float16), facts)
