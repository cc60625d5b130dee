"""Zero-phase FIR filters in overlapping chunks: a recording longer than memory gives what the whole would give.

A filter of ``2h + 1`` taps needs ``h`` points on either side; a chunk is read with them, so that chunks join without a seam. At the
ends of a span the signal is continued by its odd reflection (``2 x[0] - x[h] ... 2 x[0] - x[1]``), as MNE's ``reflect_limited``:
within ``h`` points of an end the result follows from points that were never recorded. Filters are MNE's ``firwin`` designs.

Shape suffixes: C channels, T time points, K taps.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data_prep.contract.errors import UserError
from data_prep.preprocess.linear import release

CHUNK_POINTS = 2**18
NOTCH_TRANSITION_HZ = 0.5
Span = tuple[int, int]
"""Time points ``[start, stop)``."""


def band_taps(sfreq: float, low_hz: float | None, high_hz: float | None) -> np.ndarray:
    """float64 (K,), K odd: pass band ``low_hz`` to ``high_hz``; transitions lie outside of it, a quarter of the edge wide or 2 Hz, the
    lower one no wider than its edge.

    Raises
    ------
    UserError
        An edge at or above Nyquist, or edges in the wrong order.
    """
    import mne

    for name, edge in (("low_hz", low_hz), ("high_hz", high_hz)):
        _check_below_nyquist(name, edge, sfreq)
    if low_hz is not None and high_hz is not None and low_hz >= high_hz:
        raise UserError(f"low_hz is {low_hz} and high_hz is {high_hz}, expected low_hz below high_hz")
    taps_K: np.ndarray = mne.filter.create_filter(None, sfreq, low_hz, high_hz, fir_design="firwin", verbose="error")
    return taps_K


def notch_taps(sfreq: float, notch_hz: float) -> np.ndarray:
    """float64 (K,), K odd: stops ``notch_hz``, a two-hundredth of it wide, with transitions of 0.5 Hz (MNE's ``notch_filter``)."""
    import mne

    _check_below_nyquist("notch_hz", notch_hz, sfreq)
    half = notch_hz / 400 + NOTCH_TRANSITION_HZ
    _check_below_nyquist("the upper edge of the notch", notch_hz + half, sfreq)
    taps_K: np.ndarray = mne.filter.create_filter(
        None,
        sfreq,
        l_freq=notch_hz + half,
        h_freq=notch_hz - half,
        l_trans_bandwidth=NOTCH_TRANSITION_HZ,
        h_trans_bandwidth=NOTCH_TRANSITION_HZ,
        fir_design="firwin",
        verbose="error",
    )
    return taps_K


def combined_taps(all_taps: Sequence[np.ndarray]) -> np.ndarray:
    """One filter that does what these do one after the other."""
    taps_K = np.ones(1)
    for more_K in all_taps:
        taps_K = np.convolve(taps_K, more_K)
    return taps_K


def filter_in_chunks(
    eeg_CT: np.ndarray, taps_K: np.ndarray, spans: Sequence[Span], *, sfreq: float, chunk_points: int = CHUNK_POINTS
) -> None:
    """Filter a signal (float32 or float64, in memory or in a file) in place within each span; arithmetic is float64.

    Memory is for one chunk of one channel.

    Raises
    ------
    UserError
        A span shorter than the filter.
    """
    for start, stop in spans:
        if stop - start < len(taps_K):
            raise UserError(
                f"points {start:,} to {stop:,} last {(stop - start) / sfreq:.4g} s, a filter of these edges needs at least "
                f"{len(taps_K) / sfreq:.4g} s without a break: raise the lower edge, or take filter butterworth"
            )
    for channel_T in eeg_CT:
        for start, stop in spans:
            _filter_in_place(channel_T[start:stop], taps_K, chunk_points)
        release(channel_T)


def _filter_in_place(signal_T: np.ndarray, taps_K: np.ndarray, chunk_points: int) -> None:
    from scipy import signal

    h, n_times = len(taps_K) // 2, len(signal_T)
    if h == 0:
        signal_T *= taps_K[0]
        return
    ends = np.asarray(signal_T[: h + 1], np.float64), np.asarray(signal_T[-h - 1 :], np.float64)
    before_T = 2 * ends[0][0] - ends[0][:0:-1]
    after_T = 2 * ends[1][-1] - ends[1][-2::-1]
    for start in range(0, n_times, chunk_points):
        stop = min(start + chunk_points, n_times)
        ahead_T = np.asarray(signal_T[stop : stop + h], np.float64)
        segment_T = np.concatenate([before_T, signal_T[start:stop], ahead_T, after_T[: h - len(ahead_T)]])
        before_T = segment_T[stop - start : stop - start + h]
        signal_T[start:stop] = signal.oaconvolve(segment_T, taps_K, mode="valid")


def _check_below_nyquist(name: str, edge: float | None, sfreq: float) -> None:
    if edge is not None and not 0 < edge < sfreq / 2:
        raise UserError(f"{name} is {edge:g} Hz, expected above 0 and below the Nyquist frequency of {sfreq / 2:g} Hz (sfreq {sfreq:g} Hz)")
