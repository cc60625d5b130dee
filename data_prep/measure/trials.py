"""All that is measured of the trials of some samples, in passing: few passes over their values, a few bytes kept.

Small samples are measured together: what numpy takes to begin would cost more than the values do. What is found of a sample does not
depend on those beside it.

Shape suffixes: R repetitions, C channels, T time points, P projections; B repetitions of several samples, S samples.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.measure.content import PROJECTIONS, signatures
from data_prep.measure.padding import Padding, padding_of, suspects

MEASURED_DTYPE = np.dtype([("sample", "<u4"), ("repetition", "<u4"), ("content", "<i2", (PROJECTIONS,)), ("level", "<f4")])
"""What is kept of a trial: its sample and repetition as the reader counts them, :func:`data_prep.measure.content.signatures`, and its level
in the study's unit."""
STORED_DTYPE = np.dtype([("sample", "<u4"), ("repetition", "<u4"), *((f"content{p}", "<i2") for p in range(PROJECTIONS)), ("level", "<f4")])
"""The same bytes as a file has them: columns of numbers alone."""
_CACHED_BYTES = 2**19
"""Values that are worked on at once, so that they stay near the processor."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The trials of one sample."""

    padding: list[Padding | None]
    """Of each repetition, see :func:`data_prep.measure.padding.padding_of`."""
    flat_RC: np.ndarray
    """Whether a channel does not move at all."""
    std_RC: np.ndarray
    """Standard deviation of each channel over time, float32; NaN where a value is not finite."""
    lowest_RC: np.ndarray
    """Smallest value of each channel, of the dtype of the EEG; NaN where a value is."""
    highest_RC: np.ndarray
    """Largest value."""
    rows: np.ndarray
    """:data:`MEASURED_DTYPE` (R,)."""


def measure_trials(eeg_RCT: np.ndarray, sample: int, masked_RC: np.ndarray | None = None) -> Measured:
    """Measure the EEG of the sample of this number: float (R, C, T), whatever its values.

    ``masked_RC`` says which channels are zero on purpose, as their device has no electrode near: they are not dead, and have no level.
    """
    return next(measure_samples([eeg_RCT], [sample], [masked_RC]))


def measure_samples(
    eeg: Sequence[np.ndarray], samples: Sequence[int], masked: Sequence[np.ndarray | None] | None = None
) -> Iterator[Measured]:
    """:func:`measure_trials` of each of some samples of one shape of trials."""
    if not eeg:
        return
    masked = [None] * len(eeg) if masked is None else masked
    if len(eeg) > 1 and not all(each.dtype == eeg[0].dtype and each.flags.c_contiguous for each in eeg):
        for each, sample, masked_RC in zip(eeg, samples, masked, strict=True):
            yield measure_trials(each, sample, masked_RC)
        return
    eeg_BCT = eeg[0] if len(eeg) == 1 else np.concatenate(eeg)
    edges = np.cumsum([0, *map(len, eeg)])
    lowest_BC, highest_BC = eeg_BCT.min(-1), eeg_BCT.max(-1)
    std_BC = _std(eeg_BCT, edges, lowest_BC, highest_BC)
    rows = np.zeros(len(eeg_BCT), MEASURED_DTYPE)
    rows["sample"] = np.repeat(np.array(samples, np.uint32), np.diff(edges))
    rows["repetition"] = np.concatenate([np.arange(len(each)) for each in eeg])
    rows["content"] = np.concatenate([signatures(part_BCT) for part_BCT in _parts(eeg_BCT)])
    rows["level"] = _median(std_BC)
    # Rounding of a constant's mean leaves less than this of it, and a constant that is not finite has no standard deviation.
    flat_BC = (lowest_BC == highest_BC) & (std_BC <= 1e-5 * np.abs(eeg_BCT[..., 0]))
    gaps_B, still_B = suspects(std_BC, flat_BC, edges[:-1])
    for each, masked_RC, (first, last) in zip(eeg, masked, itertools.pairwise(edges.tolist()), strict=True):
        own, flat_RC = slice(first, last), flat_BC[first:last]
        padding = padding_of(each, gaps_B[own], still_B[own])
        if masked_RC is not None:
            with np.errstate(invalid="ignore"):
                rows["level"][own] = np.nanmedian(np.where(masked_RC, np.nan, std_BC[own]), axis=1)
            flat_RC = flat_RC & ~masked_RC
        yield Measured(
            padding=padding,
            flat_RC=flat_RC,
            std_RC=std_BC[own],
            lowest_RC=lowest_BC[own],
            highest_RC=highest_BC[own],
            rows=rows[own],
        )


def _parts(eeg_BCT: np.ndarray) -> Iterator[np.ndarray]:
    """The trials, as many at once as stay near the processor."""
    each = max(_CACHED_BYTES // max(eeg_BCT[:1].nbytes, 1), 1) if eeg_BCT.flags.c_contiguous else len(eeg_BCT)
    for start in range(0, len(eeg_BCT), each):
        yield eeg_BCT[start : start + each]


def _median(std_BC: np.ndarray) -> np.ndarray:
    """``np.median(std_BC, axis=1)``, which takes longer than all else that is done to a trial of few channels."""
    sorted_BC, n = np.sort(std_BC, axis=1), std_BC.shape[1]  # NaN stand last
    middle_B = (sorted_BC[:, (n - 1) // 2] + sorted_BC[:, n // 2]) / 2
    found_B: np.ndarray = np.where(np.isnan(sorted_BC[:, -1]), np.nan, middle_B)
    return found_B


def _std(eeg_BCT: np.ndarray, edges: np.ndarray, lowest_BC: np.ndarray, highest_BC: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", over="ignore"):
        wide_BCT = np.asarray(eeg_BCT, np.float32)
        mean_BC = wide_BCT.mean(-1)
        # Rounding keeps the order of values: the largest of what is left beside the mean is what is left of the largest.
        largest_BC = np.fmax(highest_BC.astype(np.float32) - mean_BC, mean_BC - lowest_BC.astype(np.float32))
        largest_B = np.fmax.reduce(largest_BC, axis=1, initial=0.0)
        largest_S = np.maximum.reduceat(largest_B, edges[:-1])
        # Volts squared vanish in float32.
        scale_S = np.where(np.isfinite(largest_S) & (largest_S > 0), largest_S, 1.0).astype(np.float32)
        scale_B11 = np.repeat(scale_S, np.diff(edges))[:, None, None]
        power_BC, first = np.empty(mean_BC.shape, np.float32), 0
        for part_BCT in _parts(wide_BCT):
            own = slice(first, first := first + len(part_BCT))
            centred_BCT = part_BCT - mean_BC[own, :, None]
            centred_BCT /= scale_B11[own]
            power_BC[own] = np.einsum("rct,rct->rc", centred_BCT, centred_BCT)
        std_BC: np.ndarray = (np.sqrt(power_BC / eeg_BCT.shape[-1]) * scale_B11[:, 0]).astype(np.float32)
    std_BC[~np.isfinite(std_BC)] = np.nan
    return std_BC
