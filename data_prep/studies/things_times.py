"""What the ``times`` of a file of trials say: rate and first time point, whatever their unit, and which of them belong to the data.

Shape suffixes: T time points.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_prep.contract.errors import StudyError

PER_SECOND: dict[str, float] = {"seconds": 1.0, "milliseconds": 1e3, "microseconds": 1e6}
TimesUnit = Literal["seconds", "milliseconds", "microseconds"]
RATES_HZ = (20.0, 20_000.0)
"""Sampling rates that trials of EEG have."""
_STATED_RATES_HZ = (1.0, 100_000.0)
SPANS_SECONDS = (0.05, 20.0)
"""Lengths that trials have."""


@dataclass(frozen=True, kw_only=True)
class TimesConfig:
    """How the times of files are to be understood."""

    unit: TimesUnit | None = None
    """Unit of ``times``; None: the one that gives a rate and a length that trials have."""
    end: Literal["first", "last"] | None = None
    """Which of ``times`` belong to the data where there are more of them: the ``first`` (the data were cropped at their end) or the
    ``last`` (at their start); None: the last, and the manifest says so."""
    expect_sfreq: float | None = None
    """Refuse files whose times have another rate, Hz."""


@dataclass(frozen=True, kw_only=True)
class Times:
    """What was measured."""

    sfreq: float
    """Hz."""
    tmin: float
    """Seconds from onset to the first time point of the data."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """``times_unit`` where it was converted; ``unclear`` where times are more than points and no field says which belong."""


def measure_times(path: Path, times: Any, n_times: int, config: TimesConfig) -> Times:
    """Rate and first time point.

    Raises
    ------
    StudyError
        No evenly spaced times, fewer than points, or of no unit, or several, that trials can have.
    """
    if isinstance(times, (list, tuple)) and all(isinstance(each, (int, float, np.number)) for each in times):
        times = np.asarray(times, np.float64)
    if not isinstance(times, np.ndarray):
        raise StudyError(f"{path}: times are a {type(times).__name__}, expected an array of seconds")
    if times.ndim == 2 and 1 in times.shape:  # as MATLAB keeps a row
        times = times.reshape(-1)
    if times.ndim != 1 or times.dtype.kind not in "fiu" or len(times) < max(2, n_times):
        raise StudyError(f"{path}: {times.size} times for {n_times} points of EEG: expected at least as many")
    all_T = times.astype(np.float64)
    step = (all_T[-1] - all_T[0]) / (len(all_T) - 1)
    if not (np.isfinite(all_T).all() and step > 0) or np.abs(np.diff(all_T) - step).max() > 0.01 * step:
        raise StudyError(f"{path}: times are not evenly spaced ({all_T[0]:g} to {all_T[-1]:g}): the sampling rate cannot be told")
    notes: dict[str, str] = {}
    unit = config.unit or _unit(path, step, len(all_T), times.dtype.kind, config.expect_sfreq)
    if unit != "seconds":
        notes["times_unit"] = f"times in {unit} ({all_T[0]:g} to {all_T[-1]:g}) were converted"
    all_T = all_T / PER_SECOND[unit]
    more = len(all_T) - n_times
    first = 0 if config.end == "first" else more
    tmin = round(float(all_T[first]), 6)
    if more and config.end is None:
        other = round(float(all_T[0]), 6)
        notes["unclear"] = (
            f"{len(all_T)} times for {n_times} points of EEG: taken as the last of them, so trials start at {tmin:g} s; were they "
            "the first, "
            f"trials would start at {other:g} s (times_end says which)"
        )
    # Decimal fractions in the file's times would give 99.99999999999999.
    sfreq = round(PER_SECOND[unit] / step, 4)
    if not _STATED_RATES_HZ[0] <= sfreq <= _STATED_RATES_HZ[1]:
        raise StudyError(f"{path}: times in steps of {step:g} {unit} are {sfreq:g} Hz, expected a rate that EEG is sampled at")
    return Times(sfreq=sfreq, tmin=tmin, notes=notes)


def _unit(path: Path, step: float, count: int, kind: str, expect_sfreq: float | None) -> str:
    """The unit that ``times`` can be in."""
    fits = []
    for unit, per_second in PER_SECOND.items():
        rate, span = per_second / step, count * step / per_second
        plausible = RATES_HZ[0] <= rate <= RATES_HZ[1] and SPANS_SECONDS[0] <= span <= SPANS_SECONDS[1]
        # Of a rate that is stated, nothing needs to be guessed.
        if plausible if expect_sfreq is None else abs(rate - expect_sfreq) <= 1e-3 * expect_sfreq:
            fits.append(unit)
    if expect_sfreq is not None and not fits:
        return "seconds"  # which contradicts the stated rate: refused with both
    samples = step == 1 and kind in "iu" and expect_sfreq is None
    if len(fits) != 1 or samples:
        could = "milliseconds at 1000 Hz, or time points" if samples else f"{' or '.join(fits) or 'no unit that trials have'}"
        raise StudyError(f"{path}: {count} times in steps of {step:g}: they could be {could}: say the reader's field times_unit")
    return fits[0]
