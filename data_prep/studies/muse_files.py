"""Files of Muse recordings: which there are, what is in one, and whether it can be believed.

Shape suffixes: C channels, T time points.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.contract.errors import StudyError

MAX_RATE_DEVIATION = 0.01
"""Share by which the timestamps may contradict the nominal rate."""


@dataclass(frozen=True, kw_only=True)
class Recording:
    """One CSV file."""

    file: Path
    subject: str
    """``01``"""
    session: str
    """``02``"""
    run: str
    """``03``: its place among the session's files, by name."""

    @property
    def label(self) -> str:
        """Distinct over subjects and sessions."""
        return f"sub-{self.subject}_ses-{self.session}_run-{self.run}"


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
            files = sorted(p for p in session_folder.iterdir() if p.is_file() and p.name.endswith(".csv") and not p.name.startswith("."))
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
    marker_T: np.ndarray


def read_csv(file: Path, channels: tuple[str, ...], marker_column: str | None = None) -> Table:
    """Read and check one CSV: header, finite numbers, channels that vary, at least one onset.

    Raises
    ------
    StudyError
        One sentence naming the file.
    """
    with file.open(encoding="utf-8-sig", errors="replace") as lines:
        header = [name.strip() for name in lines.readline().split(",")]
        columns = ["timestamps", *channels, _marker_column(file, header, channels, marker_column)]
        first = lines.tell() if lines.seekable() else 0
        if not lines.readline().strip():
            raise StudyError(f"{file}: empty recording: there is a header and no data")
        lines.seek(first)
        try:
            data = np.loadtxt(lines, delimiter=",", usecols=[header.index(name) for name in columns], ndmin=2)
        except ValueError as error:
            raise StudyError(f"{file}: not a table of numbers under {header}: {error}") from error
    _check_finite(file, data, columns)
    eeg_CT = np.ascontiguousarray(data[:, 1:-1].T)
    _check_connected(file, eeg_CT, channels)
    return Table(seconds_T=data[:, 0], eeg_CT=eeg_CT, marker_T=_markers(file, data[:, -1], columns[-1]))


def _marker_column(file: Path, header: list[str], channels: tuple[str, ...], wanted: str | None) -> str:
    missing = [name for name in ("timestamps", *channels) if name not in header]
    if missing:
        raise StudyError(f"{file}: no column {missing[0]!r}, its columns are {header}")
    found = [name for name in header if (name == wanted if wanted else name.startswith("Marker"))]
    if len(found) != 1:
        expected = repr(wanted) if wanted else "one whose name begins with 'Marker'"
        raise StudyError(f"{file}: {len(found)} marker columns, expected exactly {expected}; its columns are {header}")
    return found[0]


def _check_finite(file: Path, data: np.ndarray, columns: list[str]) -> None:
    bad = np.argwhere(~np.isfinite(data))
    if len(bad):
        row, column = bad[0]
        raise StudyError(
            f"{file}: {len(bad)} values are not finite numbers, the first is {data[row, column]} in "
            f"column {columns[column]!r} of data row {row + 1}"
        )


def _check_connected(file: Path, eeg_CT: np.ndarray, channels: tuple[str, ...]) -> None:
    for name, values in zip(channels, eeg_CT, strict=True):
        if np.ptp(values) == 0:
            raise StudyError(
                f"{file}: channel {name!r} is constant ({values[0]:g} µV in all {len(values)} rows): not connected, leave it "
                "out of channels"
            )


def _markers(file: Path, values_T: np.ndarray, column: str) -> np.ndarray:
    marker_T = np.round(values_T).astype(np.int64)
    if not np.array_equal(marker_T, values_T):
        raise StudyError(f"{file}: column {column!r} holds values that are not whole numbers")
    if not marker_T.any():
        raise StudyError(f"{file}: no stimulus onset: column {column!r} is 0 in all {len(marker_T)} rows")
    return marker_T


def check_timestamps(file: Path, seconds_T: np.ndarray, sfreq: float | None, max_gap_seconds: float) -> float:
    """Sampling rate by regression of the timestamps, in Hz, checked against the nominal one and for gaps.

    Regression, because timestamps are rounded to milliseconds and come in Bluetooth packets: neighbouring ones may even run
    backwards, and the median step says 250 Hz.
    """
    if len(seconds_T) < 2:
        raise StudyError(f"{file}: {len(seconds_T)} data row, expected a recording")
    relative_T = seconds_T - seconds_T[0]
    step = np.diff(relative_T)
    widest = int(np.argmax(step))
    if step[widest] > max_gap_seconds:
        raise StudyError(
            f"{file}: a gap of {step[widest]:.3f} s at {relative_T[widest]:.3f} s, longer than max_gap_seconds = {max_gap_seconds}: "
            "split the file there"
        )
    seconds_per_point = np.polyfit(np.arange(len(seconds_T)), relative_T, 1)[0]
    if seconds_per_point <= 0:
        raise StudyError(f"{file}: its timestamps do not increase")
    measured_hz = float(1 / seconds_per_point)
    if sfreq is not None and abs(measured_hz / sfreq - 1) > MAX_RATE_DEVIATION:
        raise StudyError(f"{file}: its timestamps say {measured_hz:.1f} Hz, expected {sfreq:g} Hz (expect_sfreq) within 1 %")
    return measured_hz
