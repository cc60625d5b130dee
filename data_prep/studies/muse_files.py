"""Files of Muse recordings: which there are, what is in one, and whether it can be believed.

Shape suffixes: C channels, T time points.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.contract.errors import StudyError
from data_prep.contract.files import check_ordinary
from data_prep.studies.continuous import markers_of
from data_prep.studies.recording import Recording
from data_prep.studies.signal_tables import CsvConfig, columns_of_csv, marker_text, rows_written_once, seconds_of


def find_recordings(root: Path, subjects: tuple[str, ...] | None) -> list[Recording]:
    """CSV files below ``root/subject*/session*``, by subject, session (as numbers) and file name.

    Raises
    ------
    StudyError
        No such folder, no recording, or a wanted subject that is not there.
    """
    if not root.is_dir():
        raise StudyError(f"{root}: no such folder, expected one that holds subject*/session*/*.csv")
    found: list[Recording] = []
    folders = sorted((int(m[1]), p) for p in root.iterdir() if p.is_dir() and (m := re.fullmatch(r"subject(\d+)", p.name)))
    wanted = None if subjects is None else {int(s) if s.isdigit() else -1 for s in subjects}
    if wanted is not None and (missing := wanted - {number for number, _ in folders}):
        have = [number for number, _ in folders]
        raise StudyError(f"{root}: subjects is {list(subjects or ())}, found {have}: {len(missing)} of them are not there")
    for subject, folder in folders:
        if wanted is not None and subject not in wanted:
            continue
        sessions = sorted((int(m[1]), p) for p in folder.iterdir() if p.is_dir() and (m := re.fullmatch(r"session(\d+)", p.name)))
        for session, session_folder in sessions:
            # Some exports were saved twice over and end in .csv.csv.
            files = sorted(p for p in session_folder.iterdir() if p.is_file() and p.suffix.lower() == ".csv" and not p.name.startswith("."))
            found += [
                Recording(file=file, subject=f"{subject:02d}", session=f"{session:02d}", run=f"{run:02d}")
                for run, file in enumerate(files, start=1)
            ]
    if not found:
        raise StudyError(f"{root}: no recording, expected subject*/session*/*.csv")
    return found


@dataclass(frozen=True, kw_only=True)
class Table:
    """Columns of a CSV."""

    seconds_T: np.ndarray
    eeg_CT: np.ndarray
    """float64, in the file's unit."""
    marker_T: np.ndarray
    """int64: a code at the first point of every marker, else 0."""
    notes: dict[str, Any] = field(default_factory=dict)
    """What was measured: ``time_unit`` where it is no second, ``rows_written_twice``, ``marker_rows_held`` that repeat a marker that is
    held."""


def read_csv(
    file: Path, channels: tuple[str, ...], marker_column: str | None = None, time_column: str = "timestamps", sfreq: float | None = None
) -> Table:
    """Read and check one CSV: header, finite numbers, channels that vary, at least one onset.

    A blank marker is none, one that is held is one, and a row that is written twice in every column counts once.

    Raises
    ------
    StudyError
        One sentence naming the file.
    """
    check_ordinary(file)
    with file.open(encoding="utf-8-sig", errors="replace") as lines:
        header = [name.strip() for name in lines.readline().split(",")]
        marker = _marker_column(file, header, channels, marker_column, time_column)
        if not lines.readline().strip():
            raise StudyError(f"{file}: empty recording: there is a header and no data")
    config = CsvConfig(channels=channels, time=time_column, marker=marker, sfreq=sfreq)
    try:
        eeg_CT, texts = columns_of_csv(file, config)
    except StudyError as error:
        raise StudyError(f"{file}: not a table of numbers under {header}: {str(error).removeprefix(f'{file}: ')}") from error
    _check_finite(file, eeg_CT, channels)
    notes: dict[str, Any] = {}
    once_T = rows_written_once(eeg_CT, texts)
    if not once_T.all():
        notes["rows_written_twice"] = int((~once_T).sum())
        eeg_CT = np.ascontiguousarray(eeg_CT[:, once_T])
        texts = {name: [cells[i] for i in np.flatnonzero(once_T)] for name, cells in texts.items()}
    if eeg_CT.shape[1] < 2:
        raise StudyError(f"{file}: {eeg_CT.shape[1]} data row, expected a recording")
    _check_connected(file, eeg_CT, channels)
    _check_clock(file, texts[time_column], time_column)
    seconds_T = seconds_of(file, config, texts[time_column], notes)
    return Table(seconds_T=seconds_T, eeg_CT=eeg_CT, marker_T=_markers(file, texts[marker], marker, notes), notes=notes)


def _marker_column(file: Path, header: list[str], channels: tuple[str, ...], wanted: str | None, time_column: str) -> str:
    missing = [name for name in (time_column, *channels) if name not in header]
    if missing:
        field_name = "time_column" if missing[0] == time_column else "channels"
        raise StudyError(f"{file}: no column {missing[0]!r}, its columns are {header} ({field_name} names another)")
    found = [name for name in header if (name == wanted if wanted else name.startswith("Marker"))]
    if len(found) != 1:
        expected = repr(wanted) if wanted else "one whose name begins with 'Marker'"
        raise StudyError(
            f"{file}: {len(found)} marker columns, expected exactly {expected}; its columns are {header} (marker_column names another)"
        )
    return found[0]


def _check_finite(file: Path, eeg_CT: np.ndarray, channels: tuple[str, ...]) -> None:
    bad = np.argwhere(~np.isfinite(eeg_CT.T))
    if len(bad):
        row, channel = bad[0]
        raise StudyError(
            f"{file}: {len(bad)} values are not finite numbers, the first is {eeg_CT[channel, row]} in "
            f"column {channels[channel]!r} of data row {row + 1}"
        )


def _check_clock(file: Path, cells: Sequence[str], column: str) -> None:
    for row, cell in enumerate(cells, start=1):
        if cell.lower().lstrip("+-") in ("", "nan", "inf", "infinity"):
            raise StudyError(f"{file}: column {column!r} has {cell or 'an empty cell'} in data row {row}, expected a time")


def _check_connected(file: Path, eeg_CT: np.ndarray, channels: tuple[str, ...]) -> None:
    for name, values in zip(channels, eeg_CT, strict=True):
        if np.ptp(values) == 0:
            raise StudyError(
                f"{file}: channel {name!r} is constant ({values[0]:g} µV in all {len(values)} rows): not connected, leave it "
                "out of channels"
            )


def _markers(file: Path, cells: Sequence[str], column: str, notes: dict[str, Any]) -> np.ndarray:
    """Codes at rising edges."""
    found = markers_of([marker_text(cell) for cell in cells])
    values = list(found.columns["value"])
    codes = [code for text in values if (code := _code(text)) is not None]
    if len(codes) < len(values):
        wrong = next(text for text in values if _code(text) is None)
        raise StudyError(f"{file}: column {column!r} holds values that are not whole numbers, such as {wrong!r}")
    if not codes:
        raise StudyError(f"{file}: no stimulus onset: column {column!r} is 0 in all {len(cells)} rows")
    marker_T = np.zeros(len(cells), np.int64)
    marker_T[found.point_N] = codes
    held = sum(bool(marker_text(cell)) for cell in cells) - len(codes)
    if held:
        notes["marker_rows_held"] = held
    return marker_T


def _code(text: str) -> int | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return int(value) if value.is_integer() and abs(value) < 2**53 else None
