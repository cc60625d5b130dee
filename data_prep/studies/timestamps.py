"""What the timestamps of a recording say of its rate.

Shape suffixes: T time points.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_prep.contract.errors import StudyError

MAX_RATE_DEVIATION = 0.01
"""Share by which the timestamps may contradict the nominal rate."""


def rate_of(file: Path, seconds_T: np.ndarray) -> float:
    """Sampling rate in Hz, by regression.

    Timestamps are rounded to milliseconds and come in Bluetooth packets: neighbouring ones may even run backwards, and the median
    step says 250 Hz where 256 are meant.

    Raises
    ------
    StudyError
        They do not increase.
    """
    seconds_per_point = np.polyfit(np.arange(len(seconds_T)), seconds_T - seconds_T[0], 1)[0]
    if not seconds_per_point > 0:
        raise StudyError(f"{file}: its timestamps do not increase")
    return float(1 / seconds_per_point)


def check_timestamps(file: Path, seconds_T: np.ndarray, sfreq: float | None, max_gap_seconds: float) -> float:
    """:func:`rate_of` timestamps, checked against the nominal one and for gaps.

    Raises
    ------
    StudyError
        Fewer than two, a gap, or another rate.
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
    measured_hz = rate_of(file, seconds_T)
    if sfreq is not None and abs(measured_hz / sfreq - 1) > MAX_RATE_DEVIATION:
        raise StudyError(f"{file}: its timestamps say {measured_hz:.1f} Hz, expected {sfreq:g} Hz (expect_sfreq) within 1 %")
    return measured_hz


def longest_piece(breaks: Sequence[int], n_times: int) -> slice:
    """The most time points without a break among them; ``breaks`` are the first points after one."""
    edges = [0, *breaks, n_times]
    return slice(*max(itertools.pairwise(edges), key=lambda edge: edge[1] - edge[0]))
