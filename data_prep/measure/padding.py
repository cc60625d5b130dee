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


def padding_of(eeg_RCT: np.ndarray, std_RC: np.ndarray, flat_RC: np.ndarray) -> list[Padding | None]:
    """What each repetition of one sample is padded with; None: it is a trial.

    A trial of which some values are NaN is no padding: whoever stores it has to refuse it.

    Parameters
    ----------
    std_RC
        Standard deviation of each channel over time, NaN where it has a value that is not finite.
    flat_RC
        Whether a channel does not move at all.
    """
    finite_RC = np.isfinite(std_RC)
    largest = np.nanmax(std_RC, initial=0.0) if finite_RC.any() else 0.0
    finite_R = finite_RC.any(1).tolist()
    still_R: np.ndarray = np.logical_or((std_RC <= STILL * largest).all(1), flat_RC.all(1))
    values_RV = eeg_RCT.reshape(len(eeg_RCT), -1)
    probe_RV = values_RV[:, :: max(values_RV.shape[1] // _PROBES, 1)]
    found: list[Padding | None] = []
    seen: dict[bytes, list[int]] = {}
    for r, (eeg_CT, probe_V) in enumerate(zip(eeg_RCT, probe_RV, strict=True)):
        before = seen.setdefault(probe_V.tobytes(), [])
        if not finite_R[r] and not np.isfinite(eeg_CT).any():
            found.append("nan")
        elif still_R[r]:
            found.append("constant" if eeg_CT.any() else "zeros")
        elif any(np.array_equal(eeg_CT, eeg_RCT[other]) for other in before):
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
