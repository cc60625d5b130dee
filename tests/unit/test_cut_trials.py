"""Filters on trials that a source has cut: those that a trial can take, and a sentence for those that it cannot."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import signal

from data_prep.contract.errors import UserError
from data_prep.studies.trials import TrialFacts, TrialsConfig, apply, facts_after

FACTS = TrialFacts(sfreq=250.0, tmin=-0.2, n_times=250, ch_names=("Fz", "Cz"))


@pytest.mark.parametrize(
    ("seconds", "low_hz", "taken"),
    [(1.0, 1.9, False), (1.0, 2.0, True), (0.5, 2.0, False), (0.5, 4.0, True), (4.0, 0.4, False), (4.0, 0.5, True)],
)
def test_a_high_pass_needs_two_cycles_in_a_trial(seconds: float, low_hz: float, taken: bool) -> None:
    facts = TrialFacts(sfreq=250.0, tmin=0.0, n_times=round(250 * seconds), ch_names=("Fz",))
    config = TrialsConfig(band_hz=(low_hz, 40.0))
    if taken:
        assert facts_after(config, facts) == facts
        return
    with pytest.raises(
        UserError, match=rf"band_hz begins at {low_hz:g} Hz, of which a trial of {seconds:g} s holds .* cycles, expected at least 2"
    ):
        facts_after(config, facts)


def test_a_low_pass_is_scipys_over_the_whole_trial_before_it_is_resampled_and_cropped() -> None:
    eeg_BCT = np.random.default_rng(0).normal(0, 10, (3, 2, 250)).astype(np.float32)
    config = TrialsConfig(band_hz=(None, 40.0), resample_hz=125.0, tmin=0.0, tmax=0.4)
    done_BCT = apply(config, eeg_BCT, FACTS)
    assert facts_after(config, FACTS).n_times == done_BCT.shape[2] == 50
    sos = signal.butter(4, 40.0, fs=250.0, output="sos")
    whole_BCT = signal.resample_poly(signal.sosfiltfilt(sos, eeg_BCT.astype(float), padlen=15), 1, 2, axis=-1, padtype="line")
    np.testing.assert_allclose(done_BCT, whole_BCT[..., 25:75], atol=1e-4)


@pytest.mark.parametrize(
    ("band_hz", "said"),
    [
        ((None, 125.0), "below the Nyquist frequency of 125"),
        ((None, None), "expected at least one edge"),
        ((20.0, 10.0), "expected low_hz below high_hz"),
    ],
)
def test_a_band_that_a_rate_cannot_have_is_refused(band_hz: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        facts_after(TrialsConfig(band_hz=band_hz), FACTS)


def test_a_band_above_the_new_rate_is_refused_and_no_filter_changes_nothing() -> None:
    with pytest.raises(ValueError, match="expected a band below half of the new rate, 50 Hz"):
        TrialsConfig(band_hz=(None, 60.0), resample_hz=100.0)
    eeg_BCT = np.random.default_rng(1).normal(0, 10, (3, 2, 250)).astype(np.float32)
    np.testing.assert_array_equal(apply(TrialsConfig(), eeg_BCT, FACTS), eeg_BCT)
