"""Raw THINGS-EEG2 sessions: every event is the image of its number, every trial the window around it, every loss counted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.contract.errors import StudyError
from data_prep.shards.open import open_study
from data_prep.shards.write import ShardConfig, write_study
from data_prep.studies.cutting import CuttingConfig
from data_prep.studies.things_raw import ThingsRawReaderConfig, ThingsRawSource
from tests.helpers.things_files import TRAIN, write_dict, write_metadata, write_presentation_order

CH_NAMES = ("Pz", "P3", "O1", "Oz")
SFREQ = 100.0
WHOLE = CuttingConfig(band_hz=None, tmin=-0.1, tmax=0.5)


def write_raw(
    file: Path, codes: Sequence[int], *, made_at: float = SFREQ, seed: int = 0, length: int = 4, hold: int = 1, **changes: Any
) -> Any:
    """A session file: 20 µV of noise, images every 200 ms in sequences of ``length`` a second and a half apart; returns data and onsets."""
    sfreq = made_at
    soa, pause = round(0.2 * sfreq), round(1.5 * sfreq)
    onsets = [round(2 * sfreq) + i * soa + (i // length) * pause for i in range(len(codes))]
    rng = np.random.default_rng(seed)
    data = np.vstack([20e-6 * rng.standard_normal((len(CH_NAMES), onsets[-1] + 2 * pause)), np.zeros(onsets[-1] + 2 * pause)])
    for onset, code in zip(onsets, codes, strict=True):
        data[-1, onset : onset + hold] = code
    content = {
        "raw_eeg_data": data,
        "ch_names": [*CH_NAMES, "stim"],
        "ch_types": ["eeg"] * len(CH_NAMES) + ["stim"],
        "sfreq": sfreq,
        "highpass": 0.01,
        "lowpass": 100,
    }
    write_dict(file, content | changes)
    return data, onsets


def write_sessions(root: Path, **options: Any) -> dict[str, tuple[np.ndarray, list[int], list[int]]]:
    """Two sessions of a subject: data, onsets and codes by ``SESSION PART``."""
    write_metadata(root)
    rng = np.random.default_rng(1)
    written = {}
    for session, images in (("01", [1, 2, 3]), ("02", [4, 5, 6])):
        for part, codes in (("training", [*images, *images, images[0], 99999]), ("test", [1, 2, 3] * 4 + [99999] * 2)):
            shown = rng.permutation(codes).tolist()
            file = root / f"sub-01/ses-{session}/raw_eeg_{part}.npy"
            written[f"{session} {part}"] = (*write_raw(file, shown, seed=len(written), **options), shown)
    return written


def opened(root: Path, **changes: Any) -> ThingsRawSource:
    return ThingsRawReaderConfig(root=str(root), require_images=False, **({"trials": WHOLE} | changes)).open()


@pytest.mark.parametrize("hold", [1, 5])
@pytest.mark.parametrize("at_once", [3, 256])
def test_trials_are_the_windows_around_the_events_of_each_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hold: int, at_once: int
) -> None:
    monkeypatch.setattr("data_prep.studies.cutting._TRIALS_AT_ONCE", at_once)
    written = write_sessions(tmp_path, hold=hold)
    source = opened(tmp_path)
    facts = source.facts
    assert (facts.sfreq, facts.tmin, facts.n_times, facts.ch_names, facts.unit) == (SFREQ, -0.1, 60, list(CH_NAMES), "microvolts")
    assert facts.positions is not None
    assert len(facts.positions) == 4
    assert (facts.sessions, len(facts.stimuli)) == (["01", "02"], 9)
    assert facts.recordings == [f"sub-01_ses-{s}_run-{part}" for s in ("01", "02") for part in ("training", "test")]
    for number, plan in enumerate(source.samples):
        part, code = ("training", plan.stimulus + 1) if plan.stimulus < 6 else ("test", plan.stimulus - 5)
        expected = [
            (session, place, data[:4, onset - 10 : onset + 50] * 1e6, onset / SFREQ)
            for session in ("01", "02")
            for data, onsets, codes in [written[f"{session} {part}"]]
            for place, (onset, shown) in enumerate(zip(onsets, codes, strict=True))
            if shown == code
        ]
        assert [facts.sessions[s] for s in plan.session] == [session for session, *_ in expected]
        assert plan.trial == [place for _, place, *_ in expected]
        assert plan.clean_baseline == [place % 4 == 0 for _, place, *_ in expected]
        assert plan.onset_seconds == pytest.approx([onset for *_, onset in expected])
        np.testing.assert_allclose(source.eeg(number), np.stack([eeg for _, _, eeg, _ in expected]), rtol=1e-5, atol=1e-4)
    said = facts.preprocessing
    assert said["trials"] == {"events": 44, "targets": 6, "kept": 38}
    assert said["amplifier_hz"] == [{"highpass": 0.01, "lowpass": 100.0}]
    assert [count.get("held_triggers") for count in said["trials_by_recording"]] == ([None] * 4 if hold == 1 else [8, 14, 8, 14])


def test_five_runs_are_told_apart_by_the_jump_between_them_and_never_filtered_across(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    write_metadata(tmp_path)
    codes = rng.integers(1, 7, 5 * 3360).tolist()
    file = tmp_path / "sub-01/ses-01/raw_eeg_training.npy"
    data, onsets = write_raw(file, codes, made_at=20.0, length=20)
    joins = [(onsets[run * 3360 - 1] + onsets[run * 3360]) // 2 for run in range(1, 5)]
    for number, join in enumerate(joins):
        data[:4, join:] += (-1) ** number * 3e-3
    write_dict(file, {"raw_eeg_data": data, "ch_names": [*CH_NAMES, "stim"], "ch_types": ["eeg"] * 4 + ["stim"], "sfreq": 20})
    trials = CuttingConfig(band_hz=(0.5, 8.0), tmin=-0.2, tmax=0.8)
    source = opened(tmp_path, parts=("training",), trials=trials)
    assert source.facts.recordings == [f"sub-01_ses-01_run-{run:02d}" for run in range(1, 6)]
    assert "unclear" not in source.facts.preprocessing
    for plan in source.samples[:1]:
        for recording, place, seconds in zip(plan.recording, plan.trial, plan.onset_seconds, strict=True):
            assert seconds == pytest.approx((onsets[recording * 3360 + place] - [0, *joins][recording]) / 20.0)
    assert max(np.abs(source.eeg(i)).max() for i in range(len(source.samples))) < 150  # the joins jump by 3 mV
    assert source.facts.preprocessing["trials"]["kept"] == 5 * 3360


def test_events_are_held_against_the_presentation_order(tmp_path: Path) -> None:
    orders = write_presentation_order(tmp_path / "order", 1, 6)
    write_metadata(tmp_path)
    for session, order in enumerate(orders):
        flat = order.ravel(order="F")
        write_raw(tmp_path / f"sub-01/ses-{session + 1:02d}/raw_eeg_training.npy", np.where(flat == 0, 99999, flat).tolist())
    wanted = {"parts": ("training",), "presentation_order": str(tmp_path / "order")}
    assert {plan.n_reps for plan in opened(tmp_path, **wanted).samples} <= {4, 5, 6}
    assert "unclear" in opened(tmp_path, **wanted).facts.preprocessing
    flat[[0, 5]] = flat[[5, 0]] if flat[0] != flat[5] else flat[[0, 5]] % 6 + 1
    write_raw(tmp_path / "sub-01/ses-04/raw_eeg_training.npy", np.where(flat == 0, 99999, flat).tolist())
    with pytest.raises(StudyError, match=r"ses-04/raw_eeg_training\.npy: .*from place 0 on they differ"):
        opened(tmp_path, **wanted)


@pytest.mark.parametrize(("changes", "message"), [
    ({"ch_types": ["eeg"] * 5}, "has 0 channels of type stim"),
    ({"ch_types": ["eeg"] * 4}, "5 channels of raw_eeg_data, 5 ch_names and 4 ch_types"),
    ({"ch_names": ["Pz", "Pz", "O1", "Oz", "stim"]}, "has channel 'Pz' twice"),
    ({"ch_names": ["Pz", "P3", "O1", "Cz", "stim"]}, "lacks channel 'Oz'"),
    ({"sfreq": 250}, "is sampled at 250 Hz, expected 100 Hz"),
    ({"sfreq": 0}, "sfreq is 0, expected a number of Hz"),
    ({"raw_eeg_data": np.zeros((5, 0))}, "expected real numbers"),
    ({"raw_eeg_data": [[0.0]]}, "raw_eeg_data is a list, expected real numbers"),
    ({"raw_eeg_data": np.zeros((5, 4000))}, "its stim channel is 0 throughout"),
    ({"raw_eeg_data": np.vstack([np.ones((4, 900)), np.full(900, 0.5)])}, "holds values that are no event codes"),
    ({"raw_eeg_data": np.vstack([np.ones((4, 900)), np.r_[0, 7, np.zeros(898)]])}, r"event code 7 \(1 such events\), expected"),
    ({"raw_eeg_data": np.vstack([np.ones((4, 900)), np.r_[0, 6, np.zeros(898)]])}, "has a level of 0 µV"),
])  # fmt: skip
def test_files_that_contradict_themselves_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_sessions(tmp_path)
    write_raw(tmp_path / "sub-01/ses-02/raw_eeg_training.npy", [4, 5, 6], **changes)
    with pytest.raises(StudyError, match=message) as caught:
        opened(tmp_path)
    assert "ses-02/raw_eeg_training.npy" in str(caught.value)


def test_bad_channels_are_mended_and_scaled_trials_are_z_scores(tmp_path: Path) -> None:
    from data_prep.preprocess.bad_channels import BadChannelsConfig

    write_sessions(tmp_path)
    for session in ("01", "02"):
        for part, shown in (("training", [1, 2, 3]), ("test", [1, 2, 3])):
            names = ["Pz", "P3", "O1", "Oz", "Cz", "Fz", "stim"]
            data, _ = write_raw(tmp_path / "scratch.npy", shown * 6)
            data = np.vstack([data[:4], 1e-5 * np.random.default_rng(5).standard_normal((2, data.shape[1])), data[4:]])
            data[3] = 0
            content = {"raw_eeg_data": data, "ch_names": names, "ch_types": ["eeg"] * 6 + ["stim"], "sfreq": SFREQ}
            write_dict(tmp_path / f"sub-01/ses-{session}/raw_eeg_{part}.npy", content)
    with pytest.raises(StudyError, match="channel Oz is constant"):
        opened(tmp_path)
    trials = CuttingConfig(band_hz=None, tmin=-0.1, tmax=0.5, bad_channels=BadChannelsConfig(find=("flat",)), robust_scaling=True)
    source = opened(tmp_path, trials=trials)
    assert source.facts.unit == "zscore"
    assert np.ptp(source.eeg(0)[:, 3], axis=1).min() > 0
    assert source.facts.preprocessing["trials_by_recording"][0]["steps"]["bad_channels"]


def test_a_unit_that_the_level_contradicts_is_refused_with_the_one_that_fits(tmp_path: Path) -> None:
    write_sessions(tmp_path)
    with pytest.raises(StudyError, match=r"read as microvolts has a level of .* they look like volts"):
        opened(tmp_path, unit="microvolts")


def test_what_is_missing_is_named_and_what_is_asked_for_is_read(tmp_path: Path) -> None:
    write_sessions(tmp_path)
    assert opened(tmp_path, sessions=("02",), channels=("Oz", "Pz")).facts.ch_names == ["Oz", "Pz"]
    assert opened(tmp_path, parts=("test",)).facts.recordings == ["sub-01_ses-01_run-test", "sub-01_ses-02_run-test"]
    with pytest.raises(StudyError, match="has no ses-03 folder; it has 01, 02"):
        opened(tmp_path, sessions=("03",))
    (tmp_path / "sub-01/ses-02/raw_eeg_test.npy").unlink()
    with pytest.raises(StudyError, match=r"ses-02/raw_eeg_test\.npy: no such file"):
        opened(tmp_path)
    (tmp_path / "image_metadata.npy").unlink()
    with pytest.raises(StudyError, match=r"image_metadata\.npy: no such file"):
        opened(tmp_path)


def test_raw_sessions_become_a_study_that_knows_sessions_and_clean_baselines(tmp_path: Path) -> None:
    write_sessions(tmp_path)
    reader = ThingsRawReaderConfig(root=str(tmp_path), require_images=False)
    manifest = write_study(ShardConfig(reader=reader, output=str(tmp_path / "out")))
    study = open_study(tmp_path / "out")
    assert (manifest.signal.sfreq, manifest.signal.n_times, manifest.clean_baseline) == (250.0, 250, True)
    assert manifest.preprocessing["whitening_saw_test"] == "no"
    assert (study.table.clean_baseline == 1).sum() > 0
    assert len(manifest.tables.stimuli) == len(TRAIN) + 3
