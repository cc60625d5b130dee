"""The Muse reader on the real recordings, and on files broken in every way a user's may be."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from data_prep.contract import cli
from data_prep.contract.errors import StudyError
from data_prep.studies.base import ReaderConfig
from data_prep.studies.muse import MuseReaderConfig
from data_prep.workers.piece import Call, opened, sent
from tests.helpers.shared_data import shared_data

HEADER = "timestamps,TP9,AF7,AF8,TP10,Right AUX,Marker0"


@dataclass(frozen=True, kw_only=True)
class _Holder:
    """A command's config with a reader in it."""

    reader: ReaderConfig
    """Any reader."""


def write_recording(
    folder: Path, *, seconds: float = 20.0, sfreq: float = 256.0, header: str = HEADER, edit=None, name: str = "a.csv"
) -> Path:
    """A small recording in the real format: 10 Hz in every channel, a face or a house every second."""
    n_times = round(seconds * sfreq)
    rng = np.random.default_rng(0)
    table = np.zeros((n_times, 7))
    table[:, 0] = np.round(1528297607.954 + np.arange(n_times) / sfreq, 3)
    table[:, 1:6] = 10 * np.sin(2 * np.pi * 10 * np.arange(n_times) / 256)[:, None] + rng.normal(0, 3, (n_times, 5))
    onsets = np.arange(256, n_times, 256)
    table[onsets, 6] = 1 + np.arange(len(onsets)) % 2
    if edit is not None:
        table = edit(table)
    file = folder / "subject1" / "session1" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    columns = [HEADER.split(",").index(c) if c in HEADER.split(",") else 6 for c in header.split(",")]
    np.savetxt(file, table[:, columns], fmt="%.3f", delimiter=",", header=header, comments="")
    return file


def test_n170_subject_1_as_measured() -> None:
    muse = shared_data() / "muse_visual"
    source = MuseReaderConfig(root=str(muse / "eeg/N170"), stimuli=str(muse / "stimuli/face_house"), subjects=("1",)).open()
    facts = source.facts
    assert (facts.stimulus_level, facts.unit, facts.sfreq, facts.n_times) == ("class", "microvolts", 256.0, 256)
    assert facts.concepts == ["house", "face"]
    assert facts.recordings == [f"sub-01_ses-01_run-{run:02d}" for run in range(1, 7)]
    assert len(source.samples) == facts.preprocessing["trials"]["kept"] == 1136
    assert facts.preprocessing["trials"]["marked"] == 1174
    assert facts.class_images is not None
    assert {number: (len(files), files[0].parent.name) for number, files in facts.class_images.items()} == {
        0: (48, "houses"),
        1: (48, "faces"),
    }
    eeg_BCT = np.stack([source.eeg(i)[0] for i in range(len(source.samples))])
    assert eeg_BCT.dtype == np.float32
    assert np.ptp(eeg_BCT, axis=-1).max() <= 100.0
    np.testing.assert_allclose(eeg_BCT[..., :51].mean(-1), 0, atol=1e-4)
    # The face response of the literature: more negative than to houses at the temporal electrodes 170 ms after onset, which the
    # radio link delays by some 40 ms here, and more positive after it.
    stimulus = np.array([sample.stimulus for sample in source.samples])
    difference_T = eeg_BCT[stimulus == 1][:, [0, 3]].mean((0, 1)) - eeg_BCT[stimulus == 0][:, [0, 3]].mean((0, 1))
    seconds_T = facts.tmin + np.arange(facts.n_times) / facts.sfreq
    assert difference_T[(seconds_T > 0.2) & (seconds_T < 0.24)].mean() < -1.0
    assert difference_T[(seconds_T > 0.27) & (seconds_T < 0.31)].mean() > 1.0


@pytest.mark.long
def test_all_subjects_rejection_is_reported_and_recordings_without_trials_are_left_out() -> None:
    source = MuseReaderConfig(root=str(shared_data() / "muse_visual/eeg/N170")).open()
    assert source.facts.subjects == ["01", "10", "11"]
    assert source.facts.class_images is None
    counts = {c["recording"]: c for c in source.facts.preprocessing["trials_by_recording"]}
    assert len(counts) == 11
    assert sum(c["kept"] for name, c in counts.items() if name.startswith("sub-10")) == 19
    assert counts["sub-10_ses-01_run-02"]["rejected"] == 9
    assert "sub-10_ses-02_run-01" not in source.facts.recordings  # a file .csv.csv with a single marker, at its first row
    assert all(abs(c["measured_hz"] - 256) < 0.1 for c in counts.values())
    assert len({sample.key for sample in source.samples}) == len(source.samples)


@pytest.mark.long
def test_p300_has_another_marker_column_and_a_rare_target() -> None:
    muse = shared_data() / "muse_visual"
    source = MuseReaderConfig(
        root=str(muse / "eeg/P300"), stimuli=str(muse / "stimuli/cats_dogs"), experiment="P300", resample_hz=128.0, reject_microvolts=None
    ).open()
    assert source.facts.concepts == ["dog", "cat"]
    assert source.facts.sessions == ["01", "02"]
    assert (source.facts.sfreq, source.facts.n_times) == (128.0, 128)
    cats = np.mean([sample.stimulus for sample in source.samples])
    assert 0.1 < cats < 0.2
    assert source.facts.preprocessing["trials"]["rejected"] == 0
    assert source.facts.class_images is not None
    assert all("nontarget" in f.name for f in source.facts.class_images[0])
    assert all(f.name.startswith("target") for f in source.facts.class_images[1])


def test_reading_twice_gives_the_same_and_any_order(tmp_path: Path) -> None:
    for name in ("b.csv", "a.csv.csv", "c.csv"):
        write_recording(tmp_path, name=name)
    one, two = MuseReaderConfig(root=str(tmp_path)).open(), MuseReaderConfig(root=str(tmp_path)).open()
    assert one.source_hash == two.source_hash
    assert one.samples == two.samples
    assert one.samples[0].key == "sub-01_ses-01_run-01_trial-00000"
    last_first = [one.eeg(i) for i in reversed(range(len(one.samples)))][::-1]
    assert all(np.array_equal(two.eeg(i), eeg) for i, eeg in enumerate(last_first))
    assert one.eeg(0).shape == (1, 4, 256)
    on_a_worker = opened(sent(Call.here(len, one))).shared
    assert all(np.array_equal(on_a_worker.eeg(i), eeg) for i, eeg in enumerate(last_first))


def test_onsets_and_counts(tmp_path: Path) -> None:
    write_recording(tmp_path, seconds=20.5)
    source = MuseReaderConfig(root=str(tmp_path), reject_microvolts=None, band_hz=None, baseline_seconds=None).open()
    assert [sample.onset_seconds[0] for sample in source.samples] == [float(s) for s in range(1, 20)]
    assert source.facts.preprocessing["trials"] == {"marked": 20, "incomplete": 1, "rejected": 0, "kept": 19, "railed": 0}
    assert [sample.stimulus for sample in source.samples[:4]] == [0, 1, 0, 1]


def test_railed_trials_are_marked(tmp_path: Path) -> None:
    def rail(table: np.ndarray) -> np.ndarray:
        table[256 * 3 + 20, 2] = 1000.0
        return table

    write_recording(tmp_path, edit=rail)
    source = MuseReaderConfig(root=str(tmp_path), reject_microvolts=None).open()
    assert [sample.trial[0] for sample in source.samples if sample.quality == ["railed"]] == [2]
    assert source.facts.preprocessing["trials"]["railed"] == 1


def _set(row, column: int, value: float):
    def edit(table: np.ndarray) -> np.ndarray:
        table[row, column] = value
        return table

    return edit


def _gap(table: np.ndarray) -> np.ndarray:
    table[2000:, 0] += 1.5
    return table


BROKEN = {
    "no marker column": ({"header": "timestamps,TP9,AF7,AF8,TP10,Right AUX"}, {}, "0 marker columns, expected exactly one whose name"),
    "missing channel": ({"header": "timestamps,TP9,AF7,TP10,Right AUX,Marker0"}, {}, "no column 'AF8', its columns are"),
    "no timestamps": ({"header": "TP9,AF7,AF8,TP10,Right AUX,Marker0"}, {}, "no column 'timestamps'"),
    "not a number": ({"edit": _set(700, 2, np.nan)}, {}, "the first is nan in column 'AF7' of data row 701"),
    "constant channel": ({"edit": _set(slice(None), 4, 12.5)}, {}, "channel 'TP10' is constant .12.5 µV"),
    "wrong rate": ({"sfreq": 250.0}, {}, "timestamps say 250.0 Hz, expected 256 Hz"),
    "contradicting configured rate": ({}, {"expect_sfreq": 500.0}, "timestamps say 256.0 Hz, expected 500 Hz"),
    "gap": ({"edit": _gap}, {}, r"a gap of 1.50\d s at 7.8\d* s"),
    "no rows": ({"seconds": 0.0}, {}, "empty recording"),
    "one row": ({"seconds": 0.004, "edit": _set(0, 6, 1)}, {}, "no column|constant|1 data row"),
    "no onset": ({"edit": _set(slice(None), 6, 0)}, {}, "no stimulus onset: column 'Marker0' is 0"),
    "unknown marker": ({"edit": _set(256, 6, 9)}, {}, r"marker codes \[9\] are unknown, expected \{1: 'house', 2: 'face'\}"),
    "all rejected": ({}, {"reject_microvolts": 1.0}, r"subject 01 has no trial left: 19 of 19 exceed reject_microvolts = 1.0"),
    "band above Nyquist": ({}, {"band_hz": (1.0, 200.0)}, "high_hz is 200.0 Hz"),
    "notch above Nyquist": ({}, {"notch_hz": 200.0}, "notch_hz is 200.0 Hz"),
    "another marker column": ({}, {"marker_column": "Trigger"}, "0 marker columns, expected exactly 'Trigger'"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_input_is_one_sentence_that_names_the_file(tmp_path: Path, case: str) -> None:
    recording, config, says = BROKEN[case]
    file = write_recording(tmp_path, **recording)
    with pytest.raises(StudyError, match=says) as error:
        MuseReaderConfig(root=str(tmp_path), **config).open()
    assert "\n" not in str(error.value)
    assert str(tmp_path if case == "all rejected" else file) in str(error.value)


def test_text_in_a_cell_and_binary_rubbish(tmp_path: Path) -> None:
    file = write_recording(tmp_path)
    lines = file.read_text().splitlines()
    lines[5] = lines[5].replace(",", ",x", 1)
    file.write_text("\n".join(lines))
    with pytest.raises(StudyError, match=r"a.csv: not a table of numbers"):
        MuseReaderConfig(root=str(tmp_path)).open()
    file.write_bytes(bytes(range(256)) * 40)
    with pytest.raises(StudyError, match=r"a.csv: no column"):
        MuseReaderConfig(root=str(tmp_path)).open()


def test_folders_and_subjects_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no such folder"):
        MuseReaderConfig(root=str(tmp_path / "none")).open()
    with pytest.raises(StudyError, match="no recording, expected subject"):
        MuseReaderConfig(root=str(tmp_path)).open()
    write_recording(tmp_path)
    with pytest.raises(StudyError, match=r"subjects is \['7'\], found \[1\]"):
        MuseReaderConfig(root=str(tmp_path), subjects=("7",)).open()
    with pytest.raises(StudyError, match="no image of class 'house' matches"):
        MuseReaderConfig(root=str(tmp_path), stimuli=str(tmp_path)).open()


def test_config_contradictions_name_the_field() -> None:
    for fields, says in [
        ({"tmin": 0.5, "tmax": 0.1}, "tmin is 0.5 s and tmax 0.1 s"),
        ({"baseline_seconds": (-0.5, 0.0)}, "baseline_seconds is -0.5..0.0 s"),
        ({"reject_microvolts": -1.0}, "reject_microvolts is -1.0"),
        ({"markers": {0: "nothing"}}, "markers is"),
        ({"class_images": {"face": "../../*.jpg"}}, "class_images.face"),
        ({"channels": ("TP9", "TP9")}, "channels is"),
    ]:
        with pytest.raises(ValueError, match=says):
            MuseReaderConfig(root="x", **fields)


def test_config_survives_yaml_and_overrides(tmp_path: Path) -> None:
    write_recording(tmp_path)
    config = MuseReaderConfig(root=str(tmp_path), markers={2: "face", 1: "house"}, band_hz=(None, 40.0), subjects=("1",))
    again = cli.from_plain(_Holder, {"reader": cli.to_plain(config, ReaderConfig)}).reader
    assert again == config
    assert again.open().facts.concepts == ["face", "house"]


def test_a_copied_study_has_the_same_source_hash_and_an_altered_one_has_not(tmp_path: Path) -> None:
    write_recording(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    one, two = (MuseReaderConfig(root=str(tmp_path / name)).open().source_hash for name in "ab")
    assert one == two
    write_recording(tmp_path / "b", edit=_set(300, 1, 7.0))
    assert MuseReaderConfig(root=str(tmp_path / "b")).open().source_hash != one
