"""The reader ``bids``: a dataset in any spelling gives the same trials; what its files say and its signal contradicts is one sentence."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.contract.errors import StudyError, UserError
from data_prep.studies.bids import BidsEventsConfig, BidsReaderConfig
from data_prep.studies.channels import ChannelsConfig
from data_prep.studies.cutting import CuttingConfig
from data_prep.studies.recording_files import companions
from data_prep.studies.recordings_study import RecordingsSource
from tests.helpers import bids as made_bids
from tests.helpers import recordings as made
from tests.helpers.bids import channel_rows, eeg_json, events, write_dataset, write_electrodes, write_json, write_table
from tests.helpers.recordings import CH_NAMES, ONSETS, SFREQ
from tests.helpers.shared_data import shared_data

pytest.importorskip("mne_bids")

WINDOW = CuttingConfig(band_hz=None, tmin=-0.1, tmax=0.4)
STEM = "sub-01/ses-01/eeg/sub-01_ses-01_task-x_run-01"


def study(root: Path, **changes: Any) -> RecordingsSource:
    said = {"trials": WINDOW, "events": BidsEventsConfig(**changes.pop("events", {}))} | changes
    return BidsReaderConfig(root=str(root), **said).open()


def refused(root: Path, sentence: str, **changes: Any) -> None:
    with pytest.raises(StudyError, match=sentence) as error:
        study(root, **changes)
    assert "\n" not in str(error.value)


def check(source: RecordingsSource, eeg_CT: np.ndarray, tolerance: float = 0.02) -> None:
    """All trials of the made recording, at their place and in microvolts."""
    facts = source.facts
    assert (facts.sfreq, facts.n_times, facts.unit, facts.ch_names) == (SFREQ, 125, "microvolts", list(CH_NAMES))
    assert [facts.concepts[sample.stimulus] for sample in source.samples] == [made.shown(i) for i in range(len(ONSETS))]
    for i, onset in enumerate(ONSETS):
        np.testing.assert_allclose(source.eeg(i)[0], eeg_CT[:, onset - 25 : onset + 100], atol=tolerance)


def notes(source: RecordingsSource, number: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = source.facts.preprocessing["trials_by_recording"][number]
    return found


# ---------------------------------------------------------------------------------------------------------- right


@pytest.mark.parametrize("kind", ["BrainVision", "EDF", "BDF", "EEGLAB", "FIF"])
def test_every_format_of_bids_gives_the_same_trials(tmp_path: Path, kind: str) -> None:
    file, eeg_CT = write_dataset(tmp_path, kind=kind)
    (file.parent / f"._{file.name}").write_bytes(b"\0\5\26\7")  # what macOS leaves beside each file
    (file.parent / f"._{file.name.replace('_eeg', '_events').replace(file.suffix, '.tsv')}").write_bytes(b"\0\5\26\7")
    source = study(tmp_path)
    check(source, eeg_CT)
    assert source.samples[0].key == "sub-01_ses-01_run-x01_trial-00000"
    assert source.facts.sessions == ["01"]
    assert notes(source)["format"] == kind
    marks = notes(source)["events"]["marks"]
    assert all(each["events_without_a_mark"] == 0 for each in marks.values())
    assert notes(source)["sidecars"] == {"reference": "M1", "line_hz": 50.0}


def test_a_set_with_its_numbers_in_an_fdt(tmp_path: Path) -> None:
    file, eeg_CT = write_dataset(tmp_path, kind="EEGLAB")
    made.write_eeglab(file, eeg_CT, fdt=True)
    check(study(tmp_path), eeg_CT)
    assert file.with_suffix(".fdt") in companions(file)  # a part of the study's hash


def test_what_mne_bids_itself_reads_is_the_same(tmp_path: Path) -> None:
    import mne_bids

    file, _ = write_dataset(tmp_path, channels=channel_rows(Oz={"status": "bad", "status_description": "loose"}))
    write_electrodes(file.parent, "sub-01_ses-01_space-CapTrak", landmarks=True)
    write_dataset(tmp_path, subject="02", seed=3)  # for mne-bids a dataset has several
    source = study(tmp_path, subjects=("01",))
    raw = mne_bids.read_raw_bids(
        mne_bids.BIDSPath(root=tmp_path, subject="01", session="01", task="x", run="01", datatype="eeg"), verbose="error"
    )
    onsets = [round(float(onset), 4) for onset in raw.annotations.onset]
    assert [sample.onset_seconds[0] for sample in source.samples] == onsets
    assert list(raw.annotations.description) == [source.facts.concepts[sample.stimulus] for sample in source.samples]
    place = raw.get_montage().get_positions()["ch_pos"]
    np.testing.assert_allclose(source.facts.positions, [place[name] for name in CH_NAMES], atol=1e-6)
    assert raw.info["bads"] == list(notes(source)["bad_channels"]["channels"]) == ["Oz"]
    point = round(onsets[2] * SFREQ)
    np.testing.assert_allclose(source.eeg(2)[0], 1e6 * raw.get_data()[:, point - 25 : point + 100], atol=1e-3)


SPELLINGS = [
    {"bom": bom, "crlf": crlf, "encoding": encoding}
    for bom, crlf, encoding in ((False, False, "utf-8"), (True, True, "utf-8"), (True, False, "utf-8"), (False, True, "utf-16"))
]


@pytest.mark.parametrize("unit", ["seconds", "milliseconds", "samples"])
@pytest.mark.parametrize("spelling", range(len(SPELLINGS)))
def test_onsets_in_any_unit_columns_in_any_order_and_tables_in_any_spelling(tmp_path: Path, unit: str, spelling: int) -> None:
    random = np.random.default_rng(spelling)
    rows = events(unit, stim_file=[f"images\\{made.shown(i)}\\a.jpg" for i in range(len(ONSETS))], rt=["n/a"] * len(ONSETS))
    order = random.permutation(list(rows[0])).tolist()
    random.shuffle(rows)  # events need not be in the order of time
    _, eeg_CT = write_dataset(tmp_path, kind="EDF", rows=[{name: row[name] for name in order} for row in rows], **SPELLINGS[spelling])
    source = study(tmp_path)
    check(source, eeg_CT)
    assert notes(source)["events"]["onset_unit"] == unit
    assert notes(source)["events"]["onset_unit_is"] == "measured"
    by_image = study(tmp_path, stimulus_level="image", events={"column": "stim_file"})
    assert [stimulus.id for stimulus in by_image.facts.stimuli] == ["images/left/a.jpg", "images/right/a.jpg"]
    for stated in ("seconds", "milliseconds", "samples"):
        write_json(tmp_path / "task-x_events.json", {"onset": {"Units": stated}})
        if stated == unit:
            check(study(tmp_path), eeg_CT)
            refused(
                tmp_path,
                r"_events\.tsv: its last onset.*events\.onset_unit says",
                events={"onset_unit": "samples" if unit != "samples" else "seconds"},
            )
        else:
            refused(tmp_path, rf"_events\.tsv: its last onset, .*; .*task-x_events\.json says {stated}")


def test_where_neither_length_nor_marks_tell_the_unit_it_has_to_be_said(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    write_table(tmp_path / f"{STEM}_events.tsv", events("samples", onsets=[onset + 60 for onset in ONSETS]))
    refused(tmp_path, r"_events\.tsv: its last onset, 2585, .*21\.54% as milliseconds, 86\.17% as samples; say in events\.onset_unit")
    assert len(study(tmp_path, events={"onset_unit": "samples"}).samples) == len(ONSETS)


LEVELS = ["task-x", "sub-01/sub-01_task-x", "sub-01/ses-01/sub-01_ses-01", STEM]


@pytest.mark.parametrize(("where", "suffix"), itertools.product(range(len(LEVELS)), ["eeg.json", "channels.tsv", "events.tsv"]))
def test_a_file_speaks_of_all_recordings_below_it_and_a_nearer_one_has_the_last_word(tmp_path: Path, where: int, suffix: str) -> None:
    _, eeg_CT = write_dataset(tmp_path)
    own = tmp_path / f"{STEM}_{suffix}"
    right = own.read_bytes()
    own.unlink()
    above = tmp_path / f"{LEVELS[where]}_{suffix}"
    above.write_bytes(right)
    check(study(tmp_path), eeg_CT)
    for other in (f"{LEVELS[where].removesuffix('_task-x').removesuffix('task-x')}_task-y_{suffix}".lstrip("_"), f"._{suffix}"):
        (tmp_path / other).write_bytes(b"not for this recording")
    if where:  # a more general one that is wrong is overruled
        wrong = {
            "eeg.json": b'{"SamplingFrequency": 7}',
            "channels.tsv": b"name\ttype\nFz\tEOG\n",
            "events.tsv": b"onset\ttrial_type\n1\twrong\n",
        }
        (tmp_path / f"task-x_{suffix}").write_bytes(wrong[suffix])
    check(study(tmp_path), eeg_CT)


def test_two_tables_that_say_as_much_are_refused(tmp_path: Path) -> None:
    file, _ = write_dataset(tmp_path)
    (tmp_path / f"{STEM}_events.tsv").unlink()
    for name in ("sub-01_run-01_events.tsv", "sub-01_task-x_events.tsv"):
        write_table(file.parent / name, events())
    refused(tmp_path, r"sub-01_task-x_events\.tsv: is a table of events as much as sub-01_run-01_events\.tsv is")


# ------------------------------------------------------------------------------------------ sidecar against signal


WRONG = [
    ({"SamplingFrequency": 500}, "SamplingFrequency", r"SamplingFrequency is 500 Hz, .*sub-01_.*_eeg\.\w+ is sampled at 250 Hz"),
    ({"SamplingFrequency": 250.5}, "SamplingFrequency", r"SamplingFrequency is 250\.5 Hz"),
    ({"SamplingFrequency": 0}, "SamplingFrequency", r"SamplingFrequency is 0 Hz"),
    ({"EEGChannelCount": 64}, "EEGChannelCount", r"EEGChannelCount is 64, .*_channels\.tsv has 3 channels of type EEG"),
    ({"RecordingDuration": 6}, "RecordingDuration", r"RecordingDuration is 6 s, .* has 12 s"),
    ({"RecordingDuration": 1200.0}, "RecordingDuration", r"RecordingDuration is 1200 s"),
    ({"RecordingType": "epoched"}, "RecordingType", r"RecordingType is epoched"),
    ({"EEGReference": "Cz"}, "EEGReference", r"EEGReference is Cz, .* has a signal of channel Cz"),
]


@pytest.mark.parametrize("kind", ["BrainVision", "BDF"])
@pytest.mark.parametrize("wrong", range(len(WRONG)))
def test_a_sidecar_that_the_signal_contradicts_is_refused_with_both_or_accepted_by_name(tmp_path: Path, wrong: int, kind: str) -> None:
    changes, name, sentence = WRONG[wrong]
    _, eeg_CT = write_dataset(tmp_path, kind=kind, json_changes=changes)
    refused(tmp_path, rf"sub-01_ses-01_task-x_run-01_eeg\.json: {sentence}.*accept: \[{name}\]")
    source = study(tmp_path, accept=(name,))
    check(source, eeg_CT)
    assert len(notes(source)["contradictions"]) == 1


def test_statements_within_their_rounding_are_no_contradiction(tmp_path: Path) -> None:
    for said in (
        {"RecordingDuration": 11.996},
        {"RecordingDuration": "n/a"},
        {"SamplingFrequency": "250"},
        {"SamplingFrequency": None, "EEGChannelCount": None},
    ):
        _, eeg_CT = write_dataset(tmp_path, json_changes=said)
        check(study(tmp_path), eeg_CT)
    write_dataset(tmp_path, json_changes={"SamplingFrequency": "quick"})
    refused(tmp_path, r"_eeg\.json: SamplingFrequency is 'quick', expected a number")
    (tmp_path / f"{STEM}_eeg.json").write_text("[1]")
    refused(tmp_path, r"_eeg\.json: holds a list, expected an object")
    (tmp_path / f"{STEM}_eeg.json").write_text("{")
    refused(tmp_path, r"_eeg\.json")


CHANNELS = [
    (channel_rows(("Fz", "Cz")), r"_eeg\.vhdr: has Oz, which .*_channels\.tsv does not list", {"EEGChannelCount": None}),
    (channel_rows(("Fz", "Cz", "Oz", "Pz")), r"_channels\.tsv: lists Pz, .*_eeg\.vhdr has no such channel", {"EEGChannelCount": None}),
    (channel_rows(sfreq=500.0), r"_channels\.tsv: sampling_frequency of Fz is 500 Hz", {}),
    (channel_rows(Cz={"units": "mV"}), r"_channels\.tsv: Cz is in millivolts, .*_eeg\.vhdr says microvolts", {}),
    (channel_rows(Cz={"units": "T"}), r"_channels\.tsv: Cz is EEG in 'T'", {}),
    (channel_rows(Cz={"type": "EOG"}), r"EEGChannelCount is 3, .*_channels\.tsv has 2 channels of type EEG", {}),
    (channel_rows(("Fz", "Cz", "Cz")), r"_channels\.tsv: has Cz twice", {}),
    ([{"channel": "Fz"}], r"_channels\.tsv: has no names", {}),
]  # fmt: skip


@pytest.mark.parametrize("wrong", range(len(CHANNELS)))
def test_a_table_of_channels_that_the_signal_contradicts_is_refused(tmp_path: Path, wrong: int) -> None:
    rows, sentence, changes = CHANNELS[wrong]
    write_dataset(tmp_path, channels=rows, json_changes=changes)
    refused(tmp_path, sentence)


def test_channels_are_typed_by_their_table_whatever_their_names(tmp_path: Path) -> None:
    rows = channel_rows(("Fz", "Cz", "Oz"))
    file, eeg_CT = write_dataset(tmp_path, channels=rows)
    made.write_brainvision(file.with_suffix(""), np.vstack([eeg_CT, eeg_CT[1:] + 1]), (*CH_NAMES, "EMG2", "Lid"))
    write_table(tmp_path / f"{STEM}_channels.tsv", [*rows, *channel_rows(("EMG2",)), *channel_rows(("LID",), LID={"type": "VEOG"})])
    write_json(tmp_path / f"{STEM}_eeg.json", eeg_json(EEGChannelCount=4))
    source = study(tmp_path)
    assert source.facts.ch_names == [*CH_NAMES, "EMG2"]  # the table says that it is EEG
    assert notes(source)["left_out_channels"] == {"Lid": "eog"}


@pytest.mark.parametrize("bad", ["keep", "drop"])
def test_bad_channels_are_said_or_left_out(tmp_path: Path, bad: Any) -> None:
    write_dataset(tmp_path, channels=channel_rows(Cz={"status": "bad", "status_description": "noisy"}))
    source = study(tmp_path, bad_channels=bad)
    assert source.facts.ch_names == (["Fz", "Cz", "Oz"] if bad == "keep" else ["Fz", "Oz"])
    assert notes(source)["bad_channels"] == {"channels": {"Cz": "noisy"}, "are": "kept" if bad == "keep" else "dropped"}


@pytest.mark.parametrize(("line", "said"), [(50, 60), (60, 50), (50, 50), (None, 60)])
def test_the_line_frequency_is_measured(tmp_path: Path, line: int | None, said: int) -> None:
    file, eeg_CT = write_dataset(tmp_path, json_changes={"PowerLineFrequency": said})
    if line is not None:
        eeg_CT = eeg_CT + 20 * np.sin(2 * np.pi * line * np.arange(eeg_CT.shape[1]) / SFREQ)
        made.write_brainvision(file.with_suffix(""), eeg_CT)
    if line not in (None, said):
        refused(tmp_path, rf"_eeg\.json: PowerLineFrequency is {said} Hz, .*_eeg\.vhdr has its line at {line} Hz")
    else:
        source = study(tmp_path)
        assert notes(source)["sidecars"].get("line_measured_hz") == (None if line is None else [float(line)])
        notch = CuttingConfig(band_hz=None, notch_hz=(110.0 - said,), tmin=-0.1, tmax=0.4)
        refused(tmp_path, rf"PowerLineFrequency is {said} Hz, trials\.notch_hz takes {110 - said} Hz out", trials=notch)


def test_two_references_are_one_study_only_when_referenced_anew(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    write_dataset(tmp_path, subject="02", seed=1, json_changes={"EEGReference": "nose"})
    refused(tmp_path, r"sub-02_.*_eeg\.json: EEGReference is nose, .*sub-01_.*_eeg\.json says M1: expected one, or trials\.reference")
    source = study(tmp_path, trials=CuttingConfig(band_hz=None, reference=("average",), tmin=-0.1, tmax=0.4))
    assert source.facts.subjects == ["01", "02"]
    assert study(tmp_path, accept=("EEGReference",)).facts.subjects == ["01", "02"]


# ---------------------------------------------------------------------------------------------------------- events


def test_where_the_marks_of_the_recording_and_the_table_disagree_it_is_said_or_refused(tmp_path: Path) -> None:
    _, eeg_CT = write_dataset(tmp_path)
    check(study(tmp_path, events={"marks": "refuse"}), eeg_CT)
    late = [onset + 4 for onset in ONSETS]
    write_table(tmp_path / f"{STEM}_events.tsv", [*events(onsets=late), *events(onsets=ONSETS[:2])])
    told = notes(study(tmp_path))["events"]["marks"]["annotations"]
    assert told == {
        "marks": len(ONSETS),
        "events": len(ONSETS) + 2,
        "events_without_a_mark": len(ONSETS),
        "median_ms_behind_mark": 16.0,
        "largest_ms_from_mark": 16.0,
    }
    refused(
        tmp_path,
        r"_events\.tsv: 10 of its 12 stimuli have no mark in the annotations of .*_eeg\.vhdr \(10 marks",
        events={"marks": "refuse"},
    )
    write_dataset(tmp_path / "more", rows=events()[:6])
    told = notes(study(tmp_path / "more"))["events"]["marks"]["annotations"]
    assert (told["marks"], told["events"], told["events_without_a_mark"]) == (10, 6, 0)


def test_targets_responses_gaps_and_repeated_rows_are_counted(tmp_path: Path) -> None:
    rows = events(kind=["image"] * len(ONSETS), code=["1"] * len(ONSETS))
    rows[2] |= {"kind": "target", "code": "99999"}
    rows[3] |= {"trial_type": "n/a"}
    rows[4] |= {"onset": "n/a"}
    rows += [dict(rows[0]), dict(rows[1])]
    write_dataset(tmp_path, rows=rows)
    source = study(tmp_path, events={"where": {"kind": "image"}})
    told = notes(source)["events"]
    assert {name: told[name] for name in ("found", "named", "outside_where", "rows_without_onset", "written_twice")} == {
        "found": len(ONSETS) + 1,
        "named": len(ONSETS) - 3,
        "outside_where": 1,
        "rows_without_onset": 1,
        "written_twice": 2,
    }
    assert told["unnamed"] == {"": 1}
    assert len(source.samples) == len(ONSETS) - 3
    rows += [rows[0] | {"trial_type": "right"}]
    write_dataset(tmp_path, rows=rows)
    refused(tmp_path, r"_events\.tsv: 'left' and 'right' are both shown at point 275, expected one stimulus at a time")


EVENTS = [
    ({"onset": "1,5"}, r"_events\.tsv: column 'onset' has '1,5' in row 3, a decimal comma: write a point"),
    ({"onset": "later"}, r"_events\.tsv: column 'onset' has 'later' in row 3, expected a number"),
    ({"onset": "inf"}, r"_events\.tsv: column 'onset' has 'inf' in row 3"),
    ({"onset": "9999"}, r"_events\.tsv: 1 of 10 stimuli lie outside of the recording, 'left' at 9999 s of 12 s"),
    ({"onset": "-3"}, r"_events\.tsv: 1 of 10 stimuli lie outside of the recording, 'left' at -3 s of 12 s"),
    ({"sample": "4000"}, r"_events\.tsv: row 3 has its onset at point 775 and its column sample says 4000"),
]


@pytest.mark.parametrize("wrong", range(len(EVENTS)))
def test_an_onset_that_cannot_be_is_refused(tmp_path: Path, wrong: int) -> None:
    change, sentence = EVENTS[wrong]
    rows = events(sample=list(ONSETS)) if "sample" in change else events()
    rows[2] |= change
    write_dataset(tmp_path, rows=rows)
    refused(tmp_path, sentence)


def test_no_table_no_column_and_no_stimulus(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    refused(tmp_path, r"_events\.tsv: its events have no column 'stim_file'; they have", events={"column": "stim_file"})
    refused(tmp_path, r"_events\.tsv: no event is a stimulus by events\.names; column 'trial_type' has", events={"names": {"cat": "cat"}})
    (tmp_path / f"{STEM}_events.tsv").write_text("")
    refused(tmp_path, r"_events\.tsv: its columns are none|_events\.tsv: its columns are")
    (tmp_path / f"{STEM}_events.tsv").write_text("onset\ttrial_type\n")
    refused(tmp_path, r"_events\.tsv: 0 rows with an onset")
    (tmp_path / f"{STEM}_events.tsv").unlink()
    refused(tmp_path, r"_eeg\.vhdr: has no events\.tsv, beside it or above it")


# ------------------------------------------------------------------------------------------------------- positions


UNITS = [("m", 1.0), ("cm", 100.0), ("mm", 1000.0)]


@pytest.mark.parametrize(("unit", "landmarks", "system"), itertools.product(range(3), [False, True], ["CapTrak", "EEGLAB"]))
def test_positions_are_in_head_coordinates_whatever_their_unit(tmp_path: Path, unit: int, landmarks: bool, system: str) -> None:
    if landmarks and system == "EEGLAB":
        pytest.skip("the helper's landmarks are those of CapTrak")
    file, _ = write_dataset(tmp_path)
    name, factor = UNITS[unit]
    for stated in (name, None):
        write_electrodes(file.parent, "sub-01_ses-01", factor, stated, system, landmarks)
        source = study(tmp_path)
        np.testing.assert_allclose(source.facts.positions, [made_bids.PLACES[channel] for channel in CH_NAMES], atol=1e-5)
        assert notes(source)["electrodes"].endswith(f"in {name}, {'stated' if stated else 'measured'}")
    write_electrodes(file.parent, "sub-01_ses-01", factor, UNITS[unit - 1][0], system, landmarks)
    refused(
        tmp_path, rf"_coordsystem\.json: EEGCoordinateUnits is {UNITS[unit - 1][0]}, in .*_electrodes\.tsv .* which is a head in {name}"
    )
    assert study(tmp_path, channels=ChannelsConfig(montage="standard_1005")).facts.positions is not None


def test_positions_that_mean_no_head_are_said_and_those_in_two_spaces_chosen(tmp_path: Path) -> None:
    file, _ = write_dataset(tmp_path)
    write_electrodes(file.parent, "sub-01_ses-01", 1.0, "m", system="Other")
    source = study(tmp_path)
    assert source.facts.positions is None
    assert "Other coordinate system, without landmarks" in notes(source)["electrodes"]
    write_electrodes(file.parent, "sub-01_ses-01_space-CapTrak")
    assert study(tmp_path).facts.positions is not None
    write_electrodes(file.parent, "sub-01_ses-01_space-EEGLAB", 1.2)
    refused(tmp_path, r"sub-01_ses-01_space-EEGLAB_electrodes\.tsv: differs from .* by \d+ mm: say in 'space'")
    assert study(tmp_path, space="CapTrak").facts.positions is not None
    refused(tmp_path, r"expected MNI305 \(space\)", space="MNI305")
    table = file.parent / "sub-01_ses-01_space-CapTrak_electrodes.tsv"
    table.write_text(table.read_text().replace("0.085", "0,085"))
    refused(tmp_path, r"_electrodes\.tsv: electrode 'Fz' lies at .*a decimal comma", space="CapTrak")


# ---------------------------------------------------------------------------------------------- which recordings


def test_recordings_are_chosen_by_entities_participants_and_subjects(tmp_path: Path) -> None:
    for number, (subject, session, task) in enumerate(itertools.product(("01", "02", "03"), ("01", "02"), ("train", "test"))):
        write_dataset(tmp_path, kind="EDF", subject=subject, session=session, task=task, run=None, seed=number)
    write_table(
        tmp_path / "participants.tsv",
        [{"participant_id": f"sub-{name}", "exclude": int(name == "02"), "note": '"x, y"'} for name in ("01", "02", "03", "07")],
        bom=True,
    )
    source = study(tmp_path, participants={"exclude": "0"}, select={"task": ["test"], "ses": ["2"]})
    assert source.facts.subjects == ["01", "03"]
    assert source.facts.recordings == ["sub-01_ses-02_run-test", "sub-03_ses-02_run-test"]
    assert source.facts.preprocessing["subjects"] == {"left_out": ["02"], "without_a_folder": ["07"]}
    both = study(tmp_path, subjects=("1",))
    assert both.facts.sessions == ["01", "02"]
    assert both.facts.recordings == [f"sub-01_ses-{ses}_run-{task}" for ses in ("01", "02") for task in ("test", "train")]
    refused(tmp_path, r"no recording has task rest \(select\); there are task test, train", select={"task": ["rest"]})
    refused(tmp_path, "has no subject 09; it has 01, 02, 03", subjects=("09",))
    refused(tmp_path, r"participants\.tsv: subject 02 \(subjects\) does not match", subjects=("02",), participants={"exclude": "0"})
    refused(tmp_path, r"participants\.tsv: has no column 'age'", participants={"age": ".*"})
    with pytest.raises(ValueError, match="select has 'colour', expected one of"):
        BidsReaderConfig(root=str(tmp_path), select={"colour": ["red"]})


def test_recordings_that_differ_in_what_is_not_selected_are_refused(tmp_path: Path) -> None:
    write_dataset(tmp_path, more="_acq-dry", seed=1)
    _, eeg_CT = write_dataset(tmp_path, more="_acq-wet", seed=2)
    check(study(tmp_path, select={"acq": ["wet"]}), eeg_CT)
    assert study(tmp_path).facts.recordings == ["sub-01_ses-01_run-xdry01", "sub-01_ses-01_run-xwet01"]
    file, _ = write_dataset(tmp_path, kind="EDF", more="_acq-wet", seed=3)
    refused(tmp_path, r"in another format: expected one")
    file.unlink()
    shutil.move(
        tmp_path / "sub-01/ses-01/eeg/sub-01_ses-01_task-x_acq-dry_run-01_eeg.vhdr",
        tmp_path / "sub-01/ses-01/eeg/sub-02_ses-01_task-x_eeg.vhdr",
    )
    refused(tmp_path, r"sub-02_ses-01_task-x_eeg\.vhdr: its name says sub-02/ses-01, its folder sub-01/ses-01")


def test_a_derivative_has_its_own_sidecars_and_the_datasets_events(tmp_path: Path) -> None:
    file, eeg_CT = write_dataset(tmp_path)
    folder = tmp_path / "derivatives/clean/sub-01/ses-01/eeg"
    cleaned = folder / "sub-01_ses-01_task-x_run-01_desc-clean_eeg.edf"
    made_bids.write_signal(cleaned, eeg_CT + 1, "EDF")
    write_electrodes(file.parent, "sub-01_ses-01")
    source = study(tmp_path, derivative="clean", select={"desc": ["clean"]})
    check(source, eeg_CT + 1)
    assert source.facts.positions is not None
    write_json(folder / "sub-01_ses-01_task-x_run-01_desc-clean_eeg.json", eeg_json(SamplingFrequency=100))
    refused(tmp_path, r"desc-clean_eeg\.json: SamplingFrequency is 100 Hz", derivative="clean")
    write_json(folder / "sub-01_ses-01_task-x_run-01_desc-clean_eeg.json", eeg_json())
    write_table(tmp_path / f"{STEM}_events.tsv", events("samples"))
    refused(tmp_path, r"_events\.tsv: counts samples of the raw recording", derivative="clean")
    refused(tmp_path, r"derivatives.other: no such folder \(derivative\), it has clean", derivative="other")
    with pytest.raises(UserError):
        study(tmp_path, derivative="../..")


def test_a_fif_in_parts_is_one_recording_and_other_parts_are_refused(tmp_path: Path) -> None:
    import mne

    file, _ = write_dataset(tmp_path, kind="FIF", run=None, json_changes={"EEGChannelCount": 128})
    names = tuple(f"E{i:02d}" for i in range(128))
    rows = [*channel_rows(names), *channel_rows(("STI 014",), **{"STI 014": {"type": "TRIG"}})]
    write_table(file.with_name("sub-01_ses-01_task-x_channels.tsv"), rows)
    file.unlink()
    raw = mne.io.read_raw_fif(made.write_fif(file, made.signal(n_chans=128), names), preload=True, verbose="error")
    file.unlink()
    raw.save(file, split_size="2MB", buffer_size_sec=1.0, fmt="double", split_naming="bids", overwrite=True, verbose="error")
    parts = sorted(path.name for path in file.parent.glob("*_split-*"))
    assert len(parts) > 1
    source = study(tmp_path)
    assert len(source.samples) == len(ONSETS)
    assert source.facts.recordings == ["sub-01_ses-01_run-x"]
    whole = file.parent / parts[1]
    content = whole.read_bytes()
    whole.unlink()
    with pytest.raises(StudyError, match=r"split-01_eeg\.fif"):
        study(tmp_path)
    whole.write_bytes(content)
    write_dataset(tmp_path / "edf", kind="EDF", more="_split-01", run=None)
    write_dataset(tmp_path / "edf", kind="EDF", more="_split-02", run=None)
    refused(tmp_path / "edf", r"split-02_eeg\.edf: the second part of .*: only FIF files are split in BIDS")


def test_names_folders_and_content_that_are_no_recording(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "no such folder, expected a BIDS dataset")
    refused(tmp_path, r"no recording in sub-\*/\[ses-\*/\]eeg/")
    (tmp_path / "meg/sub-BIGMEG1/ses-01/meg/sub-BIGMEG1_ses-01_task-main_run-01_meg.ds").mkdir(parents=True)
    refused(tmp_path / "meg", r"has meg and no eeg, expected EEG: .*reader epochs \(configs/data_prep/shard_things_meg\.yaml\)")
    file, _ = write_dataset(tmp_path)
    stranger = file.with_name("sub-01_ses-01_colour-red_task-x_eeg.vhdr")
    shutil.copy(file, stranger)
    refused(tmp_path, r"colour-red_task-x_eeg\.vhdr: not a name of BIDS")
    stranger.unlink()
    file.unlink()
    file.symlink_to("../../../.git/annex/objects/aa/bb/key")
    refused(tmp_path, r"_eeg\.vhdr: points to content that is not here")
    file.unlink()
    file.write_text("/annex/objects/SHA256E-s1--aa.vhdr\n")
    refused(tmp_path, r"_eeg\.vhdr: points to content that is not here")


def test_a_dataset_without_description_is_read_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, eeg_CT = write_dataset(tmp_path)
    (tmp_path / "dataset_description.json").unlink()
    source = study(tmp_path)
    check(source, eeg_CT)
    assert source.facts.preprocessing["dataset"]["odd"].endswith("no such file, nothing says that this is BIDS")
    assert "nothing says that this is BIDS" in caplog.text
    write_json(tmp_path / "dataset_description.json", {"Name": "x"})
    assert study(tmp_path).facts.preprocessing["dataset"]["odd"].endswith("has no BIDSVersion")
    (tmp_path / "dataset_description.json").write_text("{'Name': 1}")
    refused(tmp_path, r"dataset_description\.json")


# ----------------------------------------------------------------------------------------------------- real files


def test_mne_bids_own_example_is_read_as_its_tables_say() -> None:
    root = shared_data() / "formats/BIDS/tiny_bids"
    refused(root, r"_eeg\.json: RecordingDuration is 0\.9998 s, .*_eeg\.vhdr has 2 s")
    source = study(root, accept=("RecordingDuration",), events={"where": {"trial_type": "show_stimulus"}})
    assert len(source.facts.ch_names) == 64
    assert (source.facts.sfreq, source.facts.sessions, [sample.onset_seconds for sample in source.samples]) == (5000.0, ["eeg"], [[0.2]])
    assert notes(source)["events"]["marks"]["annotations"]["events_without_a_mark"] == 1  # only a comment is marked in the .vmrk
    assert notes(source)["bad_channels"]["channels"] == {"PO10": "continuously flat"}
    table = (root / "sub-01/ses-eeg/eeg/sub-01_ses-eeg_space-CapTrak_electrodes.tsv").read_text().splitlines()
    np.testing.assert_allclose(source.facts.positions[0], [float(cell) for cell in table[1].split("\t")[1:4]], atol=1e-6)  # type: ignore[index]


def test_case_s03_a_header_without_content_is_one_sentence() -> None:
    root = shared_data() / "cases/s03_bids_raw/data"
    refused(root, r"sub-01_task-x_eeg\.vhdr: ")


def test_tables_as_other_programs_write_them(tmp_path: Path) -> None:
    rows = events(stim_file=[("stimuli\\Türme\\a.jpg", "Häuser/b.jpg")[i % 2] for i in range(len(ONSETS))])
    file, _ = write_dataset(tmp_path, rows=rows, encoding="cp1252")
    table = file.with_name("sub-01_ses-01_task-x_run-01_events.tsv")
    table.write_bytes(table.read_bytes().replace(b"\n", b"\t\t\r\n", 3).replace(b"\t\t\r\n", b"\r\n", 1))  # tabs too many at the end
    for name in ("Türme/a.jpg", "Häuser/b.jpg"):
        picture = tmp_path / "stimuli" / name
        picture.parent.mkdir(parents=True)
        picture.write_bytes(b"a picture")
    (tmp_path / "participants.tsv").write_text("participant_id\tage\nsub-01\n")
    source = study(tmp_path, stimulus_level="image", stimuli=str(tmp_path / "stimuli"), events={"column": "stim_file"})
    assert [stimulus.image for stimulus in source.facts.stimuli] == ["Häuser/b.jpg", "Türme/a.jpg"]
    assert source.facts.preprocessing["subjects"]["participants_tsv"].endswith("line 2 has 1 cells, its header 2: expected as many")


def test_numbers_without_a_unit_have_that_of_the_table_of_channels(tmp_path: Path) -> None:
    file, eeg_CT = write_dataset(tmp_path, kind="EDF")
    made.write_edf(file, eeg_CT, unit="")
    check(study(tmp_path), eeg_CT)
    write_table(tmp_path / f"{STEM}_channels.tsv", channel_rows(**{name: {"units": "V"} for name in CH_NAMES}))
    refused(tmp_path, r"_eeg\.edf: its EEG read as volts has a level of .* they look like microvolts")


def test_a_baseline_is_clean_where_nothing_was_shown_before(tmp_path: Path) -> None:
    rows = events(onsets=[500, 550, 600, 1000, 1050, 1300])
    rows[3] |= {"trial_type": "target"}
    write_dataset(tmp_path, rows=rows)
    asked = {"names": {"left|right": "x"}, "clean_seconds": 1.0}
    source = study(tmp_path, events=asked)
    assert [sample.clean_baseline for sample in source.samples] == [[True], [False], [False], [False], [True]]
    assert study(tmp_path, events={"names": {"left|right": "x"}}).samples[0].clean_baseline is None
    with pytest.raises(ValueError, match=r"events\.clean_seconds is 0, expected above 0"):
        BidsEventsConfig(clean_seconds=0)
    with pytest.raises(StudyError, match=r"events\.test_where is set and stimulus_level is class"):
        study(tmp_path, events={"test_where": {"task": "x"}})


def test_events_before_and_after_the_recording_are_no_obstacle_where_they_are_no_stimuli(tmp_path: Path) -> None:
    outside = [{"onset": onset, "duration": "0", "trial_type": kind} for onset, kind in (("-0.5", "start"), ("12.5", "end"))]
    for more in outside:
        _, eeg_CT = write_dataset(tmp_path, rows=[*events(), more])
        source = study(tmp_path, events={"names": {"(left|right)": r"\1"}})
        check(source, eeg_CT)
        assert notes(source)["events"]["onset_unit"] == "seconds"
    write_dataset(tmp_path, rows=[*events(onsets=[onset + 1000 for onset in ONSETS])])
    refused(tmp_path, r"_events\.tsv: its last onset, 14\.1, .* no unit fits")


def test_json_with_a_byte_order_mark_and_a_derivative_that_is_read_as_a_dataset(tmp_path: Path) -> None:
    _, eeg_CT = write_dataset(tmp_path)
    said = tmp_path / f"{STEM}_eeg.json"
    said.write_bytes(b"\xef\xbb\xbf" + said.read_bytes())
    write_json(tmp_path / "dataset_description.json", {"Name": "x", "BIDSVersion": "1.9.0", "DatasetType": "derivative"})
    source = study(tmp_path)
    check(source, eeg_CT)
    assert notes(source)["sidecars"]["line_hz"] == 50.0
    assert source.facts.preprocessing["dataset"]["odd"].endswith("DatasetType is derivative, its recordings are not raw ones")
