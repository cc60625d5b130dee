"""What a filter, a resampler or a cut must do to a signal that is known exactly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

from data_prep.contract import signals
from data_prep.studies import trials

SFREQ = 256.0


def sine(hz: float, seconds: float = 20.0, sfreq: float = SFREQ, phase: float = 0.3) -> np.ndarray:
    return np.sin(2 * np.pi * hz * np.arange(round(seconds * sfreq)) / sfreq + phase)[None]


def amplitude(eeg_CT: np.ndarray) -> float:
    middle = eeg_CT[..., eeg_CT.shape[-1] // 4 : -eeg_CT.shape[-1] // 4]
    return float(np.sqrt(2) * middle.std())


@pytest.mark.parametrize(("hz", "gain"), [(0.05, 0.0), (0.5, 0.5), (10.0, 1.0), (25.0, 1.0), (45.0, 0.5), (80.0, 0.0)])
def test_band_pass_keeps_the_band_and_is_half_at_its_edges(hz: float, gain: float) -> None:
    seconds = 200.0  # long enough for the slow sines
    assert amplitude(signals.band_pass(sine(hz, seconds), SFREQ)) == pytest.approx(gain, abs=0.02)


def test_band_pass_moves_nothing_in_time_and_keeps_the_input() -> None:
    eeg_CT = sine(7.0)
    before = eeg_CT.copy()
    filtered = signals.band_pass(eeg_CT, SFREQ, low_hz=1.0, high_hz=30.0)
    assert np.array_equal(eeg_CT, before)
    assert filtered.dtype == np.float32
    np.testing.assert_allclose(filtered[:, 1000:-1000], eeg_CT[:, 1000:-1000], atol=2e-3)


def test_one_sided_filters() -> None:
    both = sine(0.05, 200) + sine(60, 200)
    np.testing.assert_allclose(amplitude(signals.band_pass(both, SFREQ, low_hz=1.0, high_hz=None)), 1.0, atol=0.02)
    np.testing.assert_allclose(amplitude(signals.band_pass(both, SFREQ, low_hz=None, high_hz=30.0)), amplitude(sine(0.05, 200)), atol=0.02)


@pytest.mark.parametrize("line_hz", [50.0, 60.0])
def test_notch_removes_the_line_and_leaves_its_neighbours(line_hz: float) -> None:
    assert amplitude(signals.notch(sine(line_hz), SFREQ, notch_hz=line_hz)) < 0.01
    for hz in (10.0, line_hz - 5, line_hz + 5):
        assert amplitude(signals.notch(sine(hz), SFREQ, notch_hz=line_hz)) == pytest.approx(1.0, abs=0.06)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda x: signals.notch(x, 100.0, notch_hz=50.0), r"notch_hz is 50.0 Hz.*Nyquist frequency of 50.0 Hz"),
        (lambda x: signals.band_pass(x, 80.0), r"high_hz is 45.0 Hz.*Nyquist frequency of 40.0 Hz"),
        (lambda x: signals.band_pass(x, SFREQ, low_hz=30.0, high_hz=10.0), r"low_hz is 30.0 and high_hz is 10.0"),
        (lambda x: signals.band_pass(x[:, :20], SFREQ), r"the signal has 20 time points"),
        (lambda x: signals.notch(x[:, :5], SFREQ), r"the signal has 5 time points"),
        (lambda x: signals.resample(x, 256.0213, 100.0), r"256.0213 Hz to 100.0 Hz"),
        (lambda x: signals.rereference(x, ["Cz"], ["TP9"]), r"\['TP9'\] are not among \['Cz'\]"),
        (lambda x: signals.baseline_correct(x, tmin=0.0, sfreq=SFREQ, baseline_seconds=(-0.2, 0.0)), r"-0.2..0.0 s is empty or leaves"),
        (lambda x: signals.cut_trials(x, [5], SFREQ, tmin=0.1, tmax=0.1), r"tmin is 0.1 s and tmax 0.1 s"),
        (lambda x: signals.whiten(x, np.eye(3)), r"shape \(3, 3\), the signal 1 channels"),
        (lambda x: signals.inverse_sqrt(np.zeros((2, 2))), r"largest eigenvalue"),
    ],
)
def test_a_contradiction_is_refused_with_both_values(call, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call(sine(10.0))


@pytest.mark.parametrize(("old_hz", "new_hz"), [(256.0, 100.0), (1000.0, 250.0), (250.0, 256.0), (512.0, 100.5)])
def test_resample_gives_the_same_sine_at_exactly_the_new_rate(old_hz: float, new_hz: float) -> None:
    resampled = signals.resample(sine(10.0, 20, old_hz), old_hz, new_hz)
    assert resampled.shape[-1] == int(np.ceil(20 * new_hz))
    expected = np.sin(2 * np.pi * 10.0 * np.arange(resampled.shape[-1]) / new_hz + 0.3)
    np.testing.assert_allclose(resampled[0, 100:-100], expected[100:-100], atol=5e-3)


def test_resample_lets_no_alias_through() -> None:
    assert amplitude(signals.resample(sine(90.0), SFREQ, 64.0)) < 0.01  # 90 Hz would appear at 26 Hz


def test_resample_of_an_offset_is_the_offset() -> None:
    np.testing.assert_allclose(signals.resample(np.full((2, 256), 40.0), SFREQ, 100.0), 40.0, rtol=1e-4)


def test_cut_trials_is_half_open_and_counts_what_leaves_the_recording() -> None:
    eeg_CT = np.arange(1000.0)[None] + np.array([[0.0], [5000.0]])
    trials_BCT, complete_N = signals.cut_trials(eeg_CT, [10, 100, 948, 949], 100.0, tmin=-0.2, tmax=0.52)
    assert complete_N.tolist() == [False, True, True, False]
    assert trials_BCT.shape == (2, 2, 72)
    assert trials_BCT[0, 1].tolist() == list(range(5080, 5152))
    assert trials_BCT[1, 0, -1] == 999


def test_baseline_takes_the_points_before_onset_only() -> None:
    eeg_CT = np.r_[np.full(51, 7.0), np.full(205, 10.0)][None]
    corrected = signals.baseline_correct(eeg_CT, tmin=-51 / SFREQ, sfreq=SFREQ, baseline_seconds=(-0.2, 0.0))
    assert set(corrected[0].tolist()) == {0.0, 3.0}


def test_rereference() -> None:
    eeg_CT = np.array([[1.0, 2.0], [3.0, 6.0]])
    assert signals.rereference(eeg_CT, ["a", "b"], "average").tolist() == [[-1.0, -2.0], [1.0, 2.0]]
    assert signals.rereference(eeg_CT, ["a", "b"], ["b"]).tolist() == [[-2.0, -4.0], [0.0, 0.0]]


def test_zscore_of_a_constant_channel_is_zero() -> None:
    eeg_BCT = np.stack([np.random.default_rng(0).normal(3, 40, (2, 50)), np.full((2, 50), 1e3 / 3)])
    scaled = signals.zscore_trials(eeg_BCT)
    np.testing.assert_allclose(scaled[0].mean(-1), 0, atol=1e-6)
    np.testing.assert_allclose(scaled[0].std(-1), 1, atol=1e-6)
    assert not scaled[1].any()


def test_whitening_gives_unit_covariance() -> None:
    rng = np.random.default_rng(0)
    eeg_CT = rng.normal(size=(5, 5)) @ rng.normal(size=(5, 4000)) + 3
    matrix = signals.inverse_sqrt(np.cov(eeg_CT))
    np.testing.assert_allclose(matrix, matrix.T)
    np.testing.assert_allclose(np.cov(signals.whiten(eeg_CT, matrix, eeg_CT.mean(1))), np.eye(5), atol=1e-4)
    singular = np.cov(signals.rereference(eeg_CT, list("abcde"), "average"))
    assert np.isfinite(signals.inverse_sqrt(singular, shrinkage=0.01)).all()


@settings(deadline=None, max_examples=50)
@given(
    start=st.integers(-20, 60),
    length=st.integers(1, 60),
    sfreq=st.sampled_from([100.0, 250.0, 256.0]),
)
def test_neighbouring_windows_neither_overlap_nor_leave_a_gap(start: int, length: int, sfreq: float) -> None:
    first = signals.time_slice(start / sfreq, (start + length) / sfreq, tmin=-0.2, sfreq=sfreq, n_times=300)
    second = signals.time_slice((start + length) / sfreq, (start + length + 5) / sfreq, tmin=-0.2, sfreq=sfreq, n_times=300)
    assert first.stop == second.start
    assert first.stop - first.start == length


def test_trials_config_and_facts_agree_with_the_data() -> None:
    facts = trials.TrialFacts(sfreq=250.0, tmin=-0.2, n_times=300, ch_names=("a", "b", "c"))
    eeg_CT = np.random.default_rng(0).normal(size=(3, 300)) + 100
    config = trials.TrialsConfig(tmin=0.0, tmax=0.8, resample_hz=100.0, channels=("c", "a"), baseline_seconds=(-0.2, 0.0))
    after = trials.facts_after(config, facts)
    changed = trials.apply(config, eeg_CT, facts)
    assert changed.shape == (len(after.ch_names), after.n_times) == (2, 80)
    assert (after.sfreq, after.ch_names) == (100.0, ("c", "a"))
    assert after.tmin == pytest.approx(0.0)
    assert abs(changed.mean()) < 1
    unchanged = trials.apply(trials.TrialsConfig(), eeg_CT, facts)
    np.testing.assert_array_equal(unchanged, eeg_CT.astype(np.float32))
    assert trials.facts_after(trials.TrialsConfig(), facts) == facts


def test_trials_config_refuses_contradictions() -> None:
    facts = trials.TrialFacts(sfreq=100.0, tmin=-0.2, n_times=100, ch_names=("a",))
    with pytest.raises(ValueError, match=r"0.5..1.5 s .* lasts -0.2..0.8 s"):
        trials.facts_after(trials.TrialsConfig(tmin=0.5, tmax=1.5), facts)
    with pytest.raises(ValueError, match=r"\['x'\] are not among \['a'\]"):
        trials.facts_after(trials.TrialsConfig(channels=("x",)), facts)
    with pytest.raises(ValueError, match=r"tmin is 1\.0 s and tmax 0.0 s"):
        trials.TrialsConfig(tmin=1.0, tmax=0.0)
    with pytest.raises(ValueError, match=r"shape \(1, 99\), expected"):
        trials.apply(trials.TrialsConfig(), np.zeros((1, 99)), facts)


def test_filter_matches_scipy_directly() -> None:
    eeg_CT = np.random.default_rng(0).normal(size=(3, 2000))
    sos = signal.butter(4, [1, 30], btype="bandpass", fs=SFREQ, output="sos")
    np.testing.assert_allclose(
        signals.band_pass(eeg_CT, SFREQ, low_hz=1, high_hz=30)[:, 500:-500], signal.sosfiltfilt(sos, eeg_CT)[:, 500:-500], atol=1e-3
    )
