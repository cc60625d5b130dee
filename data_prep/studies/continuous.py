"""A recording that was opened, whatever its format: an MNE ``Raw``, the marks that MNE does not carry, and how to read its numbers.

Shape suffixes: C channels, T time points, N events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_prep.contract.errors import StudyError
from data_prep.preprocess.linear import empty, release

Unit = Literal["volts", "millivolts", "microvolts", "nanovolts"]
MICROVOLTS: dict[str, float] = {"volts": 1e6, "millivolts": 1e3, "microvolts": 1.0, "nanovolts": 1e-3}
"""How many microvolts one of a unit is."""
_CHUNK_VALUES = 2**22


@dataclass(frozen=True, kw_only=True)
class Events:
    """What happened when: points of the recording, and whatever else is known of each, as text."""

    point_N: np.ndarray
    """int64: time point of the onset, from the recording's first."""
    columns: Mapping[str, Sequence[str]]
    """Name -> a text for each event; ``value`` is what the source itself calls the event by."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """What was measured or left out, as plain values."""


@dataclass(frozen=True, kw_only=True)
class Continuous:
    """An open recording."""

    file: Path
    format: str
    raw: Any
    """``mne.io.BaseRaw``; numbers are in ``unit``."""
    unit: Unit = "volts"
    """Of the numbers in ``raw``."""
    typed: bool = False
    """Whether something better than a format's habit says the type of every channel of ``raw``, so that names are not looked at."""
    markers: Events | None = None
    """Marks of its own that are no annotations of ``raw``: a marker column, a marker stream, an EEGLAB event table."""
    breaks: Sequence[int] = ()
    """First time points after an interruption: nothing is filtered or cut across one."""
    files: Sequence[Path] = ()
    """All files that it was read from."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """What was measured or is unusual, as plain values."""
    keep: Any = None
    """What must live as long as ``raw``: a temporary folder."""

    @property
    def sfreq(self) -> float:
        """Sampling rate, Hz."""
        # Durations of data records are decimal: 1 / 0.00390625 and the like leave a last bit.
        return round(float(self.raw.info["sfreq"]), 6)

    @property
    def n_times(self) -> int:
        """Time points."""
        return int(self.raw.n_times)

    def microvolts(self, ch_names: Sequence[str], unit: Unit, scratch: str | None = None) -> np.ndarray:
        """float64 (C, T), read piece by piece: one copy in memory, or where it is large in a file in ``scratch`` that is gone with it.

        Raises
        ------
        StudyError
            What MNE could not read, or values that are not finite.
        """
        eeg_CT = empty((len(ch_names), self.n_times), np.float64, scratch)
        factor, count, first = MICROVOLTS[unit], 0, (0, 0)
        step = max(_CHUNK_VALUES // len(self.raw.ch_names), 1)
        picks = [self.raw.ch_names.index(name) for name in ch_names]
        for start in range(0, self.n_times, step):
            stop = min(start + step, self.n_times)
            try:
                piece_CT = self.raw.get_data(picks, start, stop, verbose="error")
            except Exception as error:
                raise StudyError(
                    f"{self.file}: points {start:,} to {stop:,} of {self.n_times:,} cannot be read ({one_line(error)})"
                ) from error
            eeg_CT[:, start:stop] = piece_CT if factor == 1.0 else piece_CT * factor
            bad_CT = ~np.isfinite(piece_CT)
            if bad_CT.any():
                channel, point = np.argwhere(bad_CT)[0]
                first, count = first if count else (int(channel), start + int(point)), count + int(bad_CT.sum())
            release(eeg_CT)
        if count:
            raise StudyError(
                f"{self.file}: {count:,} values are not finite numbers, the first in channel {ch_names[first[0]]!r} at point {first[1]:,}: "
                "expected a number everywhere"
            )
        return eeg_CT


def one_line(error: BaseException) -> str:
    """A library's error as one line."""
    return (" ".join(str(error).split()) or type(error).__name__)[:300]


def raw_of(file: Path, data_CT: np.ndarray, ch_names: Sequence[str], sfreq: float, ch_types: Sequence[str] | str = "eeg") -> Any:
    """``mne.io.RawArray`` of numbers as they are."""
    import mne

    if len(set(ch_names)) != len(ch_names):
        repeated = next(name for name in ch_names if list(ch_names).count(name) > 1)
        raise StudyError(f"{file}: has channel {repeated!r} twice, expected names that differ")
    info = mne.create_info(list(ch_names), sfreq, ch_types if isinstance(ch_types, str) else list(ch_types), verbose="error")
    return mne.io.RawArray(data_CT, info, copy="auto", verbose="error")


def markers_of(text_T: Sequence[str]) -> Events:
    """Events of a marker column: where it is neither blank nor zero and differs from the row before, so that one that is held counts
    once."""
    before, points, values = "", [], []
    for point, text in enumerate(text_T):
        if text and text != before:
            points.append(point)
            values.append(text)
        before = text
    return Events(point_N=np.array(points, np.int64), columns={"value": values})
