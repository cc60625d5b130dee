"""Reader of numpy and a table: arrays of trials, and for each trial a row that says which image or class it is.

See :mod:`data_prep.studies.cut_study` for the way from file to trial. What an array cannot say (rate, unit, channels, onset) the config
does; what both say must agree.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_prep.contract.errors import StudyError
from data_prep.contract.files import read_json
from data_prep.contract.words import listed
from data_prep.studies.array_child import MOST_BESIDE
from data_prep.studies.array_files import Rows, open_arrays, signal_of
from data_prep.studies.cut_files import CutFile, CutUnit, cell_text, header_of
from data_prep.studies.cut_study import CutReaderConfig
from data_prep.studies.event_tables import read_table
from data_prep.studies.laid_trials import laid_trials, state_of
from data_prep.studies.patterns import fill
from data_prep.studies.recording_files import format_of
from data_prep.studies.signal_tables import EEG_HZ
from data_prep.studies.trial_tables import column_of

Side = Literal["trials", "channels", "times"]
SIDES: tuple[Side, ...] = ("trials", "channels", "times")
_NAMES = ("ch_names", "channels", "channel_names")
_RATES = ("sfreq", "fs", "Fs", "srate", "sampling_rate")
_TIMES = ("times", "time")
_PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".npz")


@dataclass(frozen=True, kw_only=True)
class ArraysReaderConfig(CutReaderConfig):
    """Arrays of trials (``.npy``, ``.npz``, ``.mat``, HDF5) and a table of what each trial is."""

    unit: CutUnit
    """Of the numbers: volts, millivolts, microvolts, nanovolts, zscore, or tesla (which needs ``zscore: trial``)."""
    sfreq: float | None = None
    """Sampling rate in Hz; None: what the file's own ``sfreq`` or ``times`` say."""
    tmin: float | None = None
    """Seconds from onset to the first time point; None: what the file's own ``times`` say."""
    ch_names: tuple[str, ...] | None = None
    """Channels in the array's order; None: those of ``ch_names_file``, or the file's own ``ch_names``."""
    ch_names_file: str | None = None
    """Path from the file's folder of a text with one name a line, a JSON list, or a TSV or CSV with a column ``name``."""
    axes: tuple[Side, ...] | None = None
    """Order of the array's sides, such as ``[trials, channels, times]``; None: told by how many rows and channels there are, refused where
    several orders fit."""
    variable: str | None = None
    """Name of the array of trials; None: the only one with three sides."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sfreq is not None and not self.sfreq > 0:
            raise ValueError(f"sfreq is {self.sfreq}, expected above 0")
        if self.axes is not None and sorted(self.axes) != sorted(SIDES):
            raise ValueError(f"axes is {list(self.axes)}, expected trials, channels and times in the array's order")
        if self.ch_names is not None and (
            self.ch_names_file is not None or not self.ch_names or len(set(self.ch_names)) != len(self.ch_names)
        ):
            raise ValueError(f"ch_names is {list(self.ch_names)}, expected at least one name, each once, and no ch_names_file besides")
        if self.unit == "tesla" and self.zscore is None:
            raise ValueError("unit is tesla, a study is in microvolts or z-scores: expected zscore: trial")
        if self.unit == "zscore" and self.zscore == "trial":
            raise ValueError("unit is zscore and zscore is trial, expected one of them")

    def open_file(self, file: Path, labels: Mapping[str, str], table: Mapping[str, Sequence[str]] | None) -> CutFile:
        """The trials of one file.

        Raises
        ------
        StudyError
            One sentence: a damaged file, sides that cannot be told apart, facts that the file and the config say differently.
        """
        kind = "arrays by name" if file.suffix.lower() in _PICKLES or _is_pickle(file) else format_of(file)
        if kind not in ("arrays by name", "NumPy array", "MAT array", "HDF5 array"):
            raise StudyError(f"{file}: is {kind}, expected .npy, .npz, .mat or HDF5: the readers mne and epochs take others")
        state = state_of(file)
        opened = open_arrays(file, kind, self.variable)
        name, array = signal_of(opened, self.variable)
        beside = {
            other: found for other, found in opened.arrays.items() if isinstance(found, np.ndarray) and other != name and _is_small(found)
        }
        ch_names, ch_files = self._ch_names(file, labels, beside)
        columns = {other: column_of(found) for other, found in beside.items() if found.ndim == 1 and other not in (*_NAMES, *_TIMES)}
        num_rows = None if table is None else len(next(iter(table.values())))
        order = self._order(file, name, array.shape, len(ch_names), num_rows, {len(cells) for cells in columns.values()})
        num_trials, _, n_times = (array.shape[side] for side in order)
        sfreq, tmin, notes = _clock(file, beside, n_times, self.sfreq, self.tmin)
        laid = laid_trials(file, array.transpose(order), state)
        columns = {other: cells for other, cells in columns.items() if len(cells) == num_trials}
        return CutFile(
            file=file,
            format=kind,
            header=header_of(file, ch_names, ["eeg"] * len(ch_names), {}),
            unit=self.unit,
            sfreq=sfreq,
            tmin=tmin,
            n_times=n_times,
            num_trials=num_trials,
            columns=columns,
            trial_N=range(num_trials),
            number_B=range(num_trials),
            onset_seconds_B=_onsets(columns, table, num_trials),
            read=laid.read if laid else Rows(array, order).read,
            files=[file, *ch_files],
            laid=laid,
            notes={"array": name, "axes": [SIDES[list(order).index(side)] for side in range(3)], "dtype": str(array.dtype), **notes},
        )

    def _ch_names(self, file: Path, labels: Mapping[str, str], beside: Mapping[str, np.ndarray]) -> tuple[list[str], list[Path]]:
        own = next(([cell_text(each) for each in beside[name].reshape(-1).tolist()] for name in _NAMES if name in beside), None)
        if self.ch_names_file is not None:
            path = file.parent / fill(self.ch_names_file, {"stem": file.stem, **labels}, "ch_names_file")
            files = [path]
            said: list[str] | None = _names_in(path)
        else:
            files = []
            said = list(self.ch_names) if self.ch_names is not None else None
        if said is None and own is None:
            raise StudyError(f"{file}: has no ch_names, expected them in the reader's field ch_names or ch_names_file")
        if said is not None and own is not None and said != own:
            raise StudyError(
                f"{file}: its own ch_names are {listed(own, 6)}, the config says {listed(said, 6)}: expected the same; "
                "channels.rename renames them"
            )
        return said or own or [], files

    def _order(
        self, file: Path, name: str, shape: tuple[int, ...], n_chans: int, num_rows: int | None, lengths: set[int]
    ) -> tuple[int, int, int]:
        """Sides of trials, channels and time points."""
        if self.axes is not None:
            order = tuple(self.axes.index(side) for side in SIDES)
            if shape[order[1]] != n_chans or (num_rows is not None and shape[order[0]] != num_rows):
                raise StudyError(
                    f"{file}: {name} has shape {shape}, read as {', '.join(self.axes)} it does not fit {_counts(n_chans, num_rows)}"
                )
            return order[0], order[1], order[2]
        rows = {num_rows} if num_rows is not None else lengths & set(shape)
        fits: list[tuple[int, int, int]] = [
            (order[0], order[1], order[2])
            for order in itertools.permutations(range(3))
            if shape[order[1]] == n_chans and (shape[order[0]] in rows if rows else self.events.column == "file")
        ]
        if len(fits) != 1:
            wanted = "one order: say it in 'axes'" if fits else "as many"
            how = "fits more than one order of trials, channels and times with" if fits else "does not fit"
            raise StudyError(f"{file}: {name} has shape {shape}, which {how} {_counts(n_chans, num_rows)}: expected {wanted}")
        return fits[0]


def _is_pickle(file: Path) -> bool:
    """A dict of arrays by ``pickle.dump``, which some projects name ``.npy``."""
    with file.open("rb") as stream:
        return bool(re.match(rb"\x80[\x02-\x05]", stream.read(2)))


def _counts(n_chans: int, num_rows: int | None) -> str:
    return f"{n_chans} ch_names and {'no table of trials' if num_rows is None else f'{num_rows:,} rows of the table'}"


def _is_small(array: np.ndarray) -> bool:
    if array.ndim > 2 or array.size > MOST_BESIDE:
        return False
    return array.dtype.kind in "fiubSU" or (array.dtype.kind == "O" and all(isinstance(each, str) for each in array.reshape(-1).tolist()))


def _names_in(path: Path) -> list[str]:
    if not path.is_file():
        raise StudyError(f"{path}: no such file (ch_names_file)")
    if path.suffix.lower() == ".json":
        value = read_json(path)
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise StudyError(f"{path}: expected a list of channel names")
        return value
    if path.suffix.lower() in (".tsv", ".csv"):
        columns = read_table(path)
        if "name" not in columns:
            raise StudyError(f"{path}: no column 'name', its columns are {listed(columns)}")
        return columns["name"]
    return [line.strip() for line in path.read_text(encoding="utf-8-sig", errors="replace").splitlines() if line.strip()]


def _clock(
    file: Path, beside: Mapping[str, np.ndarray], n_times: int, said_hz: float | None, said_tmin: float | None
) -> tuple[float, float, dict[str, Any]]:
    """Rate, first time point and notes, from the config and the file, which must agree."""
    own_hz, own_tmin, notes = _of_times(file, beside, n_times, said_hz)
    for name in _RATES:
        if name in beside and beside[name].size == 1:
            rate = float(beside[name].reshape(-1)[0])
            if own_hz is not None and abs(rate / own_hz - 1) > 1e-3:
                raise StudyError(f"{file}: its {name} is {rate:g} Hz, its times say {own_hz:g} Hz: expected one rate")
            own_hz = own_hz or rate
    for what, said, own, tolerance in (
        ("sfreq", said_hz, own_hz, 1e-3 * (said_hz or 1)),
        ("tmin", said_tmin, own_tmin, 0.5 / (own_hz or 1)),
    ):
        if said is not None and own is not None and abs(said - own) > tolerance:
            raise StudyError(f"{file}: its own {what} is {own:g}, the config says {said:g}: expected the same")
    sfreq = said_hz if said_hz is not None else own_hz
    tmin = said_tmin if said_tmin is not None else own_tmin
    if sfreq is None or tmin is None:
        raise StudyError(f"{file}: does not say its {'sfreq' if sfreq is None else 'tmin'}, expected it in the config")
    return float(sfreq), float(tmin), notes


def _of_times(
    file: Path, beside: Mapping[str, np.ndarray], n_times: int, said_hz: float | None
) -> tuple[float | None, float | None, dict[str, Any]]:
    name = next((name for name in _TIMES if name in beside and beside[name].dtype.kind in "fiu" and beside[name].size > 1), None)
    if name is None:
        return None, None, {}
    times_T = beside[name].reshape(-1).astype(np.float64)
    if len(times_T) != n_times:
        raise StudyError(f"{file}: {len(times_T)} {name} for {n_times} points of EEG: expected as many")
    step = (times_T[-1] - times_T[0]) / (n_times - 1)
    if not np.isfinite(times_T).all() or not step > 0 or np.abs(np.diff(times_T) - step).max() > 0.01 * step:
        raise StudyError(f"{file}: its {name} are not evenly spaced ({times_T[0]:g} to {times_T[-1]:g}): the sampling rate cannot be told")
    fits = {unit: scale for unit, scale in (("seconds", 1.0), ("milliseconds", 1e-3)) if EEG_HZ[0] <= 1 / (step * scale) <= EEG_HZ[1]}
    if said_hz is not None:
        fits = {unit: scale for unit, scale in fits.items() if abs(1 / (step * scale) / said_hz - 1) < 1e-3} or fits
    if not fits:
        raise StudyError(f"{file}: its {name} step by {step:g}, which is no sampling rate in seconds or milliseconds")
    unit, scale = next(iter(fits.items()))
    # Decimal fractions of a file's times would give 99.99999999999999.
    return round(1 / (step * scale), 4), round(float(times_T[0]) * scale, 6), {"times_are_in": unit} if unit != "seconds" else {}


def _onsets(columns: Mapping[str, Sequence[str]], table: Mapping[str, Sequence[str]] | None, num_trials: int) -> list[float | None]:
    """Column ``onset``, seconds, where all of it are numbers."""
    cells = (table or {}).get("onset") or columns.get("onset")
    if cells is None or len(cells) != num_trials:
        return [None] * num_trials
    try:
        seconds = np.array([float(cell) for cell in cells])
    except ValueError:
        return [None] * num_trials
    return [round(float(second), 4) for second in seconds] if np.isfinite(seconds).all() else [None] * num_trials
