"""BIDS datasets, small: a recording in any of the formats that BIDS allows, and the files beside it, right unless asked otherwise.

Recordings are those of :mod:`tests.helpers.recordings`: 12 s, three channels, an impulse in the first one at every onset.

Shape suffixes: C channels, T time points.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.helpers import recordings as made
from tests.helpers.recordings import CH_NAMES, ONSETS, SFREQ

ENDINGS = {"BrainVision": ".vhdr", "EDF": ".edf", "BDF": ".bdf", "EEGLAB": ".set", "FIF": ".fif"}
PLACES = {"Fz": (0.0, 0.085, 0.105), "Cz": (0.0, 0.015, 0.14), "Oz": (0.0, -0.09, 0.06)}
"""Metres, head coordinates."""
LANDMARKS = {"NAS": [0.0, 0.1, 0.0], "LPA": [-0.08, 0.0, 0.0], "RPA": [0.08, 0.0, 0.0]}


def write_signal(file: Path, eeg_CT: np.ndarray, kind: str, ch_names: tuple[str, ...] = CH_NAMES, sfreq: float = SFREQ) -> None:
    """The recording alone, marks in it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if kind == "BrainVision":
        made.write_brainvision(file, eeg_CT, ch_names, sfreq)
    elif kind in ("EDF", "BDF"):
        made.write_edf(file, eeg_CT, ch_names, sfreq, bdf=kind == "BDF")
    elif kind == "EEGLAB":
        made.write_eeglab(file, eeg_CT, ch_names, sfreq)
    else:
        made.write_fif(file, eeg_CT, ch_names, sfreq)


def write_table(file: Path, rows: Sequence[Mapping[str, Any]], *, bom: bool = False, crlf: bool = False, encoding: str = "utf-8") -> Path:
    """A TSV of rows that have the same columns."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = ["\t".join(rows[0]), *("\t".join(str(cell) for cell in row.values()) for row in rows)]
    text = ("\ufeff" if bom else "") + "".join(f"{line}{chr(13) if crlf else ''}\n" for line in lines)
    file.write_bytes(text.encode(encoding))
    return file


def events(unit: str = "seconds", *, sfreq: float = SFREQ, onsets: Sequence[int] = ONSETS, **more: Sequence[Any]) -> list[dict[str, Any]]:
    """Rows of ``events.tsv``; ``more`` are columns besides."""
    per_unit = {"seconds": 1 / sfreq, "milliseconds": 1000 / sfreq, "samples": 1.0}[unit]
    return [
        {
            "onset": f"{onset * per_unit:.10g}",
            "duration": "0.1",
            "trial_type": made.shown(i),
            **{name: cells[i] for name, cells in more.items()},
        }
        for i, onset in enumerate(onsets)
    ]


def eeg_json(**changes: Any) -> dict[str, Any]:
    """``*_eeg.json``, right for the made recordings; None leaves a field out."""
    said = {
        "TaskName": "x",
        "SamplingFrequency": SFREQ,
        "EEGChannelCount": len(CH_NAMES),
        "EEGReference": "M1",
        "PowerLineFrequency": 50,
        "SoftwareFilters": "n/a",
        "RecordingType": "continuous",
        "RecordingDuration": made.SECONDS,
    }
    return {name: value for name, value in (said | changes).items() if value is not None}


def channel_rows(ch_names: Sequence[str] = CH_NAMES, sfreq: float = SFREQ, **changes: Mapping[str, str]) -> list[dict[str, Any]]:
    """Rows of ``channels.tsv``; ``changes`` are by channel."""
    return [
        {"name": name, "type": "EEG", "units": "µV", "sampling_frequency": sfreq, "status": "good", "status_description": "n/a"}
        | dict(changes.get(name, {}))
        for name in ch_names
    ]


def write_json(file: Path, content: Any) -> Path:
    """A JSON file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


def write_electrodes(
    folder: Path, stem: str, per_metre: float = 1.0, unit: str | None = "m", system: str = "CapTrak", landmarks: bool = False
) -> None:
    """``electrodes.tsv`` and ``coordsystem.json``; EEGLAB's system has x to the nose and y to the left ear."""
    turned = {name: (y, -x, z) if system == "EEGLAB" else (x, y, z) for name, (x, y, z) in PLACES.items()}
    rows = [{"name": name, **dict(zip("xyz", (value * per_metre for value in place), strict=True))} for name, place in turned.items()]
    write_table(folder / f"{stem}_electrodes.tsv", rows)
    said: dict[str, Any] = {"EEGCoordinateSystem": system}
    if unit is not None:
        said["EEGCoordinateUnits"] = unit
    if landmarks:
        said["AnatomicalLandmarkCoordinates"] = {name: [value * per_metre for value in place] for name, place in LANDMARKS.items()}
    write_json(folder / f"{stem}_coordsystem.json", said)


def write_dataset(
    root: Path,
    *,
    kind: str = "BrainVision",
    subject: str = "01",
    session: str | None = "01",
    task: str = "x",
    run: str | None = "01",
    more: str = "",
    seed: int = 0,
    rows: Sequence[Mapping[str, Any]] | None = None,
    json_changes: Mapping[str, Any] | None = None,
    channels: Sequence[Mapping[str, Any]] | None = None,
    **table: Any,
) -> tuple[Path, np.ndarray]:
    """One recording of a dataset with all that belongs to it; returns its file and its signal, float64 (C, T) microvolts."""
    folder = root / f"sub-{subject}" / (f"ses-{session}/eeg" if session else "eeg")
    stem = f"sub-{subject}{f'_ses-{session}' if session else ''}_task-{task}{more}{f'_run-{run}' if run else ''}"
    eeg_CT = made.signal(seed)
    file = folder / f"{stem}_eeg{ENDINGS[kind]}"
    write_signal(file, eeg_CT, kind)
    write_json(root / "dataset_description.json", {"Name": "made", "BIDSVersion": "1.9.0", "DatasetType": "raw"})
    write_json(folder / f"{stem}_eeg.json", eeg_json(**(json_changes or {})))
    write_table(folder / f"{stem}_channels.tsv", channels or channel_rows())
    write_table(folder / f"{stem}_events.tsv", rows or events(), **table)
    return file, eeg_CT
