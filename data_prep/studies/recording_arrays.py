"""An open recording as plain arrays in a file, by which it comes from one process to another.

Shape suffixes: C channels, T time points, N events.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.studies.continuous import Continuous, Events, raw_of


def save_recording(out: Path, opened: Continuous) -> None:
    """Data, names, types, rate, annotations, positions (NaN where there is none) and marks of ``opened``, into ``out``."""
    raw, markers = opened.raw, opened.markers
    told = {
        "unit": opened.unit,
        "breaks": [int(point) for point in opened.breaks],
        "notes": dict(opened.notes),
        "marker_columns": None if markers is None else {name: list(column) for name, column in markers.columns.items()},
        "marker_notes": {} if markers is None else dict(markers.notes),
        "files": [str(name) for name in raw.filenames if name],
    }
    np.savez(
        out,
        data_CT=raw.get_data(),
        ch_names=raw.ch_names,
        ch_types=raw.get_channel_types(),
        sfreq=raw.info["sfreq"],
        onset=raw.annotations.onset,
        duration=raw.annotations.duration,
        description=np.array(raw.annotations.description.tolist(), dtype=str),
        positions=[channel["loc"][:3] if np.any(channel["loc"][:3]) else [np.nan] * 3 for channel in raw.info["chs"]],
        marker_points=np.empty(0, np.int64) if markers is None else markers.point_N,
        told=json.dumps(told),
    )


def load_recording(out: Path, file: Path, kind: str) -> Continuous:
    """What :func:`save_recording` wrote of ``file``."""
    import mne

    with np.load(out, allow_pickle=False) as read:
        raw = raw_of(file, read["data_CT"], read["ch_names"].tolist(), float(read["sfreq"]), read["ch_types"].tolist())
        raw.set_annotations(mne.Annotations(read["onset"], read["duration"], read["description"].tolist()), verbose="error")
        positions = {name: row for name, row in zip(raw.ch_names, read["positions"], strict=True) if np.isfinite(row).all()}
        told: dict[str, Any] = json.loads(str(read["told"]))
        point_N = read["marker_points"]
    if positions:
        raw.set_montage(mne.channels.make_dig_montage(positions, coord_frame="head"), on_missing="ignore", verbose="error")
    columns = told["marker_columns"]
    return Continuous(
        file=file,
        format=kind,
        raw=raw,
        unit=told["unit"],
        markers=None if columns is None else Events(point_N=point_N, columns=columns, notes=told["marker_notes"]),
        breaks=told["breaks"],
        files=[Path(name) for name in told["files"]],
        notes=told["notes"],
    )
