"""All that is measured of the trials of one sample, in passing: few passes over its values, a few bytes kept.

Shape suffixes: R repetitions, C channels, T time points, P projections.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_prep.measure.content import PROJECTIONS, signatures
from data_prep.measure.padding import Padding, padding_of

MEASURED_DTYPE = np.dtype([("sample", "<u4"), ("repetition", "<u4"), ("content", "<i2", (PROJECTIONS,)), ("level", "<f4")])
"""What is kept of a trial: its sample and repetition as the reader counts them, :func:`data_prep.measure.content.signatures`, and its level
in the study's unit."""
STORED_DTYPE = np.dtype([("sample", "<u4"), ("repetition", "<u4"), *((f"content{p}", "<i2") for p in range(PROJECTIONS)), ("level", "<f4")])
"""The same bytes as a file has them: columns of numbers alone."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The trials of one sample."""

    padding: list[Padding | None]
    """Of each repetition, see :func:`data_prep.measure.padding.padding_of`."""
    flat_RC: np.ndarray
    """Whether a channel does not move at all."""
    std_RC: np.ndarray
    """Standard deviation of each channel over time, float32; NaN where a value is not finite."""
    rows: np.ndarray
    """:data:`MEASURED_DTYPE` (R,)."""


def measure_trials(eeg_RCT: np.ndarray, sample: int, masked_RC: np.ndarray | None = None) -> Measured:
    """Measure the EEG of the sample of this number: float (R, C, T), whatever its values.

    ``masked_RC`` says which channels are zero on purpose, as their device has no electrode near: they are not dead, and have no level.
    """
    std_RC = _std(eeg_RCT)
    rows = np.zeros(len(eeg_RCT), MEASURED_DTYPE)
    rows["sample"], rows["repetition"] = sample, np.arange(len(eeg_RCT))
    rows["content"] = signatures(eeg_RCT)
    with np.errstate(invalid="ignore"):
        rows["level"] = _median(std_RC) if masked_RC is None else np.nanmedian(np.where(masked_RC, np.nan, std_RC), axis=1)
    flat_RC = _flat(eeg_RCT, std_RC)
    padding = padding_of(eeg_RCT, std_RC, flat_RC)
    if masked_RC is not None:
        flat_RC &= ~masked_RC
    return Measured(padding=padding, flat_RC=flat_RC, std_RC=std_RC, rows=rows)


def _median(std_RC: np.ndarray) -> np.ndarray:
    """``np.median(std_RC, axis=1)``, which takes longer than all else that is done to a trial of few channels."""
    sorted_RC, n = np.sort(std_RC, axis=1), std_RC.shape[1]  # NaN stand last
    middle_R = (sorted_RC[:, (n - 1) // 2] + sorted_RC[:, n // 2]) / 2
    found_R: np.ndarray = np.where(np.isnan(sorted_RC[:, -1]), np.nan, middle_R)
    return found_R


def _std(eeg_RCT: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", over="ignore"):
        centred_RCT = np.asarray(eeg_RCT, np.float32)
        centred_RCT = centred_RCT - centred_RCT.mean(-1, keepdims=True)
        largest = max(float(np.nanmax(centred_RCT, initial=0.0)), -float(np.nanmin(centred_RCT, initial=0.0)))
        scale = np.float32(largest if np.isfinite(largest) and largest > 0 else 1.0)  # volts squared vanish in float32
        centred_RCT /= scale
        power_RC = np.einsum("rct,rct->rc", centred_RCT, centred_RCT) / eeg_RCT.shape[-1]
        std_RC: np.ndarray = (np.sqrt(power_RC) * scale).astype(np.float32)
    std_RC[~np.isfinite(std_RC)] = np.nan
    return std_RC


def _flat(eeg_RCT: np.ndarray, std_RC: np.ndarray) -> np.ndarray:
    """Exactly: the mean of a constant is rounded, so that a small standard deviation alone does not say it."""
    flat_RC = np.zeros(std_RC.shape, bool)
    # Rounding of the mean leaves less than this of a constant.
    suspects = np.argwhere(std_RC <= 1e-5 * np.abs(eeg_RCT[..., 0]))
    for r, c in suspects.tolist():
        flat_RC[r, c] = np.ptp(eeg_RCT[r, c]) == 0
    return flat_RC
