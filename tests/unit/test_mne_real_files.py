"""The reader ``mne`` on real files of many formats, and on small inputs that went wrong elsewhere: right, or refused in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.contract.errors import StudyError
from data_prep.studies.channels import ChannelsConfig
from data_prep.studies.cutting import CuttingConfig
from data_prep.studies.events import EventsConfig
from data_prep.studies.mne import MneReaderConfig
from data_prep.studies.muse import MuseReaderConfig
from data_prep.studies.recordings_study import RecordingsSource
from data_prep.studies.signal_tables import ArrayConfig, CsvConfig
from tests.helpers.shared_data import shared_data

SHORT = CuttingConfig(band_hz=None, tmin=0.0, tmax=0.2)
MUSE = CuttingConfig(band_hz=(1.0, 30.0), tmin=-0.2, tmax=0.8, baseline_seconds=(-0.2, 0.0), reject_microvolts=100.0, rail_microvolts=999.0)
MUSE_CSV: dict[str, Any] = {"channels": ("TP9", "AF7", "AF8", "TP10"), "time": "timestamps", "marker": "Marker0", "sfreq": 256.0}
FACES = EventsConfig(source="markers", names={"1": "house", "2": "face"})


def formats(folder: str, files: str, events: EventsConfig, **changes: Any) -> RecordingsSource:
    return MneReaderConfig(root=str(shared_data() / "formats" / folder), files=files, events=events, **({"trials": SHORT} | changes)).open()


def counts(source: RecordingsSource) -> dict[str, Any]:
    found: dict[str, Any] = source.facts.preprocessing["trials_by_recording"][0]
    return found


def onsets(source: RecordingsSource) -> list[float | None]:
    return [sample.onset_seconds[0] for sample in source.samples]


@pytest.mark.long
def test_muse_by_its_columns_gives_the_trials_of_the_muse_reader() -> None:
    root = str(shared_data() / "muse_visual/eeg/N170")
    own = MuseReaderConfig(root=root, subjects=("1", "10")).open()
    csv = CsvConfig(**MUSE_CSV)
    channels = ChannelsConfig(montage="standard_1005")
    ours = MneReaderConfig(
        root=root,
        files="subject{subject}/session{session}/*.csv",
        subjects=("1", "10"),
        events=FACES,
        csv=csv,
        channels=channels,
        trials=MUSE,
    ).open()
    assert ours.samples == own.samples
    for name in ("sfreq", "tmin", "n_times", "ch_names", "subjects", "concepts", "sessions", "recordings", "stimuli", "unit"):
        assert getattr(ours.facts, name) == getattr(own.facts, name), name
    np.testing.assert_allclose(ours.facts.positions, own.facts.positions, atol=1e-4)
    assert all(np.array_equal(ours.eeg(i), own.eeg(i)) for i in range(len(own.samples)))
    assert {name: ours.facts.preprocessing["trials"][name] for name in ("marked", "incomplete", "rejected", "kept")} == {
        name: own.facts.preprocessing["trials"][name] for name in ("marked", "incomplete", "rejected", "kept")
    }


def test_edf_with_events_in_annotations_and_in_a_stim_channel_with_an_offset_bit() -> None:
    quiet = ChannelsConfig(drop=("Ergo-Left", "Ergo-Right"))
    noted = formats("EDF", "{subject}-python_test.edf", EventsConfig(source="annotations", names={"type (.)": r"\1"}), channels=quiet)
    assert (onsets(noted), noted.facts.concepts) == ([0.1348, 0.3906, 2.0, 2.5], ["A", "B"])
    assert counts(noted)["events"] == {"found": 5, "named": 4, "unnamed": {"start": 1}}
    assert counts(noted)["left_out_channels"] == {"Ergo-Left": "dropped", "Ergo-Right": "dropped", "Status": "stim"}
    coded = formats("EDF", "{subject}-python_test.edf", EventsConfig(source="stim", names={"4": "flash"}, stim_mask=0xFF), channels=quiet)
    assert onsets(coded) == [round(point / 512, 4) for point in (1603, 1859, 2116, 2372, 2628, 2884)]
    whole = formats("EDF", "{subject}-python_test.edf", EventsConfig(source="stim", names={"4100": "flash"}), channels=quiet)
    assert onsets(whole) == onsets(coded)
    assert counts(whole)["events"]["bits_in_every_code"] == 4096


def test_edf_with_a_label_twice_is_refused_until_it_is_said_which_is_which() -> None:
    with pytest.raises(StudyError, match=r"duplicate_channel_labels\.edf: has the label 'EEG F1-Ref' twice"):
        _duplicate(ChannelsConfig())
    assert _duplicate(ChannelsConfig(pick=("EEG F1-Ref-0", "EEG F2-Ref"))) == ["EEG F1-Ref-0", "EEG F2-Ref"]
    assert _duplicate(ChannelsConfig(rename={"EEG (F.)-Ref": r"\1", "EEG F1-Ref-0": "F1", "EEG F1-Ref-1": "F1b"})) == ["F1", "F2", "F1b"]


def _duplicate(channels: ChannelsConfig) -> list[str]:
    from data_prep.studies.channels import choose
    from data_prep.studies.formats import Formats
    from data_prep.studies.open_recording import open_recording

    file = shared_data() / "formats/EDF/mne-python_duplicate_channel_labels.edf"
    return choose(open_recording(file, Formats()), channels).ch_names


def test_edf_of_two_rates_and_of_volts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "e.tsv").write_text("onset\tvalue\n10.0\ta\n20.0\tb\n")
    events = EventsConfig(source="table", file=str(tmp_path / "e.tsv"))
    with pytest.raises(StudyError, match=r"uneven_samp\.edf: channels of several rates"):
        formats("EDF", "{subject}-python_test_uneven_samp.edf", events)
    for name in ("3Hz +5/-5 V", "0.2Hz Blk 1/0uV"):
        with pytest.raises(
            StudyError, match=r"uneven_samp\.edf: (its EEG read as volts has a level of|.*constant|.*no trial left)|no trial left"
        ):
            formats("EDF", "{subject}-python_test_uneven_samp.edf", events, channels=ChannelsConfig(pick=(name,)))


def test_bdf_stim_channel() -> None:
    source = formats("BDF", "test_bdf_{subject}_channel.bdf", EventsConfig(source="stim"))
    assert (len(source.samples), source.facts.concepts, source.facts.ch_names) == (9, ["1", "2", "4"], ["C3", "C4", "Cz"])
    with pytest.raises(
        StudyError, match=r"mne-python_test\.bdf: has no annotations; it has 0 annotations, 0 markers, stim channels Status"
    ):
        formats("BDF", "{subject}-python_test.bdf", EventsConfig(source="annotations"))


def test_brainvision_marker_families_and_a_latin_1_header() -> None:
    events = EventsConfig(source="annotations", names={r"Stimulus/S\s*(\d+)": r"S\1"})
    source = formats("BrainVision/mne-python", "{subject}.vhdr", events)
    assert onsets(source) == [round((point - 1) / 1000, 4) for point in (487, 497, 1780, 3263, 4936, 4946, 6630)]
    assert counts(source)["events"]["unnamed"] == {"Event/254": 3, "Response/R255": 1, "SyncStatus/Sync On": 1, "Optic/O 1": 1}
    assert {"HL", "HR", "Vb", "ReRef"} <= set(counts(source)["left_out_channels"])
    for spelt in ("Optic/O  1", "Optic/O 1"):
        assert onsets(formats("BrainVision/mne-python", "{subject}.vhdr", EventsConfig(source="annotations", names={spelt: "x"}))) == [
            7.699
        ]
    with pytest.raises(StudyError, match=r"latin1_software_filter\.vhdr: no event is a stimulus"):
        formats("BrainVision/mne-python", "{subject}_old_layout_latin1_software_filter.vhdr", EventsConfig(source="annotations"))


def test_eeglab_reads_the_event_field_that_mne_drops() -> None:
    events = EventsConfig(source="eeglab", column="position", where={"type": "square"}, names={"1": "left", "2": "right"})
    source = formats("EEGLAB/visual_attention", "{subject}_data.set", events, trials=CuttingConfig(tmin=-0.2, tmax=0.8))
    assert np.bincount([sample.stimulus for sample in source.samples]).tolist() == [40, 40]
    assert onsets(source)[:3] == [1.0, 1.6953, 4.7031]
    assert counts(source)["events"] == {"found": 154, "named": 80, "outside_where": 74}
    assert source.facts.positions is not None
    with pytest.raises(StudyError, match=r"eeglab_data_epochs_ica\.set: holds 80 cut trials, expected a continuous recording"):
        formats("EEGLAB/visual_attention", "{subject}_data_epochs_ica.set", events)


def test_fif_names_the_channels_without_a_position() -> None:
    events = EventsConfig(source="annotations", names={"Comment.*": "x"})
    source = formats("FIF", "{subject}_dig_raw.fif", events)
    assert source.facts.positions is not None
    assert counts(source)["left_out_channels"] == {"ECG": "ecg", "HEOG": "eog", "VEOG": "eog"}
    forced = formats("FIF", "{subject}_dig_raw.fif", events, channels=ChannelsConfig(types={"ECG|HEOG|VEOG": "eeg"}))
    assert forced.facts.positions is None
    assert forced.facts.preprocessing["positions"] == "none: ECG, HEOG, VEOG have no position in sub-bv_ses-01_run-01"


def test_xdf_chooses_the_stream_by_type() -> None:
    source = formats("XDF", "{subject}.xdf", EventsConfig(source="markers", names={"Hello|World|LSL": "word"}), subjects=("minimal",))
    assert counts(source)["file"]["stream"] == "SendDataC"
    assert onsets(source) == [0.2, 0.3, 0.5, 0.6, 0.7]  # the trial of the last word leaves the recording
    with pytest.raises(
        StudyError, match=r"empty_streams\.xdf: 0 streams with samples of type EEG, expected one .*; it has Empty data stream"
    ):
        formats("XDF", "{subject}_streams.xdf", EventsConfig(source="markers"))


def test_muse_2_of_eeg_expy_has_the_rate_of_its_clock() -> None:
    csv = CsvConfig(**MUSE_CSV | {"sfreq": None})
    source = formats("EEG-ExPy_N170/jadinlab_home/muse2", "subject{subject}/session{session}/muse_TRIAL_{run}.csv", FACES, csv=csv)
    assert (source.facts.sfreq, source.facts.preprocessing["trials"]["marked"]) == (256.0, 146)
    assert np.bincount([sample.stimulus for sample in source.samples]).tolist() == [78, 68]


def test_the_brainvision_file_of_a_bids_folder_with_a_bom_in_its_table() -> None:
    table = "sub-{subject}_ses-{session}_task-rest_events.tsv"
    events = EventsConfig(source="table", file=table, column="trial_type", names={"show_stimulus": "shown"})
    source = formats("BIDS/tiny_bids", "sub-{subject}/ses-{session}/eeg/*_eeg.vhdr", events)
    assert (onsets(source), source.facts.n_chans) == ([0.2], 64)
    assert counts(source)["events"]["onset_unit"] == "seconds"
    marks = EventsConfig(
        source="annotations", names={"show_stimulus": "shown"}
    )  # the .vmrk tells another story, and its own words are said
    with pytest.raises(StudyError, match=r"task-rest_eeg\.vhdr: no event is a stimulus by events\.names; .*ControlBox"):
        formats("BIDS/tiny_bids", "sub-{subject}/ses-{session}/eeg/*_eeg.vhdr", marks)


def test_a_mat_file_with_nothing_but_an_array(tmp_path: Path) -> None:
    (tmp_path / "e.tsv").write_text("onset\tvalue\n1.0\ta\n2.0\tb\n")
    events = EventsConfig(source="table", file=str(tmp_path / "e.tsv"))
    with pytest.raises(StudyError, match=r"test_eeg\.mat: an array without rate, channel names and unit"):
        formats("MAT", "{subject}_eeg.mat", events)
    names = tuple(f"E{i}" for i in range(1, 65))
    with pytest.raises(StudyError, match=r"test_eeg\.mat: its EEG read as microvolts has a level of .*: they look like volts"):
        formats("MAT", "{subject}_eeg.mat", events, array=ArrayConfig(ch_names=names, sfreq=128.0, unit="microvolts"))
    source = formats("MAT", "{subject}_eeg.mat", events, array=ArrayConfig(ch_names=names, sfreq=128.0, unit="volts"))
    assert source.eeg(0).shape == (1, 64, 26)
    with pytest.raises(StudyError, match=r"test_eeg\.mat: 'data' has shape \(64, 640\), array\.ch_names 3 names"):
        formats("MAT", "{subject}_eeg.mat", events, array=ArrayConfig(ch_names=("a", "b", "c"), sfreq=128.0, unit="volts"))


# ------------------------------------------------------------------------------------------------ cases of users


def case(name: str, **csv: Any) -> RecordingsSource:
    channels = csv.pop("configured", ChannelsConfig())
    root = str(shared_data() / "cases" / name / "data")
    table = CsvConfig(**MUSE_CSV | csv)
    return MneReaderConfig(
        root=root, files="subject{subject}/session{session}/*.csv", events=FACES, csv=table, trials=MUSE, channels=channels
    ).open()


@pytest.mark.parametrize(
    "name",
    [
        "m00_base",
        "m01_ms_timestamps",
        "m03_marker_held_500ms",
        "m04b_marker_rows_doubled",
        "m07c_blank_where_no_marker",
        "m10d_column_named_timestamp",
    ],
)
def test_cases_that_hold_the_eleven_trials_of_the_base(name: str) -> None:
    base = case("m00_base")
    source = case(name, **({"time": "timestamp"} if name.startswith("m10d") else {}))
    assert onsets(source) == onsets(base)
    assert len(source.samples) == 11
    assert all(np.allclose(source.eeg(i), base.eeg(i), atol=1e-3) for i in range(11))
    said = counts(source)["file"]
    assert said.get("time_unit") == ("milliseconds" if name.startswith("m01") else None)
    assert said.get("rows_written_twice") == (11 if name.startswith("m04b") else None)


def test_case_of_one_subject_in_volts() -> None:
    with pytest.raises(StudyError, match=r"subject\d.*csv: its EEG read as microvolts has a level of .*e-05 µV .*: they look like volts"):
        case("m02_volts")
    for subject in ("01", "02"):
        try:
            source = case("m02_volts", configured=ChannelsConfig(unit_by_subject={subject: "volts"}))
        except StudyError:
            continue
        levels = [count["level_microvolts"] for count in source.facts.preprocessing["trials_by_recording"]]
        assert max(levels) < 2 * min(levels)
        return
    pytest.fail("neither subject reads in volts")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("m07_header_without_marker", r"csv: no column 'Marker0', expected one; its columns are timestamps, TP9"),
        ("m07d_empty_cells", r"csv: column 'TP9' has an empty cell in data row 1, expected a number"),
        ("m09b_same_recording_twice", r"csv: holds the signal of .*csv, expected another recording"),
    ],
)
def test_cases_that_are_one_sentence(name: str, sentence: str) -> None:
    with pytest.raises(StudyError, match=sentence):
        case(name)


def test_case_of_an_upper_case_ending_and_of_a_channel_that_dies() -> None:
    assert len(case("m09_upper_case_ext").facts.recordings) == 2
    dead = case("m14_channel_zero_from_half")
    total = dead.facts.preprocessing["trials"]
    assert (total["flat"], total["stuck"], len(dead.samples)) == (5, 1, 5), "in one trial the channel dies after 0.4 s"


def test_case_of_mind_monitor_has_dates_for_timestamps() -> None:
    names = ("RAW_TP9", "RAW_AF7", "RAW_AF8", "RAW_TP10")
    with pytest.raises(StudyError, match=r"csv: no stimulus onset: it has no marker"):
        case("m10c_mindmonitor", channels=names, time="TimeStamp", marker="Elements")
