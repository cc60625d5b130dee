"""Repetitions that are no trials: what fills an array up to as many as its fullest row has.

Shape suffixes: R repetitions, C channels, T time points.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

Padding = Literal["nan", "zeros", "constant", "repeated"]
"""``nan``: no number at all; ``zeros``; ``constant``: no channel moves; ``repeated``: equal to an earlier repetition in every value."""
STILL = 1e-6
"""Share of the other repetitions' standard deviation below which a channel does not move: what is left of a constant that was filtered
or had its baseline subtracted in float32."""
END_POINTS = 5
"""Points at the beginning or end of a trial at which no channel moves: EEG of several channels has not even two."""
_PROBES = 64


def suspects(std_BC: np.ndarray, flat_BC: np.ndarray, firsts_S: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which repetitions of several samples have no channel that is finite throughout, and in which none moves: bool (B,), bool (B,).

    Parameters
    ----------
    std_BC
        Standard deviation of each channel over time, NaN where it has a value that is not finite.
    flat_BC
        Whether a channel does not move at all.
    firsts_S
        First repetition of each sample.
    """
    largest_S = np.maximum.reduceat(np.fmax.reduce(std_BC, axis=1, initial=0.0), firsts_S)
    most_B = STILL * np.repeat(largest_S, np.diff(firsts_S, append=len(std_BC)))
    still_B: np.ndarray = np.logical_or((std_BC <= most_B[:, None]).all(1), flat_BC.all(1))
    return ~np.isfinite(std_BC).any(1), still_B


def padding_of(eeg_RCT: np.ndarray, gaps_R: np.ndarray, still_R: np.ndarray) -> list[Padding | None]:
    """What each repetition of one sample is padded with, by its :func:`suspects`; None: it is a trial.

    A trial of which some values are NaN is no padding: whoever stores it has to refuse it.
    """
    if len(eeg_RCT) == 1 and not gaps_R[0] and not still_R[0]:
        return [None]
    values_RV = eeg_RCT.reshape(len(eeg_RCT), -1)
    probe_RV = values_RV[:, :: max(values_RV.shape[1] // _PROBES, 1)]
    found: list[Padding | None] = []
    seen: dict[bytes, list[int]] = {}
    for r, probe_V in enumerate(probe_RV):
        before = seen.setdefault(probe_V.tobytes(), [])
        if gaps_R[r] and not np.isfinite(eeg_RCT[r]).any():
            found.append("nan")
        elif still_R[r]:
            found.append("constant" if eeg_RCT[r].any() else "zeros")
        elif any(np.array_equal(eeg_RCT[r], eeg_RCT[other]) for other in before):
            found.append("repeated")
        else:
            found.append(None)
        before.append(r)
    return found


def padded_in_time(eeg_RCT: np.ndarray) -> np.ndarray:
    """Whether every channel of a trial stands still at its beginning or end, as if it were filled up to a length: bool (R,)."""
    if eeg_RCT.shape[-1] < 2 * END_POINTS:
        return np.zeros(len(eeg_RCT), bool)
    ends = (eeg_RCT[..., :END_POINTS], eeg_RCT[..., -END_POINTS:])
    found_R: np.ndarray = np.any([(np.ptp(end, axis=-1) == 0).all(-1) for end in ends], axis=0)
    return found_R
