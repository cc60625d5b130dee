"""Each step of preprocessing against MNE, SciPy or scikit-learn, and against what was put into the signal."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import mne
import numpy as np
import pytest
from sklearn.preprocessing import RobustScaler
from threadpoolctl import threadpool_limits

from data_prep.contract.errors import UserError
from data_prep.preprocess import fir, linear
from data_prep.preprocess.autorejection import AutorejectConfig, autoreject
from data_prep.preprocess.bad_channels import BadChannelsConfig, bad_channels
from data_prep.preprocess.eyes import EyesConfig, clean_eyes
from data_prep.preprocess.montage import MontageConfig, to_montage
from data_prep.preprocess.positions import info_of
from data_prep.preprocess.recording import Beside, SignalConfig, filter_in_place, prepare
from data_prep.preprocess.reference import rereference, rest_matrix
from data_prep.preprocess.sampling import high_passed_part, without
from data_prep.preprocess.scaling import scale_and_clamp
from data_prep.preprocess.splines import spline_matrix
from tests.helpers import heads

SFREQ = 250.0
PLACES = heads.places()


def raw_of(eeg_CT: np.ndarray, more: dict[str, str] | None = None) -> Any:
    return mne.io.RawArray(eeg_CT, info_of(heads.NAMES, SFREQ, np.array(list(PLACES.values())), more), verbose="error")


# ------------------------------------------------------------------------------------------------------------- filters


@pytest.mark.parametrize("chunk_points", [100, 4_096, 2**18])
@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_a_filter_in_chunks_is_mnes_filter_of_the_whole(chunk_points: int, kind: type) -> None:
    signal_CT = np.random.default_rng(0).normal(0, 10, (2, 9_001)) + 500
    whole_CT = mne.filter.filter_data(signal_CT, SFREQ, 0.5, 40.0, verbose="error")
    chunks_CT = signal_CT.astype(kind)
    fir.filter_in_chunks(chunks_CT, fir.band_taps(SFREQ, 0.5, 40.0), [(0, 9_001)], sfreq=SFREQ, chunk_points=chunk_points)
    np.testing.assert_allclose(chunks_CT, whole_CT, atol=1e-8 if kind is np.float64 else 1e-3)


def test_a_recording_in_a_file_is_filtered_and_nothing_crosses_a_break(tmp_path: Path) -> None:
    signal_CT = np.random.default_rng(1).normal(0, 10, (2, 8_000)).astype(np.float32)
    file_CT = np.memmap(tmp_path / "signal", np.float32, "w+", shape=signal_CT.shape)
    file_CT[:] = signal_CT
    taps_K, spans = fir.band_taps(SFREQ, 1.0, 30.0), [(0, 3_000), (3_000, 8_000)]
    fir.filter_in_chunks(file_CT, taps_K, spans, sfreq=SFREQ, chunk_points=1_000)
    for start, stop in spans:
        alone_CT = signal_CT[:, start:stop].astype(np.float64)
        np.testing.assert_allclose(file_CT[:, start:stop], mne.filter.filter_data(alone_CT, SFREQ, 1.0, 30.0, verbose="error"), atol=1e-4)
    with pytest.raises(UserError, match=r"needs at least 3\.3\d* s without a break"):
        fir.filter_in_chunks(file_CT, taps_K, [(0, 500)], sfreq=SFREQ)


def test_filtering_takes_memory_for_a_chunk_whatever_the_length(tmp_path: Path) -> None:
    peaks = []
    for n_times in (500_000, 2_000_000):
        signal_1T = np.memmap(tmp_path / "signal", np.float32, "w+", shape=(1, n_times))
        tracemalloc.start()
        fir.filter_in_chunks(signal_1T, fir.band_taps(SFREQ, 1.0, 40.0), [(0, n_times)], sfreq=SFREQ, chunk_points=2**16)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0] < 8e6


@pytest.mark.parametrize("kind", ["butterworth", "fir"])
@pytest.mark.parametrize("line_hz", [50.0, 60.0])
def test_a_notch_takes_the_line_and_its_harmonics_and_leaves_what_is_a_fifth_away(kind: Any, line_hz: float) -> None:
    times_T = np.arange(20_000) / SFREQ
    config = SignalConfig(band_hz=None, notch_hz=(line_hz,), notch_harmonics=True, filter=kind)
    middle = slice(5_000, 15_000)
    for hz, kept in ((line_hz, False), (2 * line_hz, False), (0.8 * line_hz, True), (1.2 * line_hz, True)):
        sine_1T = np.sin(2 * np.pi * hz * times_T)[None].copy()
        filter_in_place(sine_1T, SFREQ, [(0, 20_000)], config)
        amplitude = np.sqrt(2) * sine_1T[0, middle].std()
        assert amplitude == pytest.approx(1, abs=0.01 if hz < line_hz else 0.02) if kept else amplitude < 10 ** (-30 / 20), hz


def test_harmonics_end_below_nyquist_and_a_line_above_it_is_refused() -> None:
    config = SignalConfig(notch_hz=(50.0,), notch_harmonics=True)
    assert config.line_frequencies(250.0) == [50.0, 100.0]
    assert config.line_frequencies(200.0) == [50.0]  # 100 Hz is Nyquist itself
    with pytest.raises(UserError, match=r"notch_hz is 50.0 Hz, expected above 0 and below the Nyquist frequency of 50 Hz"):
        config.line_frequencies(100.0)
    for kind in ("butterworth", "fir"):
        with pytest.raises(UserError, match="below the Nyquist frequency of 20"):
            filter_in_place(np.zeros((1, 4_000)), 40.0, [(0, 4_000)], SignalConfig(band_hz=(1.0, 20.0), filter=kind))


# ------------------------------------------------------------------------------------------------------------- spatial


def test_interpolation_recovers_a_smooth_field_as_mne_does() -> None:
    field_CT = heads.smooth_field(5_000)
    bad = {"Cz": ["named"], "P3": ["named"]}
    rows = [heads.NAMES.index(name) for name in bad]
    broken_CT = field_CT.copy()
    broken_CT[rows] = np.random.default_rng(2).normal(0, 300, (2, 5_000))
    config = SignalConfig(band_hz=None, bad_channels=BadChannelsConfig(names=("Cz", "P3")))
    beside = Beside(positions=PLACES)
    done = prepare(broken_CT.copy(), heads.NAMES, SFREQ, config, beside, spans=[(0, 5_000)], bad=[], bad_names=bad)
    for row in rows:
        assert np.corrcoef(done.eeg_CT[row], field_CT[row])[0, 1] > 0.98
    raw = raw_of(broken_CT)
    raw.info["bads"] = list(bad)
    raw.interpolate_bads(origin=(0.0, 0.0, 0.04), verbose="error")
    np.testing.assert_allclose(done.eeg_CT, raw.get_data(), atol=1e-8)
    assert done.found == {"bad_channels": bad}


def test_a_bad_channel_without_position_or_far_from_all_good_ones_is_refused() -> None:
    config = SignalConfig(band_hz=None, bad_channels=BadChannelsConfig(names=("Cz",)))
    for positions, said in (
        ({name: place for name, place in PLACES.items() if name != "Cz"}, "channels Cz have no position"),
        ({**PLACES, "Cz": [0.0, 0.02, -0.05]}, r"bad channels Cz \(0\.\d+ m\) lie farther from good ones"),
    ):
        with pytest.raises(UserError, match=said):
            prepare(
                heads.smooth_field(50),
                heads.NAMES,
                SFREQ,
                config,
                Beside(positions=positions),
                spans=[(0, 50)],
                bad=[],
                bad_names={"Cz": ["named"]},
            )


def test_rest_is_mnes_and_is_the_same_whatever_the_reference_was() -> None:
    field_CT = heads.smooth_field(400)
    before_CT = [field_CT - field_CT[row] for row in (9, 17)]  # Cz, O1
    for eeg_CT in before_CT:
        rereference(eeg_CT, heads.NAMES, ("rest",), PLACES)
    np.testing.assert_allclose(before_CT[0], before_CT[1], atol=1e-6)
    raw = raw_of(field_CT)
    sphere = mne.make_sphere_model((0.0, 0.0, 0.04), 0.095, verbose="error")
    grid = mne.setup_volume_source_space(sphere=sphere, exclude=30.0, pos=15.0, verbose="error")
    forward = mne.make_forward_solution(raw.info, trans=None, src=grid, bem=sphere, meg=False, verbose="error")
    np.testing.assert_allclose(before_CT[0], mne.set_eeg_reference(raw, "REST", forward=forward, verbose="error")[0].get_data(), atol=1e-5)
    with pytest.raises(UserError, match="expected at least 8"):
        rest_matrix(heads.NAMES[:4], PLACES)
    with pytest.raises(UserError, match="which reference: \\[rest\\] needs"):
        rest_matrix(heads.NAMES, {})


def test_the_mean_of_named_channels_is_subtracted() -> None:
    eeg_CT = heads.smooth_field(300)
    expected_CT = eeg_CT - (eeg_CT[12] + eeg_CT[16]) / 2
    rereference(eeg_CT, heads.NAMES, ("P7", "P8"), {})
    np.testing.assert_allclose(eeg_CT, expected_CT, atol=1e-5)


def test_devices_of_two_montages_meet_at_the_same_electrodes() -> None:
    target = ("Cz", "Pz", "O1", "AF7", "FCz", "CPz")
    config = MontageConfig(channels=target, max_distance_metres=0.035)
    whole_CT = heads.smooth_field(2_000, [*heads.NAMES, "FCz", "CPz"])
    mapped = to_montage(heads.NAMES, PLACES, config)
    assert mapped.masked == ()
    made_OT = mapped.matrix_OS @ whole_CT[:28]
    np.testing.assert_allclose(made_OT[:3], whole_CT[[9, 14, 17]], atol=1e-9)  # electrodes that it has stay as they are
    for row, name in ((28, "FCz"), (29, "CPz")):
        assert np.corrcoef(made_OT[target.index(name)], whole_CT[row])[0, 1] > 0.98
    headband = ("TP9", "AF7", "AF8", "TP10")
    few = to_montage(headband, heads.places(headband), config)
    assert few.masked == ("Cz", "Pz", "O1", "FCz", "CPz")
    assert (few.matrix_OS[[0, 1, 2, 4, 5]] == 0).all()
    assert few.matrix_OS[3].tolist() == [0, 1, 0, 0]
    with pytest.raises(UserError, match=r"no target is within 0\.035 m"):
        to_montage(["TP9"], heads.places(["TP9"]), config)
    with pytest.raises(UserError, match=r"montage\.channels has XX9, of which standard_1005 has no position"):
        to_montage(headband, heads.places(headband), MontageConfig(channels=("XX9",)))


def test_a_spline_matrix_repeats_a_source_at_its_place() -> None:
    at_C3 = np.array(list(PLACES.values()))
    np.testing.assert_array_equal(spline_matrix(at_C3, at_C3[[3, 5]]), np.eye(28)[[3, 5]])


@pytest.mark.parametrize("threads", [1, 2])
def test_pieces_are_the_whole_and_threads_leave_the_bytes_alone(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    eeg_CT = heads.smooth_field(3_001)
    matrix = np.random.default_rng(3).normal(size=(28, 28))
    expected_CT = matrix @ eeg_CT + 1
    monkeypatch.setattr(linear, "PIECE_VALUES", 28 * 500)
    with threadpool_limits(threads):
        done_CT = eeg_CT.copy()
        linear.apply_in_place(done_CT, matrix, np.ones(28))
    np.testing.assert_allclose(done_CT, expected_CT, rtol=1e-12, atol=1e-10)
    assert linear.applied(eeg_CT, matrix[:3]).shape == (3, 3_001)


def test_what_is_large_lies_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(linear, "LARGE_BYTES", 1_000)
    array = linear.empty((10, 100), np.float64, tmp_path)
    assert isinstance(array, np.memmap)
    array[:] = 3.0
    linear.release(array[2])
    assert array.sum() == 3_000
    assert list(tmp_path.iterdir()) == []  # it has no name


# -------------------------------------------------------------------------------------------------------- bad channels


def noisy_head() -> np.ndarray:
    random = np.random.default_rng(4)
    eeg_CT = heads.smooth_field(7_500) + random.normal(0, 0.5, (28, 7_500)) + np.arange(28)[:, None] * 1_000
    eeg_CT[4] = 5_000  # Fz is dead
    eeg_CT[10] += random.normal(0, 400, 7_500)  # C4: a loose electrode
    eeg_CT[14] += 60 * np.sin(2 * np.pi * 90 * np.arange(7_500) / SFREQ)  # Pz: high frequencies
    eeg_CT[17] = np.mean(eeg_CT[17]) + heads.smooth_field(7_500, seed=99)[0]  # O1: as loud as others and unlike its neighbours
    return eeg_CT


def test_bad_channels_are_found_by_what_is_wrong_with_them() -> None:
    config = BadChannelsConfig(find=("flat", "deviation", "hf_noise", "correlation", "ransac"), names=("T7",))
    found = bad_channels(noisy_head(), heads.NAMES, SFREQ, config, label="sub-01", spans=[(0, 7_500)], positions=PLACES, marked=("P8",))
    assert found["Fz"] == ["flat"]
    assert {"deviation", "correlation"} <= set(found["C4"])
    assert "hf_noise" in found["Pz"]
    assert found["O1"] == ["ransac"] or "correlation" in found["O1"]
    assert found["T7"] == ["named"]
    assert found["P8"] == ["marked"]
    assert set(found) == {"Fz", "C4", "Pz", "O1", "T7", "P8"}


def test_bad_channels_that_cannot_be_found_or_named_are_refused() -> None:
    eeg_CT = noisy_head()

    def find(num_channels: int = 28, n_times: int = 7_500, sfreq: float = SFREQ, **config: Any) -> dict[str, list[str]]:
        settings = BadChannelsConfig(**config)
        part_CT, names, spans = eeg_CT[:num_channels, :n_times], heads.NAMES[:num_channels], [(0, n_times)]
        return bad_channels(part_CT, names, sfreq, settings, label="sub-01_ses-02_run-01", spans=spans, positions={})

    assert find(by_recording={"sub-01_.*": ("Cz",), "sub-02_.*": ("Pz",)}) == {"Cz": ["named"]}
    refused: list[tuple[dict[str, Any], str]] = [
        ({"names": ("XX",)}, "bad_channels names XX, expected channels that are read"),
        ({"names": heads.NAMES[:9]}, r"9 of 28 channels are bad, expected at most 25%"),
        ({"find": ("ransac",)}, r"have no position, which bad_channels\.find: ransac needs"),
        ({"find": ("hf_noise",), "sfreq": 100.0}, "hf_noise, which looks above 50 Hz"),
        ({"find": ("deviation",), "num_channels": 5}, "compares channels and there are 4, expected at least 8"),
        ({"find": ("deviation",), "n_times": 1_000}, "4 s are clean and without breaks, expected at least 10 s"),
    ]
    for arguments, said in refused:
        with pytest.raises(UserError, match=said):
            find(**arguments)
    with pytest.raises(UserError, match=r"'sub-9' fits no recording; there are sub-01_ses-01_run-01"):
        BadChannelsConfig(by_recording={"sub-9": ("Cz",)}).check_labels(["sub-01_ses-01_run-01"])


def test_the_part_that_stands_for_a_recording_is_bounded_clean_and_high_passed() -> None:
    eeg_CT = heads.smooth_field(50_000)[:3] + 1_000
    eeg_CT[:, 20_000:21_000] += 1e6
    spans = without([(0, 50_000)], [(20_000, 21_000)])
    assert spans == [(0, 20_000), (21_000, 50_000)]
    whole_CT = high_passed_part(eeg_CT, [0, 2], SFREQ, spans)
    assert whole_CT.shape == (2, 49_000)
    np.testing.assert_allclose(
        whole_CT[:, :20_000], mne.filter.filter_data(eeg_CT[[0, 2], :20_000], SFREQ, 1.0, None, verbose="error"), atol=1e-7
    )
    part_CT = high_passed_part(eeg_CT, [0, 2], SFREQ, spans, most_values=30_000)
    assert part_CT.shape == (2, 14_000)  # three blocks of 20 s, the last one shorter
    assert np.abs(part_CT).max() < 100
    np.testing.assert_array_equal(high_passed_part(eeg_CT, [0], SFREQ, spans, beside=1, most_values=30_000)[0], part_CT[0])


# ---------------------------------------------------------------------------------------------------------------- eyes


def blinking_head() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Brain, brain with blinks, and an EOG channel that has a little brain and noise of its own."""
    random = np.random.default_rng(5)
    brain_CT = heads.smooth_field(8_000) + random.normal(0, 0.3, (28, 8_000))
    blink_T = heads.blinks(8_000)
    eog_1T = (blink_T + random.normal(0, 3, 8_000))[None] + 4_000
    return brain_CT, brain_CT + heads.blink_topography()[:, None] * blink_T, eog_1T


@pytest.mark.long
@pytest.mark.parametrize(
    ("config", "left"),
    [
        (EyesConfig(method="regression"), 0.1),
        (EyesConfig(method="ica", num_components=12), 0.15),
        (EyesConfig(method="ica", algorithm="fastica", num_components=8), 0.15),
        (EyesConfig(method="ica", channels=("Fp1",), num_components=8), 0.15),
        (EyesConfig(method="ica", algorithm="fastica", num_components=14, criterion="zscore"), 0.15),
    ],
    ids=["regression", "picard", "fastica", "ica by a frontal channel", "z"],
)
def test_a_known_blink_is_taken_out(config: EyesConfig, left: float) -> None:
    brain_CT, eeg_CT, eog_1T = blinking_head()
    blinked_CT = eeg_CT - brain_CT
    kwargs: dict[str, Any] = {"bad": ["Oz"], "spans": [(0, 8_000)], "positions": PLACES}
    done_CT = eeg_CT.copy()
    found = clean_eyes(done_CT, heads.NAMES, eog_1T, ["VEOG"], SFREQ, config, **kwargs)
    during_T = heads.blinks(8_000) > 50
    frontal = [0, 1]
    remains = np.sqrt(((done_CT - brain_CT)[frontal][:, during_T] ** 2).mean())
    assert remains < left * np.sqrt((blinked_CT[frontal][:, during_T] ** 2).mean())
    assert np.corrcoef(done_CT[14], brain_CT[14])[0, 1] > 0.97  # Pz keeps its brain
    np.testing.assert_array_equal(done_CT[18], eeg_CT[18])  # Oz is bad and left alone
    if config.method == "ica":
        assert [each["follows"] for each in found["removed"]] == [(config.channels or ("VEOG",))[0]]
        again_CT = eeg_CT.copy()
        with threadpool_limits(2):
            clean_eyes(again_CT, heads.NAMES, eog_1T, ["VEOG"], SFREQ, config, **kwargs)
        assert again_CT.tobytes() == done_CT.tobytes()


def test_regression_is_mnes() -> None:
    _, eeg_CT, eog_1T = blinking_head()
    eeg_CT, eog_1T = (mne.filter.filter_data(each, SFREQ, 1.0, None, verbose="error") for each in (eeg_CT, eog_1T))
    raw = raw_of(np.vstack([eeg_CT, eog_1T]), {"VEOG": "eog"}).set_eeg_reference([], verbose="error")
    expected_CT = mne.preprocessing.EOGRegression(picks="eeg").fit(raw).apply(raw).get_data("eeg")
    clean_eyes(eeg_CT, heads.NAMES, eog_1T, ["VEOG"], SFREQ, EyesConfig(method="regression"), bad=[], spans=[(0, 8_000)], positions=PLACES)
    np.testing.assert_allclose(eeg_CT, expected_CT, atol=0.5)  # weights of a signal high-passed once more


def test_eye_channels_that_cannot_serve_are_refused() -> None:
    _, eeg_CT, eog_1T = blinking_head()
    eeg_CT, eog_1T = eeg_CT[:, :3_000], eog_1T[:, :3_000]
    averaged_CT = eeg_CT - eeg_CT.mean(0)
    both_ET = np.vstack([eog_1T, 2 * eog_1T])

    def refused(said: str, eeg_CT: np.ndarray, eyes_ET: np.ndarray, names: list[str], **config: Any) -> None:
        settings = EyesConfig(**({"method": "regression"} | config))
        with pytest.raises(UserError, match=said):
            clean_eyes(eeg_CT, heads.NAMES, eyes_ET, names, SFREQ, settings, bad=["Fp2"], spans=[(0, 3_000)], positions={})

    refused("there is no channel of type eog", eeg_CT, np.zeros((0, 3_000)), [])
    refused(r"eyes.channels has HEOG, expected channels of type eog \(VEOG\)", eeg_CT, eog_1T, ["VEOG"], channels=("HEOG",))
    refused("eyes.channels has Fp1, which is EEG", eeg_CT, eog_1T, ["VEOG"], channels=("Fp1",))
    refused("eyes.channels has Fp2, which is a bad channel", eeg_CT, eog_1T, ["VEOG"], channels=("Fp2",), method="ica")
    refused("eye channel VEOG is constant", eeg_CT, 0 * eog_1T, ["VEOG"])
    refused("follow from each other", eeg_CT, both_ET, ["V1", "V2"])
    refused(
        "num_components is 27 and the signal has 26 independent of 27",
        averaged_rank(averaged_CT),
        eog_1T,
        ["VEOG"],
        method="ica",
        num_components=27,
    )
    refused("have no position, which eyes.muscle needs", eeg_CT, eog_1T, ["VEOG"], method="ica", muscle=0.5)
    with pytest.raises(ValueError, match="expected method ica"):
        EyesConfig(method="regression", num_components=3)


def averaged_rank(eeg_CT: np.ndarray) -> np.ndarray:
    """The good channels referenced to their own average: one of them follows from the others."""
    good = [i for i, name in enumerate(heads.NAMES) if name != "Fp2"]
    out_CT = eeg_CT.copy()
    out_CT[good] -= out_CT[good].mean(0)
    return out_CT


# -------------------------------------------------------------------------------------------------------------- trials


def test_robust_scaling_is_scikit_learns_and_clamping_holds_and_counts() -> None:
    random = np.random.default_rng(6)
    trials_BCT = (random.normal(3, 10, (40, 3, 50)) * np.array([1, 5, 0])[:, None]).astype(np.float32)
    trials_BCT[0, 0, :5] = 1e4
    names = ["Cz", "Pz", "Oz"]
    scaled_BCT, found = scale_and_clamp(trials_BCT, names, scale=True, clamp_sd=None, masked=("Oz",))
    for c in range(2):
        expected = RobustScaler(unit_variance=True).fit_transform(trials_BCT[:, c].reshape(-1, 1).astype(np.float64))
        np.testing.assert_allclose(scaled_BCT[:, c].ravel(), expected.ravel(), rtol=1e-5, atol=1e-6)
    assert (scaled_BCT[:, 2] == 0).all()
    assert set(found["robust_sd"]) == {"Cz", "Pz"}
    held_BCT, found = scale_and_clamp(trials_BCT, names, scale=True, clamp_sd=5.0, masked=("Oz",))
    assert (held_BCT[0, 0, :5] == 5).all()
    assert found["clamped_values"] == 5
    np.testing.assert_array_equal(held_BCT[1:], scaled_BCT[1:])
    only_BCT, _ = scale_and_clamp(trials_BCT, names, scale=False, clamp_sd=5.0, masked=("Oz",))
    np.testing.assert_allclose(only_BCT[1:], trials_BCT[1:], rtol=1e-4, atol=1e-4)
    assert only_BCT[0, 0].max() < 100
    with pytest.raises(UserError, match="channel Oz: half of its values are 0"):
        scale_and_clamp(trials_BCT, names, scale=True, clamp_sd=None)


@pytest.mark.parametrize("method", ["local", "global"])
def test_autoreject_drops_loud_trials_and_mends_single_channels_alike_each_time(method: Any) -> None:
    trials_BCT = heads.smooth_field(30 * 100).reshape(28, 30, 100).transpose(1, 0, 2).astype(np.float32)[:, :10]
    random = np.random.default_rng(7)
    trials_BCT[3] += random.normal(0, 500, (10, 100))  # all of it
    trials_BCT[7, 2] += random.normal(0, 500, 100)  # one channel
    names = heads.NAMES[:10]
    config = AutorejectConfig(method=method, num_interpolate=(1, 2), consensus=(0.3, 0.6), folds=3)
    done_BCT, keep_B, found = autoreject(trials_BCT, names, SFREQ, config, PLACES)
    assert not keep_B[3]
    if method == "local":
        assert keep_B.sum() >= 27
        assert keep_B[7]
        assert np.abs(done_BCT[7, 2]).max() < 200
        assert found["interpolated_in_trials"]["F7"] >= 1
    else:
        mne_epochs = mne.EpochsArray(1e-6 * trials_BCT.astype(np.float64), mne.create_info(list(names), SFREQ, "eeg"), verbose="error")
        mne_epochs.drop_bad({"eeg": (1 + 1e-9) * 1e-6 * found["limit_microvolts"]}, verbose="error")
        assert mne_epochs.selection.tolist() == np.flatnonzero(keep_B).tolist()
    again_BCT, again_B, _ = autoreject(trials_BCT, names, SFREQ, config, PLACES)
    assert again_BCT.tobytes() == done_BCT.tobytes()
    assert again_B.tolist() == keep_B.tolist()
    with pytest.raises(UserError, match="5 trials are left, autoreject needs at least 6"):
        autoreject(trials_BCT[:5], names, SFREQ, config, PLACES)
