"""The event table of an EEGLAB file with all its fields; MNE keeps only ``type`` and drops the others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.contract.errors import StudyError
from data_prep.studies.continuous import Events


def eeglab_events(file: Path) -> tuple[Events, Mapping[str, float]]:
    """Events of a continuous ``.set``: its fields by their names, and ``value``, which is its ``type``; and ``nbchan``, ``pnts`` and
    ``srate`` as far as it says them.

    Raises
    ------
    StudyError
        Cut trials, or an event without latency.
    """
    eeg = content_of(file)
    if int(eeg.get("trials", 1) or 1) > 1:
        raise StudyError(f"{file}: holds {int(eeg['trials'])} cut trials, expected a continuous recording: the reader epochs takes them")
    rows: list[Mapping[str, Any]] = rows_of(eeg.get("event", []))
    fields = list(dict.fromkeys(name for row in rows for name in row if name != "latency"))
    points = []
    for number, row in enumerate(rows, start=1):
        latency = _plain(row.get("latency"))
        if not isinstance(latency, (int, float)) or not np.isfinite(latency):
            raise StudyError(f"{file}: event {number} has latency {latency!r}, expected a time point")
        points.append(round(latency - 1))  # counted from 1
    columns = {name: [_text(row.get(name)) for row in rows] for name in fields}
    events = Events(point_N=np.array(points, np.int64), columns={"value": columns.get("type", [""] * len(rows)), **columns})
    said = {name: _plain(eeg.get(name)) for name in ("nbchan", "pnts", "srate")}
    return events, {name: float(value) for name, value in said.items() if isinstance(value, (int, float)) and value > 0}


def refuse_other_size(file: Path, events: Events, said: Mapping[str, float], n_chans: int, n_times: int) -> None:
    """Refuse numbers of another size than the file says, and latencies that count no points, for they all lie at the recording's start.

    Raises
    ------
    StudyError
    """
    for name, found in (("nbchan", n_chans), ("pnts", n_times)):
        if said.get(name, found) != found:
            raise StudyError(
                f"{file}: its {name} is {said[name]:g}, its data have {n_chans} channels of {n_times:,} points: expected as many"
            )
    last = int(events.point_N.max(initial=0))
    if len(events.point_N) > 2 and last < 0.01 * n_times and last * said.get("srate", np.inf) <= n_times:
        raise StudyError(
            f"{file}: its last event lies at point {last + 1:,} of {n_times:,}: expected latencies in points, these look like seconds"
        )


def content_of(file: Path) -> Mapping[str, Any]:
    """The structure ``EEG`` of a ``.set``; of MATLAB 7.3 files without its signal."""
    content = _mat73(file) if is_hdf5(file) else _mat5(file)
    found: Mapping[str, Any] = content.get("EEG", content)
    return found


def _mat73(file: Path) -> Mapping[str, Any]:
    from pymatreader import read_mat

    content: Mapping[str, Any] = read_mat(str(file), ignore_fields=["data", "icaact"])
    return content


def _mat5(file: Path) -> Mapping[str, Any]:
    from scipy.io import loadmat

    content: Mapping[str, Any] = loadmat(file, simplify_cells=True, uint16_codec="utf-8")
    return content


def is_hdf5(file: Path) -> bool:
    """Whether MATLAB saved it as 7.3."""
    with file.open("rb") as stream:
        head = stream.read(520)
    return b"\x89HDF" in (head[:4], head[512:516])


def rows_of(table: Any) -> list[Mapping[str, Any]]:
    """A structure array as rows, however a library gives it."""
    if isinstance(table, Mapping):  # one event, or (HDF5) a list a field
        if not any(isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim) for value in table.values()):
            return [table]
        length = max(len(value) for value in table.values() if isinstance(value, (list, tuple, np.ndarray)))
        return [{name: _entry(value, i) for name, value in table.items()} for i in range(length)]
    return [row for row in np.atleast_1d(np.asarray(table, dtype=object)) if isinstance(row, Mapping)]


def _entry(value: Any, i: int) -> Any:
    return value[i] if isinstance(value, (list, tuple, np.ndarray)) and i < len(value) else None


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.reshape(-1)[0].item() if value.size == 1 else None
    return value.item() if isinstance(value, np.generic) else value


def _text(value: Any) -> str:
    plain = _plain(value)
    if plain is None:
        return ""
    if isinstance(plain, float) and plain.is_integer():
        plain = int(plain)
    return "" if plain is None else " ".join(str(plain).split())
