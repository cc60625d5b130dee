"""Recordings that are tables of numbers without facts of their own: CSV of any device, bare arrays. The config says what they are.

Shape suffixes: C channels, T time points.
"""

from __future__ import annotations

import array
import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_prep.contract import safe_load
from data_prep.contract.errors import StudyError
from data_prep.contract.words import listed, short
from data_prep.studies.continuous import Continuous, Unit, markers_of, one_line, raw_of
from data_prep.studies.recording_files import text_encoding
from data_prep.studies.timestamps import check_timestamps, longest_piece

EEG_HZ = (20.0, 50_000.0)
"""Sampling rates that EEG has; a rate outside, by timestamps, is a sign of another unit of time."""
SECONDS = {"seconds": 1.0, "milliseconds": 1e-3, "microseconds": 1e-6, "nanoseconds": 1e-9}


@dataclass(frozen=True, kw_only=True)
class CsvConfig:
    """Columns of a table of numbers, one row a time point."""

    channels: tuple[str, ...]
    """Columns that hold EEG, in this order."""
    time: str | None = None
    """Column of timestamps: numbers, or dates and times of day; None: there is none and ``sfreq`` is the rate."""
    time_unit: Literal["seconds", "milliseconds", "microseconds", "nanoseconds"] | None = None
    """Unit of ``time``; None: measured, by the rate that each unit would mean."""
    marker: str | None = None
    """Column of markers, the source of events: blank or 0 where there is none, else a code or text."""
    sfreq: float | None = None
    """Nominal rate in Hz, which timestamps must confirm within 1 %; None: measured, rounded to whole Hz."""
    delimiter: str = ","
    """What stands between columns."""
    decimal: Literal[".", ","] = "."
    """What stands before the decimals of a number."""
    comment: str | None = None
    """Lines that begin with this are passed over, such as ``%`` in OpenBCI's text files."""
    max_gap_seconds: float = 0.25
    """Longest step between neighbouring timestamps; radio packets of 12 points arrive with jitter."""
    gaps: Literal["refuse", "split"] = "refuse"
    """What to do with a longer step: refuse the file, or filter and cut on either side of it alone."""

    def __post_init__(self) -> None:
        if not self.channels or len(set(self.channels)) != len(self.channels):
            raise ValueError(f"csv.channels is {list(self.channels)}, expected at least one name, each once")
        if self.time is None and self.sfreq is None:
            raise ValueError("csv.time and csv.sfreq are both null, expected a column of timestamps or a rate")
        for name in ("sfreq", "max_gap_seconds"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"csv.{name} is {value}, expected above 0")


@dataclass(frozen=True, kw_only=True)
class ArrayConfig:
    """Facts of an array that has none: ``.npy``, one variable of a ``.mat`` file, one dataset of an HDF5 file."""

    ch_names: tuple[str, ...]
    """Name of every row, in order."""
    sfreq: float
    """Sampling rate in Hz."""
    unit: Unit
    """Of the numbers."""
    variable: str | None = None
    """Name of the variable or path of the dataset; None: the only two-dimensional one."""
    channels_first: bool | None = None
    """Whether the array is (channels, time points); None: told by which side has as many entries as ``ch_names``."""

    def __post_init__(self) -> None:
        if not self.ch_names or len(set(self.ch_names)) != len(self.ch_names):
            raise ValueError(f"array.ch_names is {list(self.ch_names)}, expected at least one name, each once")
        if not self.sfreq > 0:
            raise ValueError(f"array.sfreq is {self.sfreq}, expected above 0")


# ------------------------------------------------------------------------------------------------------------- CSV


def open_csv(file: Path, config: CsvConfig) -> Continuous:
    """A table with a header; the columns that are not named are not looked at.

    Raises
    ------
    StudyError
        One sentence: a column that is not there, a cell that is no number, timestamps that contradict the rate or have a gap.
    """
    data_CT, texts = columns_of_csv(file, config)
    notes: dict[str, Any] = {}
    if data_CT.shape[1] < 2:
        raise StudyError(f"{file}: {data_CT.shape[1]} data rows, expected a recording")
    if config.time is not None:
        once_T = rows_written_once(data_CT, texts)
        if not once_T.all():
            notes["rows_written_twice"] = int((~once_T).sum())
            data_CT = data_CT[:, once_T]
            texts = {name: [cells[i] for i in np.flatnonzero(once_T)] for name, cells in texts.items()}
    sfreq, breaks = config.sfreq, list[int]()
    if config.time is not None:
        seconds_T = seconds_of(file, config, texts[config.time], notes)
        breaks = _breaks(file, seconds_T, config.max_gap_seconds) if config.gaps == "split" else []
        measured = _measured(file, seconds_T, breaks, config)
        notes["measured_hz"] = round(measured, 3)
        sfreq = sfreq or float(round(measured))
    assert sfreq is not None
    markers = None
    if config.marker is not None:
        markers = markers_of([marker_text(text) for text in texts[config.marker]])
    raw = raw_of(file, data_CT, config.channels, sfreq)
    return Continuous(file=file, format="CSV", raw=raw, unit="microvolts", markers=markers, breaks=breaks, notes=notes)


def columns_of_csv(file: Path, config: CsvConfig) -> tuple[np.ndarray, dict[str, list[str]]]:
    """EEG float64 (C, T), and the texts of timestamps and markers by column."""
    texts: dict[str, list[str]] = {name: [] for name in (config.time, config.marker) if name is not None}
    numbers = [array.array("d") for _ in config.channels]  # eight bytes a cell, where text takes sixty
    with file.open(encoding=text_encoding(file), errors="replace", newline="") as lines:
        wanted = (line for line in lines if not (config.comment and line.startswith(config.comment)))
        rows = csv.reader(_without_separator(wanted), delimiter=config.delimiter)
        try:
            header = [name.strip() for name in next(rows, [])]
            for name in (*texts, *config.channels):
                if header.count(name) != 1:
                    raise StudyError(
                        f"{file}: {header.count(name) or 'no'} column {name!r}, expected one; its columns are {listed(header)}"
                    )
            columns = [(name, header.index(name), numbers[i].append) for i, name in enumerate(config.channels)]
            places = [(header.index(name), cells.append) for name, cells in texts.items()]
            for number, row in enumerate(rows, start=1):
                if not row:
                    continue
                if len(row) < len(header):
                    raise StudyError(f"{file}: data row {number} has {len(row)} cells, its header {len(header)}: expected as many")
                for name, place, add in columns:
                    try:
                        add(float(row[place] if config.decimal == "." else row[place].replace(",", ".")))
                    except ValueError:
                        cell = short(row[place]) or "an empty cell"
                        comma = " (csv.decimal: ',' reads decimal commas)" if re.fullmatch(r"\s*[+-]?\d*,\d+\s*", row[place]) else ""
                        raise StudyError(f"{file}: column {name!r} has {cell} in data row {number}, expected a number{comma}") from None
                for place, keep in places:
                    keep(row[place].strip() if config.decimal == "." else row[place].strip().replace(",", "."))
        except csv.Error as error:
            raise StudyError(f"{file}: not a table ({error})") from error
    return np.array(numbers, np.float64), texts


def _without_separator(lines: Iterable[str]) -> Iterator[str]:
    """The lines after ``sep=;``, by which Excel is told what stands between columns."""
    for number, line in enumerate(lines):
        if number or not re.fullmatch(r"sep=.\s*", line):
            yield line


def rows_written_once(data_CT: np.ndarray, texts: Mapping[str, Sequence[str]]) -> np.ndarray:
    """Rows that do not repeat the one before in every column, its timestamp too."""
    same = (data_CT[:, 1:] == data_CT[:, :-1]).all(0)
    for cells in texts.values():
        same &= np.array([a == b for a, b in zip(cells[1:], cells, strict=False)], bool)
    return np.concatenate([[True], ~same])


def _numbers(file: Path, name: str, cells: Sequence[str]) -> np.ndarray:
    try:
        return np.array(cells, dtype=object).astype(np.float64)
    except ValueError:
        row, cell = next((row, cell) for row, cell in enumerate(cells, start=1) if not _is_number(cell))
        raise StudyError(f"{file}: column {name!r} has {short(cell) or 'an empty cell'} in data row {row}, expected a number") from None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def marker_text(text: str) -> str:
    """Blank for no marker; numbers as short as they are: ``1.0`` is ``1``."""
    if re.fullmatch(r"[+-]?\d+\.?0*", text):
        text = str(int(text.partition(".")[0]))
    return "" if text in ("0", "nan", "NaN", "-0") else text


def seconds_of(file: Path, config: CsvConfig, cells: Sequence[str], notes: dict[str, Any]) -> np.ndarray:
    """Timestamps in seconds; another unit than that goes into ``notes``.

    Raises
    ------
    StudyError
        A cell that is neither a number nor a date, or steps that are no sampling rate in the unit.
    """
    if config.time_unit is None and not _is_number(cells[0]):
        try:
            dates = np.array([cell.replace(" ", "T").removesuffix("Z") for cell in cells], dtype="datetime64[us]")
        except ValueError as error:
            raise StudyError(
                f"{file}: column {config.time!r} holds {short(cells[0])!r}, expected numbers or dates with times ({error})"
            ) from error
        seconds_T: np.ndarray = (dates - dates[0]).astype(np.float64) / 1e6
        return seconds_T
    values_T = _numbers(file, str(config.time), cells)
    per_point = np.polyfit(np.arange(len(values_T)), values_T - values_T[0], 1)[0]
    rates = {unit: 1 / (per_point * scale) for unit, scale in SECONDS.items()} if per_point > 0 else {}
    fitting = [unit for unit, hz in rates.items() if EEG_HZ[0] <= hz <= EEG_HZ[1]]
    if config.sfreq is not None:
        fitting = [unit for unit in fitting if abs(rates[unit] / config.sfreq - 1) < 0.5] or fitting
    if not fitting:
        raise StudyError(f"{file}: column {config.time!r} grows by {per_point:g} a row, which is no sampling rate in {', '.join(SECONDS)}")
    unit = config.time_unit or fitting[0]
    if unit not in fitting:
        raise StudyError(
            f"{file}: in {unit} (time_unit) column {config.time!r} says {rates[unit]:g} Hz, in {fitting[0]} {rates[fitting[0]]:g} Hz"
        )
    if unit != "seconds":
        notes["time_unit"] = unit
    return values_T * SECONDS[unit]


def _breaks(file: Path, seconds_T: np.ndarray, max_gap_seconds: float) -> list[int]:
    step = np.diff(seconds_T)
    if (step < -max_gap_seconds).any():
        at = int(np.argmin(step))
        raise StudyError(f"{file}: its timestamps jump back by {-step[at]:.3f} s at row {at + 2}: expected a clock that runs on")
    return [int(i) + 1 for i in np.flatnonzero(step > max_gap_seconds)]


def _measured(file: Path, seconds_T: np.ndarray, breaks: Sequence[int], config: CsvConfig) -> float:
    return check_timestamps(file, seconds_T[longest_piece(breaks, len(seconds_T))], config.sfreq, config.max_gap_seconds)


# ---------------------------------------------------------------------------------------------------------- arrays


def open_array(file: Path, kind: str, config: ArrayConfig) -> Continuous:
    """A bare array with the facts of the config.

    Raises
    ------
    StudyError
        The variable is not there or not the only one, or its shape does not fit ``ch_names``.
    """
    reader = {"NumPy array": _of_npy, "MAT array": _of_mat, "HDF5 array": _of_hdf5}[kind]
    name, found = reader(file, config.variable)
    count = len(config.ch_names)
    if found.ndim != 2 or found.dtype.kind not in "fiu":
        raise StudyError(f"{file}: {name} has shape {found.shape} and dtype {found.dtype}, expected two sides of numbers")
    first = config.channels_first
    if first is None:
        if found.shape[0] == found.shape[1]:
            raise StudyError(f"{file}: {name} has shape {found.shape}: say with array.channels_first which side is channels")
        first = found.shape[0] == count
    data_CT = found if first else found.T
    if data_CT.shape[0] != count:
        raise StudyError(f"{file}: {name} has shape {found.shape}, array.ch_names {count} names: expected as many channels")
    raw = raw_of(file, np.ascontiguousarray(data_CT, np.float64), config.ch_names, config.sfreq)
    return Continuous(file=file, format=kind, raw=raw, unit=config.unit)


def _of_npy(file: Path, variable: str | None) -> tuple[str, np.ndarray]:
    found = safe_load.load(file)
    if not isinstance(found, np.ndarray):
        raise StudyError(f"{file}: holds a {type(found).__name__}, expected an array")
    return "its array", found


def _of_mat(file: Path, variable: str | None) -> tuple[str, np.ndarray]:
    from scipy.io import loadmat, whosmat

    try:
        shapes = {name: shape for name, shape, _ in whosmat(file)}
        name = _only(file, shapes, variable)
        return repr(name), np.asarray(loadmat(file, variable_names=[name])[name])
    except StudyError:
        raise
    except Exception as error:
        raise StudyError(f"{file}: not a whole MAT file ({one_line(error)})") from error


def _of_hdf5(file: Path, variable: str | None) -> tuple[str, np.ndarray]:
    import h5py

    try:
        with h5py.File(file, "r") as content:
            shapes: dict[str, tuple[int, ...]] = {}
            content.visititems(lambda path, node: shapes.update({path: node.shape}) if isinstance(node, h5py.Dataset) else None)
            name = _only(file, shapes, variable)
            found: np.ndarray = content[name][()]
            return repr(name), found
    except OSError as error:
        raise StudyError(f"{file}: not a whole HDF5 file ({one_line(error)})") from error


def _only(file: Path, shapes: Mapping[str, Sequence[int]], variable: str | None) -> str:
    found = [name for name, shape in shapes.items() if (name == variable if variable else len(shape) == 2 and min(shape) > 1)]
    if len(found) != 1:
        wanted = repr(variable) if variable else "one with two sides, or its name in array.variable"
        raise StudyError(f"{file}: holds {listed(f'{name} {tuple(shape)}' for name, shape in shapes.items())}, expected {wanted}")
    return found[0]
