"""Signal arithmetic on arrays: filter, resample, reference, cut, baseline, scale, whiten. Pure numpy and scipy.

From a recording to trials a reader calls, in this order::

    eeg_CT  -> notch -> band_pass -> rereference          continuous, so filter transients stay at the recording's ends
            -> cut_trials                                 eeg_BCT around onsets
            -> resample -> baseline_correct               per trial; rejection by peak_to_peak
            -> zscore_trials or whiten                    where a study asks for it

Shape suffixes: B trials, C channels, T time points. Time is the last axis everywhere; functions that say ``eeg_..T`` take
any leading axes. Work is done in float64 and returned in float32 unless said otherwise; the input is never changed.
A window of time is half open: ``[start_seconds, stop_seconds)`` holds ``round((stop - start) * sfreq)`` points, so that
windows which touch neither overlap nor leave a gap.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from data_prep.contract.errors import UserError

MAX_RESAMPLE_FACTOR = 20_000
"""Largest up or down factor of the polyphase filter, whose length grows with it."""

# ----------------------------------------------------------------------------------------------------- frequency


def band_pass(eeg_CT: np.ndarray, sfreq: float, *, low_hz: float | None = 0.5, high_hz: float | None = 45.0, order: int = 4) -> np.ndarray:
    """Zero-phase Butterworth filter (forward and backward in second-order sections).

    Parameters
    ----------
    eeg_CT
        Continuous signal, any leading axes; any unit, which is kept.
    sfreq
        Sampling rate in Hz.
    low_hz, high_hz
        Edges of the pass band in Hz, -6 dB each after both directions; None leaves that side open.
    order
        Order of one direction; both together act as twice that.

    Raises
    ------
    ValueError
        An edge at or above Nyquist, edges in the wrong order, or a signal shorter than the filter's own padding.
    """
    from scipy import signal  # more than a second, which commands that filter nothing need not wait for

    _check_signal(eeg_CT, sfreq)
    if low_hz is None and high_hz is None:
        raise UserError("low_hz and high_hz are both None, expected at least one edge")
    if order < 1:
        raise UserError(f"order is {order}, expected at least 1")
    nyquist_hz = sfreq / 2
    for name, edge in (("low_hz", low_hz), ("high_hz", high_hz)):
        if edge is not None and not 0 < edge < nyquist_hz:
            raise UserError(f"{name} is {edge} Hz, expected above 0 and below the Nyquist frequency of {nyquist_hz} Hz (sfreq {sfreq} Hz)")
    if low_hz is not None and high_hz is not None:
        if low_hz >= high_hz:
            raise UserError(f"low_hz is {low_hz} and high_hz is {high_hz}, expected low_hz below high_hz")
        sos = signal.butter(order, [low_hz, high_hz], btype="bandpass", fs=sfreq, output="sos")
    elif low_hz is not None:
        sos = signal.butter(order, low_hz, btype="highpass", fs=sfreq, output="sos")
    else:
        sos = signal.butter(order, high_hz, btype="lowpass", fs=sfreq, output="sos")
    padding = 3 * (2 * len(sos) + 1)
    if eeg_CT.shape[-1] <= padding:
        raise UserError(f"the signal has {eeg_CT.shape[-1]} time points, a filter of order {order} needs more than {padding}")
    filtered_CT: np.ndarray = signal.sosfiltfilt(sos, np.asarray(eeg_CT, np.float64), axis=-1, padlen=padding).astype(np.float32)
    return filtered_CT


def notch(eeg_CT: np.ndarray, sfreq: float, *, notch_hz: float = 50.0, quality: float = 30.0) -> np.ndarray:
    """Remove one line frequency, zero phase.

    Parameters
    ----------
    notch_hz
        50 or 60 Hz as a rule; harmonics need a call each.
    quality
        ``notch_hz`` divided by the -3 dB width in Hz of one direction.

    Raises
    ------
    ValueError
        ``notch_hz`` at or above Nyquist, or a signal shorter than the filter's own padding.
    """
    from scipy import signal

    _check_signal(eeg_CT, sfreq)
    if not 0 < notch_hz < sfreq / 2:
        raise UserError(f"notch_hz is {notch_hz} Hz, expected above 0 and below the Nyquist frequency of {sfreq / 2} Hz (sfreq {sfreq} Hz)")
    if quality <= 0:
        raise UserError(f"quality is {quality}, expected above 0")
    numerator, denominator = signal.iirnotch(notch_hz, quality, fs=sfreq)
    padding = 3 * len(denominator)
    if eeg_CT.shape[-1] <= padding:
        raise UserError(f"the signal has {eeg_CT.shape[-1]} time points, a notch needs more than {padding}")
    filtered_CT: np.ndarray = signal.filtfilt(numerator, denominator, np.asarray(eeg_CT, np.float64), axis=-1).astype(np.float32)
    return filtered_CT


def resample(eeg_T: np.ndarray, sfreq: float, new_sfreq: float) -> np.ndarray:
    """Change the sampling rate exactly, by a polyphase filter that also keeps aliases out.

    The first point stays at its time; ``ceil(n_times * new_sfreq / sfreq)`` points come out. Beyond
    its ends the signal is extended along the line through its first and last point, so that an offset does not ring there.

    Raises
    ------
    ValueError
        Rates whose ratio is not a fraction of reasonable size (256.0213 Hz is a measured rate: name the nominal one).
    """
    from scipy import signal

    _check_signal(eeg_T, sfreq)
    if not (np.isfinite(new_sfreq) and new_sfreq > 0):
        raise UserError(f"new_sfreq is {new_sfreq}, expected a positive number of Hz")
    if new_sfreq == sfreq:
        return np.array(eeg_T, np.float32)
    ratio = Fraction(str(float(new_sfreq))) / Fraction(str(float(sfreq)))
    if max(ratio.numerator, ratio.denominator) > MAX_RESAMPLE_FACTOR:
        raise UserError(
            f"resampling {sfreq} Hz to {new_sfreq} Hz needs the fraction {ratio}, expected terms up to "
            f"{MAX_RESAMPLE_FACTOR}: use nominal rates"
        )
    wide = np.asarray(eeg_T, np.float64)
    resampled_T: np.ndarray = signal.resample_poly(wide, ratio.numerator, ratio.denominator, axis=-1, padtype="line").astype(np.float32)
    return resampled_T


# ---------------------------------------------------------------------------------------------------------- time


def time_slice(start_seconds: float, stop_seconds: float, *, tmin: float, sfreq: float, n_times: int) -> slice:
    """Points of ``[start_seconds, stop_seconds)`` in a trial that begins at ``tmin``.

    Raises
    ------
    ValueError
        An empty window or one that leaves the trial; the message states both.
    """
    start = round((start_seconds - tmin) * sfreq)
    stop = start + round((stop_seconds - start_seconds) * sfreq)
    # One point of slack: a trial that is asked for from -0.2 s begins at the nearest point, -0.199 s at 256 Hz.
    if start == -1:
        start = 0
    if stop == n_times + 1:
        stop = n_times
    if not 0 <= start < stop <= n_times:
        raise UserError(
            f"the window {start_seconds}..{stop_seconds} s is empty or leaves the trial, which lasts "
            f"{tmin:.4g}..{tmin + n_times / sfreq:.4g} s "
            f"({n_times} points at {sfreq} Hz)"
        )
    return slice(start, stop)


def cut_trials(
    eeg_CT: np.ndarray, onsets_samples: Sequence[int] | np.ndarray, sfreq: float, *, tmin: float, tmax: float
) -> tuple[np.ndarray, np.ndarray]:
    """Windows ``[tmin, tmax)`` seconds around onsets.

    Returns
    -------
    (trials_BCT, complete_N)
        Float32 trials of the onsets whose whole window lies inside the recording, and a mask over all onsets that says
        which those are. The first point of a trial lies ``round(tmin * sfreq) / sfreq`` seconds from its onset.
    """
    _check_signal(eeg_CT, sfreq)
    if eeg_CT.ndim != 2:
        raise UserError(f"eeg has shape {eeg_CT.shape}, expected (n_chans, n_times)")
    first, n_times = round(tmin * sfreq), round((tmax - tmin) * sfreq)
    if n_times < 1:
        raise UserError(f"tmin is {tmin} s and tmax {tmax} s, expected at least one point of {1 / sfreq:.4g} s between them")
    onsets_N = np.asarray(onsets_samples, np.int64).reshape(-1)
    complete_N = (onsets_N + first >= 0) & (onsets_N + first + n_times <= eeg_CT.shape[-1])
    points_BT = onsets_N[complete_N, None] + first + np.arange(n_times)
    trials_BCT = np.ascontiguousarray(eeg_CT[:, points_BT].transpose(1, 0, 2), dtype=np.float32)
    return trials_BCT, complete_N


def baseline_correct(eeg_T: np.ndarray, *, tmin: float, sfreq: float, baseline_seconds: tuple[float, float]) -> np.ndarray:
    """Subtract from every channel its mean over ``baseline_seconds``, relative to the onset."""
    _check_signal(eeg_T, sfreq)
    window = time_slice(*baseline_seconds, tmin=tmin, sfreq=sfreq, n_times=eeg_T.shape[-1])
    wide = np.asarray(eeg_T, np.float64)
    corrected_T: np.ndarray = (wide - wide[..., window].mean(-1, keepdims=True)).astype(np.float32)
    return corrected_T


# ------------------------------------------------------------------------------------------------------ channels


def pick_channels(eeg_CT: np.ndarray, ch_names: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
    """Channels ``wanted``, in that order; the channel axis is the last but one."""
    _check_channels(eeg_CT, ch_names)
    missing = [name for name in wanted if name not in ch_names]
    if missing or not wanted:
        raise UserError(f"channels {missing or list(wanted)} are not among {list(ch_names)}")
    return np.ascontiguousarray(eeg_CT[..., [list(ch_names).index(name) for name in wanted], :])


def rereference(eeg_CT: np.ndarray, ch_names: Sequence[str], reference: str | Sequence[str]) -> np.ndarray:
    """Subtract the mean of the reference channels at every time point.

    ``reference`` is ``"average"`` (all channels) or channel names; the reference channels stay in the array.
    """
    _check_channels(eeg_CT, ch_names)
    if isinstance(reference, str) and reference != "average":
        raise UserError(f"reference is {reference!r}, expected 'average' or a list of channel names")
    names = list(ch_names) if isinstance(reference, str) else list(reference)
    wide = np.asarray(eeg_CT, np.float64)
    referenced_CT: np.ndarray = (wide - pick_channels(wide, ch_names, names).mean(-2, keepdims=True)).astype(np.float32)
    return referenced_CT


# --------------------------------------------------------------------------------------------------------- scale


def peak_to_peak(eeg_T: np.ndarray) -> np.ndarray:
    """Largest minus smallest value along time, in the unit of the input; one axis fewer."""
    range_C: np.ndarray = np.ptp(eeg_T, axis=-1)
    return range_C


def zscore_trials(eeg_T: np.ndarray) -> np.ndarray:
    """Every channel of every trial to mean 0 and standard deviation 1 over time; a constant channel becomes 0."""
    wide = np.asarray(eeg_T, np.float64)
    centred = wide - wide.mean(-1, keepdims=True)
    scale = centred.std(-1, keepdims=True)
    # Rounding leaves a constant channel with a tiny spread: relative to its level, not to 0.
    flat = scale <= 1e-12 * np.maximum(np.abs(wide).max(-1, keepdims=True), 1e-30)
    return np.where(flat, 0.0, centred / np.where(flat, 1.0, scale)).astype(np.float32)


def inverse_sqrt(covariance_CC: np.ndarray, *, shrinkage: float = 0.0, relative_floor: float = 1e-10) -> np.ndarray:
    """Symmetric inverse square root of a covariance, float64: what whitens with the least change (ZCA).

    Parameters
    ----------
    shrinkage
        Share in [0, 1] of the identity, scaled to the mean variance, that is mixed in.
    relative_floor
        Eigenvalues below this share of the largest count as it (a re-referenced montage is singular).

    Raises
    ------
    ValueError
        Not square, not symmetric, not finite, or without any positive variance.
    """
    covariance = np.asarray(covariance_CC, np.float64)
    if covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1]:
        raise UserError(f"the covariance has shape {covariance.shape}, expected (n_chans, n_chans)")
    if not np.isfinite(covariance).all() or not np.allclose(covariance, covariance.T, rtol=1e-6, atol=1e-12 * np.abs(covariance).max()):
        raise UserError("the covariance is not finite or not symmetric")
    if not 0 <= shrinkage <= 1:
        raise UserError(f"shrinkage is {shrinkage}, expected from 0 to 1")
    n_chans = len(covariance)
    mixed = (1 - shrinkage) * covariance + shrinkage * np.trace(covariance) / n_chans * np.eye(n_chans)
    values_C, vectors_CC = np.linalg.eigh((mixed + mixed.T) / 2)
    if values_C[-1] <= 0:
        raise UserError(
            f"the largest eigenvalue of the covariance is {values_C[-1]}, expected above 0: constant channels cannot be whitened"
        )
    values_C = np.maximum(values_C, relative_floor * values_C[-1])
    matrix_CC: np.ndarray = (vectors_CC / np.sqrt(values_C)) @ vectors_CC.T
    return matrix_CC


def whiten(eeg_CT: np.ndarray, matrix_CC: np.ndarray, mean_C: np.ndarray | None = None) -> np.ndarray:
    """``matrix @ (eeg - mean)`` at every time point, any leading axes."""
    if matrix_CC.shape != (eeg_CT.shape[-2],) * 2:
        raise UserError(
            f"the matrix has shape {matrix_CC.shape}, the signal {eeg_CT.shape[-2]} channels: expected as many rows and columns"
        )
    centred = np.asarray(eeg_CT, np.float64)
    if mean_C is not None:
        centred = centred - np.asarray(mean_C, np.float64)[:, None]
    whitened_CT: np.ndarray = np.matmul(np.asarray(matrix_CC, np.float64), centred).astype(np.float32)
    return whitened_CT


# -------------------------------------------------------------------------------------------------------- checks


def _check_signal(eeg: np.ndarray, sfreq: float) -> None:
    if not (np.isfinite(sfreq) and sfreq > 0):
        raise UserError(f"sfreq is {sfreq}, expected a positive number of Hz")
    if eeg.ndim < 1 or eeg.shape[-1] < 1:
        raise UserError(f"the signal has shape {eeg.shape}, expected time points on the last axis")


def _check_channels(eeg: np.ndarray, ch_names: Sequence[str]) -> None:
    if eeg.ndim < 2 or eeg.shape[-2] != len(ch_names):
        raise UserError(f"the signal has shape {eeg.shape}, ch_names {len(ch_names)} names: expected as many on the last but one axis")
