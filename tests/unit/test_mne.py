"""The reader ``mne``: the same recording in every format gives the same trials; what cannot be right is one sentence."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.contract import cli
from data_prep.contract.errors import StudyError
from data_prep.contract.manifest import read_manifest
from data_prep.shards.write import ShardConfig, run
from data_prep.studies import recording_child
from data_prep.studies.channels import ChannelsConfig
from data_prep.studies.cutting import CuttingConfig
from data_prep.studies.events import EventsConfig
from data_prep.studies.formats import Formats
from data_prep.studies.mne import MneReaderConfig
from data_prep.studies.recordings_study import RecordingsSource
from data_prep.studies.signal_tables import ArrayConfig, CsvConfig
from data_prep.studies.xdf import XdfConfig
from tests.helpers import recordings as made
from tests.helpers.readme import PAGES, ROOT, files
from tests.helpers.recordings import CH_NAMES, ONSETS, SFREQ

CSV = CsvConfig(channels=CH_NAMES, time="time", marker="stim", sfreq=SFREQ)
BY_CODE = {"1": "left", "2": "right"}
BRAINVISION = EventsConfig(source="annotations", names={"Stimulus/S  1": "left", "Stimulus/S 2": "right"})
EGI = {"E1": "Fz", "E2": "Cz", "E3": "Oz"}
WINDOW = CuttingConfig(band_hz=None, tmin=-0.1, tmax=0.4)
AT_ONSET = 25
"""Time point of the onset in a trial."""


def study(root: Path, files: str = "sub-{subject}.*", **changes: Any) -> RecordingsSource:
    events = changes.pop("events", EventsConfig(source="annotations"))
    trials = changes.pop("trials", WINDOW)
    return MneReaderConfig(root=str(root), files=files, events=events, trials=trials, **changes).open()


def check(source: RecordingsSource, eeg_CT: np.ndarray, tolerance: float = 0.02) -> None:
    """All trials of the made recording, at their place and in microvolts."""
    facts = source.facts
    assert (facts.sfreq, facts.n_times, facts.tmin, facts.unit) == (SFREQ, 125, -0.1, "microvolts")
    assert facts.ch_names == list(CH_NAMES)
    assert facts.concepts == ["left", "right"]
    assert [facts.concepts[sample.stimulus] for sample in source.samples] == [made.shown(i) for i in range(len(ONSETS))]
    assert [sample.onset_seconds for sample in source.samples] == [[round(onset / SFREQ, 4)] for onset in ONSETS]
    for i, onset in enumerate(ONSETS):
        np.testing.assert_allclose(source.eeg(i)[0], eeg_CT[:, onset - AT_ONSET : onset - AT_ONSET + 125], atol=tolerance)
        assert source.eeg(i)[0, 0, AT_ONSET] == pytest.approx(100.0, abs=tolerance)


FORMATS: dict[str, tuple[Callable[[Path, np.ndarray], Path], str, dict[str, Any]]] = {
    "EDF": (made.write_edf, "sub-01.edf", {}),
    "BDF": (lambda file, eeg: made.write_edf(file, eeg, bdf=True), "sub-01.bdf", {}),
    "BrainVision": (made.write_brainvision, "sub-01.vhdr", {"events": BRAINVISION, "files": "sub-{subject}.vhdr"}),
    "EEGLAB": (made.write_eeglab, "sub-01.set", {"events": EventsConfig(source="eeglab", column="side", where={"type": "square"})}),
    "FIF": (made.write_fif, "sub-01_raw.fif", {"files": "sub-{subject}_raw.fif"}),
    "CSV": (made.write_csv, "sub-01.csv", {"csv": CSV, "events": EventsConfig(source="markers", names=BY_CODE)}),
    "GDF": (made.write_gdf, "sub-01.gdf", {"events": EventsConfig(source="annotations", names=BY_CODE)}),
    "Neuroscan CNT": (made.write_neuroscan, "sub-01.cnt", {"events": EventsConfig(source="annotations", names=BY_CODE)}),
    "EEGLAB 7.3": (made.write_eeglab_73, "sub-01.set", {"events": EventsConfig(source="eeglab", column="side", where={"type": "square"})}),
    "EGI MFF": (made.write_mff, "sub-01.mff", {"channels": ChannelsConfig(rename=EGI, pick=CH_NAMES)}),
    "XDF": (made.write_xdf, "sub-01.xdf", {"events": EventsConfig(source="markers")}),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_recording_in_any_format_gives_the_same_trials(tmp_path: Path, name: str) -> None:
    write, file, reader = FORMATS[name]
    eeg_CT = made.signal()
    write(tmp_path / file, eeg_CT)
    (tmp_path / f"._{file}").write_bytes(b"\0\5\26\7")  # what macOS leaves beside each file
    source = study(tmp_path, **reader)
    check(source, eeg_CT)
    assert source.facts.preprocessing["trials_by_recording"][0]["format"] == name.removesuffix(" 7.3")
    assert source.samples[0].key == "sub-01_ses-01_run-01_trial-00000"


@pytest.mark.parametrize("name", ["EDF", "BrainVision", "EEGLAB", "CSV"])
def test_an_upper_case_ending_is_read_and_another_formats_ending_is_said(tmp_path: Path, name: str) -> None:
    write, file, reader = FORMATS[name]
    eeg_CT = made.signal()
    write(tmp_path / file, eeg_CT)
    ending = Path(file).suffix
    (tmp_path / file).rename(tmp_path / f"sub-01{ending.upper()}")
    check(study(tmp_path, **(reader | {"files": f"sub-{{subject}}{ending}"})), eeg_CT)


def test_the_format_is_told_by_the_bytes_whatever_the_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    eeg_CT = made.signal()
    made.write_edf(tmp_path / "x.edf", eeg_CT).rename(tmp_path / "sub-01.bdf")
    source = study(tmp_path)
    check(source, eeg_CT)
    assert source.facts.preprocessing["trials_by_recording"][0]["file"] == {"named": ".bdf"}
    assert "its first bytes say EDF" in caplog.text


def ant_study(root: Path) -> RecordingsSource:
    rows = "".join(f"{onset}\t{made.shown(i)}\n" for i, onset in enumerate(ONSETS))
    (root / "events.tsv").write_text("onset\tvalue\n" + rows)
    return study(root, events=EventsConfig(source="table", file="events.tsv", onset_unit="samples"), files="sub-{subject}.cnt")


def test_a_reader_that_ends_its_process_ends_not_ours(tmp_path: Path) -> None:
    eeg_CT = made.signal()
    file = made.write_ant(tmp_path / "sub-01.cnt", eeg_CT)  # without a date of birth, on which MNE with antio crashes
    check(ant_study(tmp_path), eeg_CT)
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(StudyError, match=r"sub-01\.cnt: cannot be read as ANT CNT \("):
        ant_study(tmp_path)


def test_a_reader_that_asks_for_more_memory_than_its_file_can_fill_is_ended(tmp_path: Path) -> None:
    limited = "from data_prep.studies.recording_child import limit_memory; limit_memory([]); import numpy; numpy.ones(2**29)"
    done = subprocess.run([sys.executable, "-c", limited], capture_output=True, text=True, timeout=60, check=False)
    assert "MemoryError" in done.stderr or sys.platform == "darwin"


def test_a_neuroscan_file_of_32_bits(tmp_path: Path) -> None:
    eeg_CT = made.signal()
    file = made.write_neuroscan(tmp_path / "sub-01.cnt", eeg_CT, wide=True)
    recording_child.read(file, "Neuroscan CNT", Formats(cnt_data_format="int32"), tmp_path / "out.npz")
    np.testing.assert_allclose(1e6 * np.load(tmp_path / "out.npz")["data_CT"], eeg_CT, atol=0.01)


def test_a_stim_channel_counts_edges_without_its_idle_bits(tmp_path: Path) -> None:
    eeg_CT = made.signal()
    made.write_fif(tmp_path / "sub-01_raw.fif", eeg_CT)
    source = study(tmp_path, "sub-{subject}_raw.fif", events=EventsConfig(source="stim", names=BY_CODE))
    check(source, eeg_CT)
    assert source.facts.preprocessing["trials_by_recording"][0]["events"]["idle_level"] == 64


def test_bare_arrays_have_their_facts_from_the_config(tmp_path: Path) -> None:
    import h5py
    from scipy.io import savemat

    eeg_CT = made.signal()
    np.save(tmp_path / "sub-01.npy", eeg_CT)
    savemat(tmp_path / "sub-02.mat", {"eeg": 1e-3 * (eeg_CT + 1).T, "note": "x"})
    with h5py.File(tmp_path / "sub-03.h5", "w") as content:
        content["raw/eeg"] = eeg_CT + 2
    table = "".join(f"{onset}\t{made.shown(i)}\n" for i, onset in enumerate(ONSETS))
    (tmp_path / "events.tsv").write_text("\ufeffonset\tside\n" + table)
    events = EventsConfig(source="table", file="events.tsv", column="side", onset_unit="samples")
    for subject, unit, shift in (("01", "microvolts", 0), ("02", "millivolts", 1), ("03", "microvolts", 2)):
        array = ArrayConfig(ch_names=CH_NAMES, sfreq=SFREQ, unit=unit)
        source = study(tmp_path, "sub-{subject}.*", subjects=(subject,), array=array, events=events)
        for i, onset in enumerate(ONSETS):
            np.testing.assert_allclose(source.eeg(i)[0], eeg_CT[:, onset - 25 : onset + 100] + shift, atol=1e-4)
    with pytest.raises(StudyError, match=r"sub-01\.npy: an array without rate, channel names and unit: .*'array'"):
        study(tmp_path, subjects=("01",), events=events)


# ---------------------------------------------------------------------------------------------------- refusals


def csv_study(root: Path, **changes: Any) -> RecordingsSource:
    return study(root, **({"files": "sub-{subject}.csv", "csv": CSV, "events": EventsConfig(source="markers", names=BY_CODE)} | changes))


@pytest.mark.parametrize(("scale", "unit"), [(1e-6, "volts"), (1e-3, "millivolts"), (1e3, "nanovolts")])
def test_a_level_that_eeg_cannot_have_is_refused_with_the_unit_it_suggests(tmp_path: Path, scale: float, unit: Any) -> None:
    eeg_CT = made.signal()
    np.save(tmp_path / "sub-01.npy", scale * eeg_CT)
    (tmp_path / "e.tsv").write_text("onset\tvalue\n2.1\tleft\n4.1\tright\n")
    reader: dict[str, Any] = {
        "events": EventsConfig(source="table", file="e.tsv"),
        "array": ArrayConfig(ch_names=CH_NAMES, sfreq=SFREQ, unit="microvolts"),
    }
    with pytest.raises(
        StudyError, match=rf"sub-01\.npy: its EEG read as microvolts has a level of .* µV .*: they look like {unit} \(channels\.unit"
    ):
        study(tmp_path, **reader)
    for channels in (ChannelsConfig(unit=unit), ChannelsConfig(unit_by_subject={"01": unit})):
        source = study(tmp_path, channels=channels, **reader)
        np.testing.assert_allclose(source.eeg(0)[0], eeg_CT[:, 500:625], atol=1e-3)


@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_timestamps_in_milliseconds_are_measured_and_said(tmp_path: Path, scale: float) -> None:
    eeg_CT = made.signal()
    made.write_csv(tmp_path / "sub-01.csv", eeg_CT, scale=scale)
    source = csv_study(tmp_path)
    check(source, eeg_CT)
    assert source.facts.preprocessing["trials_by_recording"][0]["file"].get("time_unit") == (None if scale == 1 else "milliseconds")
    stated = CsvConfig(channels=CH_NAMES, time="time", time_unit="seconds" if scale > 1 else "milliseconds", marker="stim", sfreq=SFREQ)
    with pytest.raises(
        StudyError, match=r"sub-01\.csv: in (milli)?seconds \(time_unit\) column 'time' says .* Hz, in (milli)?seconds 250 Hz"
    ):
        csv_study(tmp_path, csv=stated)


def test_a_gap_is_refused_or_nothing_is_cut_across_it(tmp_path: Path) -> None:
    eeg_CT = made.signal()
    file = made.write_csv(tmp_path / "sub-01.csv", eeg_CT)
    lines = file.read_text().splitlines()
    gap = ONSETS[4] + 50
    file.write_text(
        "\n".join(
            [lines[0], *lines[1 : gap + 1], *(f"{float(line.split(',')[0]) + 3:.4f},{line.split(',', 1)[1]}" for line in lines[gap + 1 :])]
        )
    )
    with pytest.raises(StudyError, match=r"sub-01\.csv: a gap of 3\.004 s at .*: split the file there"):
        csv_study(tmp_path)
    split = CsvConfig(channels=CH_NAMES, time="time", marker="stim", sfreq=SFREQ, gaps="split")
    source = csv_study(tmp_path, csv=split, trials=CuttingConfig(band_hz=(1.0, 40.0), tmin=-0.1, tmax=0.4))
    assert source.facts.preprocessing["trials"]["across_a_break"] == 1
    assert [sample.trial for sample in source.samples] == [[i] for i in range(len(ONSETS)) if i != 4]


def test_an_xdf_stream_has_the_rate_of_its_clock_and_a_reset_is_refused_or_split(tmp_path: Path) -> None:
    eeg_CT = made.signal()
    made.write_xdf(tmp_path / "sub-01.xdf", eeg_CT, nominal=250.0, effective=232.5)
    events = EventsConfig(source="markers")
    source = study(tmp_path, events=events)
    assert source.facts.sfreq == 232.5
    assert source.facts.preprocessing["trials_by_recording"][0]["file"] == {
        "stream": "Amplifier",
        "nominal_hz": 250.0,
        "measured_hz": 232.5,
    }
    assert source.eeg(3)[0, 0, 23] == 100.0
    for jump, kind in ((-50.0, "its clock is reset"), (7.0, "a gap")):
        made.write_xdf(tmp_path / "sub-01.xdf", eeg_CT, jump_at=ONSETS[4] + 50, jump=jump)
        with pytest.raises(StudyError, match=rf"sub-01\.xdf: {kind}.* of {jump + 0.004:.3f} s after point {ONSETS[4] + 50:,}"):
            study(tmp_path, events=events)
        split = study(tmp_path, events=events, xdf=XdfConfig(gaps="split"))
        assert split.facts.preprocessing["trials"]["across_a_break"] == 1
        assert [round(float(split.eeg(i)[0, 0, AT_ONSET]), 3) for i in range(len(split.samples))] == [100.0] * (len(ONSETS) - 1)


def test_signals_of_several_rates_are_not_brought_to_one_in_silence(tmp_path: Path) -> None:
    import edfio

    eeg_CT = made.signal()
    ecg = edfio.EdfSignal(np.sin(np.arange(12 * 1000) / 99.0), 1000.0, label="ECG", physical_dimension="mV")
    made.write_edf(tmp_path / "sub-01.edf", eeg_CT, more=[ecg])
    check(study(tmp_path), eeg_CT)  # MNE alone would give 1000 Hz
    slow = edfio.EdfSignal(np.random.default_rng(1).normal(0, 10, 12 * 50), 50.0, label="Pz", physical_dimension="uV")
    made.write_edf(tmp_path / "sub-01.edf", eeg_CT, more=[slow])
    with pytest.raises(
        StudyError, match=r"sub-01\.edf: channels of several rates, Pz at 50 Hz and Fz, Cz, Oz at 250 Hz: expected one rate"
    ):
        study(tmp_path)
    check(study(tmp_path, channels=ChannelsConfig(drop=("Pz",))), eeg_CT)


@pytest.mark.parametrize("bdf", [False, True])
def test_an_edf_with_time_missing_between_records_is_refused_which_mne_puts_end_to_end(tmp_path: Path, bdf: bool) -> None:
    eeg_CT = made.signal()
    file = made.write_edf(tmp_path / ("sub-01.bdf" if bdf else "sub-01.edf"), eeg_CT, bdf=bdf)
    whole = file.read_bytes().replace(b"DF+C", b"DF+D", 1)
    file.write_bytes(whole)
    check(study(tmp_path), eeg_CT)  # marked as interrupted, and is not
    for late in (b"+9", b"+3"):
        file.write_bytes(whole.replace(b"+7\x14\x14", late + b"\x14\x14", 1))
        with pytest.raises(
            StudyError,
            match=rf"sub-01\..df: is interrupted \(EDF\+D\): data record 8 begins at {float(late):g} s, the one before it ends at 7 s",
        ):
            study(tmp_path)


def test_signals_of_several_rates_whose_labels_come_twice_are_refused(tmp_path: Path) -> None:
    import edfio

    twice = [edfio.EdfSignal(np.sin(np.arange(12 * 100) / 9.0), 100.0, label="X", physical_dimension="mV") for _ in range(2)]
    made.write_edf(tmp_path / "sub-01.edf", made.signal(), more=twice)
    with pytest.raises(StudyError, match=r"sub-01\.edf: has signals of several rates and labels that come twice \(Fz, Cz, Oz, X, X\)"):
        study(tmp_path, channels=ChannelsConfig(pick=CH_NAMES))


def test_labels_are_renamed_typed_and_never_doubled_in_silence(tmp_path: Path) -> None:
    eeg_CT = np.vstack([made.signal(), made.signal(5)[1:]])
    made.write_edf(tmp_path / "sub-01.edf", eeg_CT, ("EEG Fz-Ref", "Cz.", "Oz..", "EMG chin", "Bla"))
    rename = {"EEG (.*)-Ref": r"\1", r"(\w+?)\.+": r"\1"}
    source = study(tmp_path, channels=ChannelsConfig(rename=rename, types={"Bla": "misc"}))
    check(source, eeg_CT[:3])
    assert source.facts.preprocessing["trials_by_recording"][0]["left_out_channels"] == {"EMG chin": "emg", "Bla": "misc"}
    with pytest.raises(StudyError, match=r"sub-01\.edf: channels 'EEG Fz-Ref' and 'Cz\.' are both 'A' after channels\.rename"):
        study(tmp_path, channels=ChannelsConfig(rename={"EEG Fz-Ref": "A", r"Cz\.": "A"}))
    made.write_edf(tmp_path / "sub-01.edf", eeg_CT[:3], ("Fz", "Cz", "Fz"))
    with pytest.raises(StudyError, match=r"sub-01\.edf: has the label 'Fz' twice \(read as Fz-0, Fz-1\)"):
        study(tmp_path)
    check(study(tmp_path, channels=ChannelsConfig(rename={"Fz-0": "Fz", "Fz-1": "Oz"})), eeg_CT[:3])


def test_a_montage_gives_positions_or_names_what_it_lacks(tmp_path: Path) -> None:
    made.write_csv(tmp_path / "sub-01.csv", made.signal())
    assert csv_study(tmp_path).facts.positions is None
    assert csv_study(tmp_path).facts.preprocessing["positions"].startswith("none: Fz, Cz, Oz have no position")
    positions = csv_study(tmp_path, channels=ChannelsConfig(montage="standard_1005")).facts.positions
    assert positions is not None
    assert np.linalg.norm(positions, axis=1) == pytest.approx([0.115, 0.13, 0.12], abs=0.03)
    with pytest.raises(StudyError, match=r"montage biosemi16 has no position for .*Q1|channels\.montage is 'nowhere'"):
        csv_study(tmp_path, channels=ChannelsConfig(montage="nowhere"))
    with pytest.raises(StudyError, match="montage standard_1005 has no position for Q1"):
        csv_study(tmp_path, channels=ChannelsConfig(montage="standard_1005", rename={"Fz": "Q1"}))
    (tmp_path / "cap.sfp").write_text("nasion 0 9 0\nlpa -8 0 0\nrpa 8 0 0\nFz 0 6 10\nCz 0 0 12\nOz 0 -9 4\n")
    own = csv_study(tmp_path, channels=ChannelsConfig(montage=str(tmp_path / "cap.sfp"))).facts.positions
    assert own is not None
    assert own[1][2] > own[0][2] > own[2][2]


@pytest.mark.parametrize("same", ["refuse", "drop"])
def test_a_recording_and_its_copy_under_another_name(tmp_path: Path, same: Any) -> None:
    made.write_edf(tmp_path / "sub-01.edf", made.signal())
    shutil.copy(tmp_path / "sub-01.edf", tmp_path / "sub-02.edf")
    made.write_edf(tmp_path / "sub-03.edf", made.signal(3))
    if same == "refuse":
        with pytest.raises(StudyError, match=r"sub-02\.edf: holds the signal of .*sub-01\.edf"):
            study(tmp_path)
        return
    source = study(tmp_path, same_content="drop")
    assert source.facts.subjects == ["01", "03"]
    assert source.facts.preprocessing["same_content"] == [{"recording": "sub-02_ses-01_run-01", "same_as": "sub-01_ses-01_run-01"}]


def test_bad_segments_dead_electrodes_and_loud_trials_are_counted_once(tmp_path: Path) -> None:
    import mne

    eeg_CT = made.signal()
    eeg_CT[1, ONSETS[2] - 50 : ONSETS[2] + 150] = 3.0
    eeg_CT[2, ONSETS[6] + 10] = 400.0
    file = made.write_fif(tmp_path / "sub-01_raw.fif", eeg_CT)
    raw = mne.io.read_raw_fif(file, preload=True, verbose="error")
    raw.annotations.append(raw.first_time + ONSETS[4] / SFREQ, 0.2, "BAD_blink")
    raw.save(file, overwrite=True, verbose="error")
    source = study(tmp_path, "sub-{subject}_raw.fif", trials=CuttingConfig(band_hz=None, tmin=-0.1, tmax=0.4, reject_microvolts=300.0))
    total = source.facts.preprocessing["trials"]
    assert {name: total[name] for name in ("marked", "bad_segment", "flat", "rejected", "kept")} == {
        "marked": 10,
        "bad_segment": 1,
        "flat": 1,
        "rejected": 1,
        "kept": 7,
    }
    assert [sample.trial[0] for sample in source.samples] == [0, 1, 3, 5, 7, 8, 9]


def test_the_parts_of_a_recording_in_several_files_are_no_recordings_of_their_own(tmp_path: Path) -> None:
    import mne

    eeg_CT = np.tile(made.signal(), (1, 50))
    raw = mne.io.RawArray(1e-6 * eeg_CT, mne.create_info(list(CH_NAMES), SFREQ, "eeg", verbose="error"), verbose="error")
    raw.set_annotations(mne.Annotations([1.1, 590.1], 0.0, ["left", "right"]))
    raw.save(tmp_path / "sub-01_raw.fif", split_size="2MB", buffer_size_sec=1, verbose="error")
    assert (tmp_path / "sub-01_raw-1.fif").is_file()
    assert len(study(tmp_path, "sub-{subject}_raw.fif").samples) == 2
    with pytest.raises(StudyError, match=r"shares the file sub-01_raw-1\.fif with .*: expected recordings apart"):
        study(tmp_path, "sub-{subject}_raw*.fif")


def test_nothing_is_filtered_across_what_was_not_recorded(tmp_path: Path) -> None:
    import mne

    eeg_CT = made.signal()
    eeg_CT[:, ONSETS[4] + 110 : ONSETS[5] - 60] = 0.0
    file = made.write_fif(tmp_path / "sub-01_raw.fif", eeg_CT + 200.0 * (eeg_CT != 0))
    raw = mne.io.read_raw_fif(file, preload=True, verbose="error")
    raw.annotations.append(raw.first_time + (ONSETS[4] + 110) / SFREQ, 80 / SFREQ, "BAD_ACQ_SKIP")
    raw.save(file, overwrite=True, verbose="error")
    source = study(tmp_path, "sub-{subject}_raw.fif", trials=CuttingConfig(band_hz=(1.0, 40.0), tmin=-0.1, tmax=0.4))
    assert source.facts.preprocessing["trials"]["kept"] == len(ONSETS)
    assert max(float(np.abs(source.eeg(i)[0, 1:]).max()) for i in (4, 5)) < 60.0  # the step to zero, 200 µV, does not ring into them


def test_recordings_must_agree_in_channels_and_rate(tmp_path: Path) -> None:
    made.write_edf(tmp_path / "sub-01.edf", made.signal())
    made.write_edf(tmp_path / "sub-02.edf", made.signal(2)[[1, 0, 2]], ("Cz", "Fz", "Oz"))
    source = study(tmp_path)
    assert source.eeg(len(ONSETS))[0, 0, AT_ONSET] == pytest.approx(100, abs=0.1)  # Fz is first in the study, second in the file
    made.write_edf(tmp_path / "sub-03.edf", made.signal(3)[:2], ("Fz", "Cz"))
    with pytest.raises(StudyError, match=r"sub-03\.edf: lacks Oz, .*sub-01\.edf has 3 channels"):
        study(tmp_path)
    assert study(tmp_path, channels=ChannelsConfig(pick=("Cz", "Fz"))).facts.ch_names == ["Cz", "Fz"]
    (tmp_path / "sub-03.edf").unlink()
    made.write_edf(tmp_path / "sub-03.edf", made.signal(3, sfreq=500.0), sfreq=500.0)
    with pytest.raises(StudyError, match=r"sub-03\.edf: is sampled at 500 Hz, .*sub-01\.edf at 250 Hz: expected one rate"):
        study(tmp_path)
    resampled = study(tmp_path, trials=CuttingConfig(band_hz=(0.5, 40.0), tmin=-0.1, tmax=0.4, resample_hz=100.0))
    assert (resampled.facts.sfreq, resampled.facts.n_times, len(resampled.samples)) == (100.0, 50, 3 * len(ONSETS))
    with pytest.raises(StudyError, match=r"sub-01\.edf: is sampled at 250 Hz, expected 500 Hz \(expect_sfreq\)"):
        study(tmp_path, expect_sfreq=500.0)


def test_filters_are_those_of_the_muse_reader_on_the_continuous_signal(tmp_path: Path) -> None:
    from data_prep.contract import signals

    eeg_CT = made.signal()
    made.write_csv(tmp_path / "sub-01.csv", eeg_CT)
    trials = CuttingConfig(band_hz=(1.0, 40.0), notch_hz=(50.0,), reference=("average",), tmin=-0.1, tmax=0.4, baseline_seconds=(-0.1, 0.0))
    source = csv_study(tmp_path, trials=trials)
    whole = signals.band_pass(signals.notch(eeg_CT, SFREQ, notch_hz=50.0), SFREQ, low_hz=1.0, high_hz=40.0)
    cut, _ = signals.cut_trials(signals.rereference(whole, CH_NAMES, "average"), ONSETS, SFREQ, tmin=-0.1, tmax=0.4)
    expected = signals.baseline_correct(cut, tmin=-0.1, sfreq=SFREQ, baseline_seconds=(-0.1, 0.0))
    assert np.array_equal(np.concatenate([source.eeg(i) for i in range(len(ONSETS))]), expected)
    assert source.facts.preprocessing["reference"] == ["average"]


# ------------------------------------------------------------------------------------------------------ images


def image_study(root: Path, shown: list[str], *, event_column: str = "stim_file", **events: Any) -> RecordingsSource:
    rng = np.random.default_rng(7)
    for subject in ("01", "02"):
        made.write_edf(root / f"sub-{subject}.edf", made.signal(int(subject)))
        order = [shown[i] for i in rng.permutation(len(ONSETS)) % len(shown)]
        rows = [
            f"{onset / SFREQ:.3f}\t{name}\t{name.replace(chr(92), '/').split('/')[0]}\n" for onset, name in zip(ONSETS, order, strict=True)
        ]
        (root / f"sub-{subject}_events.tsv").write_text(f"onset\t{event_column}\tkind\n" + "".join(rows))
    config = EventsConfig(**({"source": "table", "file": "{stem}_events.tsv", "column": event_column} | events))
    return study(root, "sub-{subject}.edf", events=config, stimulus_level="image", stimuli=str(root / "images"))


def photographs(root: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (root / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "images" / name).write_bytes(b"an image")


def test_images_are_samples_of_all_their_trials_by_subject(tmp_path: Path) -> None:
    photographs(tmp_path, ("00001_cat/1.jpg", "00001_cat/2.JPG", "dog/1.jpg", "dog/._1.jpg", "never/9.png"))
    source = image_study(tmp_path, ["00001_cat\\1.jpg", "00001_cat\\2.jpg", "dog\\1.jpg"])
    facts = source.facts
    assert [(s.id, facts.concepts[s.concept]) for s in facts.stimuli] == [
        ("00001_cat/1.jpg", "cat"),
        ("00001_cat/2.JPG", "cat"),
        ("dog/1.jpg", "dog"),
    ]
    assert [s.key for s in source.samples] == [f"sub-{subject}_stim-{i:06d}" for subject in ("01", "02") for i in range(3)]
    assert sum(s.n_reps for s in source.samples) == 2 * len(ONSETS)
    for i, sample in enumerate(source.samples):
        assert source.eeg(i).shape == (sample.n_reps, 3, 125)
        assert source.eeg(i)[:, 0, AT_ONSET] == pytest.approx(np.full(sample.n_reps, 100.0), abs=0.02)
        eeg_CT = made.signal(1 + sample.subject)
        point = round((sample.onset_seconds[-1] or 0) * SFREQ)
        np.testing.assert_allclose(source.eeg(i)[-1], eeg_CT[:, point - 25 : point + 100], atol=0.02)


def test_a_name_that_fits_several_images_or_none_is_refused(tmp_path: Path) -> None:
    photographs(tmp_path, ("cat/1.jpg", "dog/1.jpg", "dog/2.jpg"))
    with pytest.raises(
        StudyError, match=r"sub-01\.edf: event names '1\.jpg', which means cat/1\.jpg, dog/1\.jpg, expected one: say its folder"
    ):
        image_study(tmp_path, ["1.jpg"])
    with pytest.raises(StudyError, match=r"sub-01\.edf: event names 'bird/1\.jpg', which is no image below .*images"):
        image_study(tmp_path, ["bird/1.jpg"])
    by_column = image_study(tmp_path, ["cat/1.jpg", "2.jpg"], concept_column="kind")
    assert by_column.facts.concepts == ["2.jpg", "cat"]
    by_pattern = image_study(tmp_path, ["show cat 1", "show dog 2"], names={r"show (\w+) (\d)": r"\1/\2"})
    assert [s.id for s in by_pattern.facts.stimuli] == ["cat/1.jpg", "dog/2.jpg"]


def test_captions_come_by_image_name(tmp_path: Path) -> None:
    photographs(tmp_path, ("cat/1.jpg", "dog/1.jpg"))
    image_study(tmp_path, ["cat/1.jpg", "dog/1.jpg"])
    (tmp_path / "captions.json").write_text('{"dog/1.jpg": "a dog", "cat/1.jpg": ["a cat", "another"]}')
    events = EventsConfig(source="table", file="{stem}_events.tsv", column="stim_file")
    source = study(
        tmp_path,
        "sub-{subject}.edf",
        events=events,
        stimulus_level="image",
        stimuli=str(tmp_path / "images"),
        captions=str(tmp_path / "captions.json"),
    )
    assert source.facts.captions == [["a cat", "another"], ["a dog"]]


def test_reading_twice_gives_the_same_and_other_bytes_another_hash(tmp_path: Path) -> None:
    made.write_brainvision(tmp_path / "sub-01.vhdr", made.signal())
    reader = {"files": "sub-{subject}.vhdr", "events": EventsConfig(source="annotations")}
    one, two = study(tmp_path, **reader), study(tmp_path, **reader)
    assert (one.source_hash, one.samples, one.facts) == (two.source_hash, two.samples, two.facts)
    marks = tmp_path / "sub-01.vmrk"
    marks.write_text(marks.read_text().replace("S  2", "S  1", 1))
    assert study(tmp_path, **reader).source_hash != one.source_hash


def test_the_config_of_the_readme_shards_a_laboratorys_set_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "configs/data_prep/shard_recordings.yaml"
    assert files(*PAGES)[name] == (ROOT / name).read_text()
    photographs(tmp_path, ("cat/1.jpg", "dog/1.jpg"))
    (tmp_path / "images").rename(tmp_path / "photographs")
    for subject in ("01", "02"):
        file = tmp_path / f"recordings/sub-{subject}/ses-01/faces.set"
        file.parent.mkdir(parents=True)
        shown = [{"photograph": ("cat/1.jpg", "dog/1.jpg")[i % 2]} for i in range(len(ONSETS))]
        made.write_eeglab(file, made.signal(int(subject)), ("Fz.", "Cz.", "Oz."), more=shown)
    monkeypatch.chdir(tmp_path)
    run(cli.parse(ShardConfig, ["--config", str(ROOT / name)]))
    manifest = read_manifest(tmp_path / "studies/recordings")
    assert manifest.tables.concepts == ["cat", "dog"]
    assert manifest.signal.ch_names == ["Fz", "Cz", "Oz"]
    assert (manifest.signal.sfreq, manifest.signal.n_times, manifest.quality.trials) == (125.0, 125, 2 * len(ONSETS))
    assert manifest.preprocessing["trials_by_recording"][0]["events"] == {"found": 13, "named": 10, "outside_where": 3}
