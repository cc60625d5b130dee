"""Recordings as other devices, programs and countries write them: the same trials, or a sentence with file, found and wanted."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_prep.contract.errors import StudyError, UserError
from data_prep.studies.cutting import CuttingConfig
from data_prep.studies.events import EventsConfig
from data_prep.studies.mne import MneReaderConfig
from data_prep.studies.recordings_study import RecordingsSource
from data_prep.studies.signal_tables import CsvConfig
from tests.helpers import recordings as made
from tests.helpers.matlab_5 import save_eeglab_struct
from tests.helpers.recordings import CH_NAMES, ONSETS, SFREQ

CSV: dict[str, Any] = {"channels": CH_NAMES, "time": "time", "marker": "stim", "sfreq": SFREQ}
MARKERS = EventsConfig(source="markers", names={"1": "left", "2": "right"})
TABLE = EventsConfig(source="table", file="{stem}_events.tsv")


def study(root: Path, files: str = "sub-{subject}.*", **changes: Any) -> RecordingsSource:
    changes = {"events": EventsConfig(source="annotations"), **changes}
    return MneReaderConfig(root=str(root), files=files, trials=CuttingConfig(band_hz=None, tmin=-0.1, tmax=0.4), **changes).open()


def check(source: RecordingsSource) -> None:
    """All trials of the made recording, each with its impulse at its onset."""
    assert [source.facts.concepts[sample.stimulus] for sample in source.samples] == [made.shown(i) for i in range(len(ONSETS))]
    assert [source.eeg(i)[0, 0, 25] for i in range(len(ONSETS))] == pytest.approx([100.0] * len(ONSETS), abs=0.1)


# ------------------------------------------------------------------------------------------------------------- CSV


def stamps(text: str, stamp: Callable[[int], str]) -> str:
    head, *rows = text.splitlines()
    return "\n".join([head, *(f"{stamp(i)},{row.partition(',')[2]}" for i, row in enumerate(rows))]) + "\n"


def dated(i: int) -> str:
    """Local times of a night in which clocks are put forward an hour."""
    winter = i < 1500
    point = np.datetime64("2024-03-31T01:59:54" if winter else "2024-03-31T02:59:54", "us") + np.timedelta64(i * 4000, "us")
    return f"{point}+0{1 if winter else 2}:00"


DIALECTS: dict[str, tuple[Callable[[str], str], str, dict[str, Any]]] = {
    "UTF-16 of Excel": (lambda text: text, "utf-16", {}),
    "Excel's first line": (lambda text: "sep=,\n" + text, "utf-8", {}),
    "decimal commas": (lambda text: text.replace(",", ";").replace(".", ","), "utf-8", {"delimiter": ";", "decimal": ","}),
    "line ends of an old Mac": (lambda text: text.replace("\n", "\r"), "utf-8", {}),
    "nanoseconds": (lambda text: stamps(text, lambda i: str(10**18 + 4_000_000 * i)), "utf-8", {}),
    "times of day of a zone, in the night that skips an hour": (lambda text: stamps(text, dated), "utf-8", {}),
    "packets that share a stamp": (lambda text: stamps(text, lambda i: f"{1e6 + i // 12 * 12 / SFREQ:.4f}"), "utf-8", {}),
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_csv_in_any_dialect_gives_the_same_trials(tmp_path: Path, dialect: str) -> None:
    change, encoding, fields = DIALECTS[dialect]
    file = made.write_csv(tmp_path / "sub-1.csv", made.signal())
    file.write_bytes(change(file.read_text()).encode(encoding))
    check(study(tmp_path, csv=CsvConfig(**CSV, **fields), events=MARKERS))


def test_a_decimal_comma_is_told_with_the_field_that_reads_it(tmp_path: Path) -> None:
    file = made.write_csv(tmp_path / "sub-1.csv", made.signal())
    file.write_text(file.read_text().replace(",", ";").replace(".", ","))
    with pytest.raises(StudyError, match=r"sub-1\.csv: column 'Fz' has \S+ in data row 1, expected a number \(csv\.decimal"):
        study(tmp_path, csv=CsvConfig(**CSV, delimiter=";"), events=MARKERS)


# ----------------------------------------------------------------------------------------------------- annotations


def annotated(file: Path, onsets: list[float]) -> None:
    import edfio

    limits = {"physical_range": (-500.0, 500.0)}
    signals = [
        edfio.EdfSignal(row, SFREQ, label=name, physical_dimension="uV", **limits)
        for name, row in zip(CH_NAMES, made.signal(), strict=True)
    ]
    times = len(onsets) // len(ONSETS)
    edfio.Edf(signals, annotations=[edfio.EdfAnnotation(at, None, made.shown(i // times)) for i, at in enumerate(onsets)]).write(file)


@pytest.mark.parametrize("right", [0, 3, 8])
@pytest.mark.parametrize("factor", [1000.0, SFREQ, 20.0])
def test_annotations_outside_of_the_recording_are_refused_which_mne_leaves_out(tmp_path: Path, factor: float, right: int) -> None:
    annotated(tmp_path / "sub-1.edf", [point / SFREQ * (1 if i < right else factor) for i, point in enumerate(ONSETS)])
    with pytest.raises(StudyError, match=rf"sub-1\.edf: {10 - right} of 10 annotations lie outside of the recording, which has 12 s"):
        study(tmp_path)


def test_one_annotation_behind_the_end_is_none_and_said(tmp_path: Path) -> None:
    annotated(tmp_path / "sub-1.edf", [point / SFREQ if i < 9 else 99.0 for i, point in enumerate(ONSETS)])
    source = study(tmp_path)
    assert len(source.samples) == 9
    assert source.facts.preprocessing["trials_by_recording"][0]["file"]["annotations_outside"] == 1


@pytest.mark.parametrize("apart", [0.0, 0.004])
def test_a_mark_that_is_written_twice_is_one(tmp_path: Path, apart: float) -> None:
    annotated(tmp_path / "sub-1.edf", [point / SFREQ + more for point in ONSETS for more in (0.0, apart)])
    source = study(tmp_path)
    check(source)
    assert source.facts.preprocessing["trials_by_recording"][0]["events"]["written_twice"] == len(ONSETS)


# ------------------------------------------------------------------------------------------------------- BrainVision


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252"])
@pytest.mark.parametrize("micro", ["\u00b5", "\u03bc", "u"])
@pytest.mark.parametrize("codepage", ["Codepage=UTF-8", ""])
def test_a_brainvision_header_in_any_code_page_and_marks_with_umlauts(tmp_path: Path, encoding: str, micro: str, codepage: str) -> None:
    if encoding == "cp1252" and micro == "\u03bc":
        micro = "\u00b5"  # that code page has no Greek letters
    made.write_brainvision(tmp_path / "sub-1.vhdr", made.signal())
    for ending in (".vhdr", ".vmrk"):
        file = tmp_path / f"sub-1{ending}"
        text = (
            file.read_text(encoding="utf-8").replace("Codepage=UTF-8", codepage).replace("\u00b5V", f"{micro}V").replace("S  1", "Gebäude")
        )
        file.write_bytes(text.encode(encoding))
    names = {"Stimulus/Gebäude": "left", "Stimulus/S 2": "right"}
    check(study(tmp_path, "sub-{subject}.vhdr", events=EventsConfig(source="annotations", names=names)))


# ------------------------------------------------------------------------------------------------------------ EEGLAB


def eeglab(root: Path, **changes: Any) -> RecordingsSource:
    from scipy.io import loadmat

    file = made.write_eeglab(root / "sub-1.set", made.signal())
    content = loadmat(file, simplify_cells=True)["EEG"]
    content["event"] = [row for row in content["event"] if row["type"] == "square"]
    content["event"] = changes.pop("event", lambda rows: rows)(content["event"])
    content.update(changes)
    save_eeglab_struct(file, content, ("event", "chanlocs"))
    return study(root, events=EventsConfig(source="eeglab", where={"type": "square"}, column="side"))


def test_eeglab_files_that_say_another_size_or_count_seconds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"sub-1\.set: its pnts is 3000, its data have 3 channels of 3 points: expected as many"):
        eeglab(tmp_path, data=made.signal().T.astype(np.float32))
    with pytest.raises(StudyError, match=r"sub-1\.set: its last event lies at point \d+ of 3,000: expected latencies in points"):
        eeglab(tmp_path, event=lambda rows: [row | {"latency": (row["latency"] - 1) / SFREQ} for row in rows])
    with pytest.raises(StudyError, match=r"sub-1\.set: event 1 has latency '276.0', expected a time point"):
        eeglab(tmp_path, event=lambda rows: [row | {"latency": f"{float(row['latency'])}"} for row in rows])
    check(eeglab(tmp_path, data=np.round(made.signal()).astype(np.int16)))


# ------------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(("on_disk", "in_table"), [("NFD", "NFC"), ("NFC", "NFD"), ("NFC", "NFC")])
def test_an_image_is_found_whichever_form_its_accents_have(tmp_path: Path, on_disk: Any, in_table: Any) -> None:
    names = ["Café/é1.jpg", "Café/Ü2.jpg"]
    for name in names:
        file = tmp_path / "img" / unicodedata.normalize(on_disk, name)
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(file)
    made.write_edf(tmp_path / "sub-1.edf", made.signal(), marks=False)
    shown = [unicodedata.normalize(in_table, names[i % 2]) for i in range(len(ONSETS))]
    rows = "".join(f"{point / SFREQ:.4f}\t{name}\n" for point, name in zip(ONSETS, shown, strict=True))
    (tmp_path / "sub-1_events.tsv").write_text("onset\ttrial_type\n" + rows, encoding="utf-8")
    source = study(tmp_path, "sub-{subject}.edf", events=TABLE, stimulus_level="image", stimuli=str(tmp_path / "img"))
    assert sorted(stimulus.id for stimulus in source.facts.stimuli) == sorted(unicodedata.normalize(on_disk, name) for name in names)


def test_a_recording_whose_name_is_no_text_is_one_sentence_and_others_beside_it_are_read(tmp_path: Path) -> None:
    file = made.write_edf(tmp_path / "sub-1.edf", made.signal())
    odd = os.fsencode(tmp_path) + b"/H\xe4user.txt"
    with open(odd, "wb"):
        pass
    check(study(tmp_path, "sub-{subject}.edf"))
    os.rename(file, os.fsencode(tmp_path) + b"/sub-1_H\xe4user.edf")
    with pytest.raises(UserError, match=r"sub-1_H.udce4user\.edf': its name is no text in UTF-8"):
        study(tmp_path, "sub-{subject}_*.edf")
