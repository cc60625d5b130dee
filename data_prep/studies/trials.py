"""What may still be done to trials that a source has already cut: pick channels, filter, resample, baseline, crop.

Order: channels -> band-pass -> resample -> baseline -> crop, so that a baseline may lie outside the window that is kept. Filters belong
on the continuous recording: on a trial they ring at its ends, and a high-pass of which the trial holds less than two cycles is refused.

Shape suffixes: C channels, T time points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.contract import signals
from data_prep.contract.errors import StudyError, UserError

LEAST_CYCLES = 2
"""Of a high-pass in a trial: with fewer, its transient at both ends is all that the trial holds."""


@dataclass(frozen=True, kw_only=True)
class TrialsConfig:
    """Changes to trials that the source has already cut; the defaults change nothing."""

    tmin: float | None = None
    """Keep time points from this many seconds after onset (negative before it); None from the first."""
    tmax: float | None = None
    """Keep time points before this many seconds after onset, exclusive; None up to the last."""
    band_hz: tuple[float | None, float | None] | None = None
    """Pass band of a zero-phase Butterworth filter of order 4 on each whole trial, Hz; an edge may be null; the lower one needs two cycles
    in a trial (2 Hz in a second). None: no filter."""
    resample_hz: float | None = None
    """New sampling rate in Hz, exact; None keeps the source's."""
    channels: tuple[str, ...] | None = None
    """Channels to keep, in this order; None keeps all."""
    baseline_seconds: tuple[float, float] | None = None
    """Subtract every channel's mean over this window, in seconds from onset; None leaves the trial as it is. Where stimuli
    follow each other within 200 ms (THINGS-EEG2) the time before onset holds the previous response."""

    def __post_init__(self) -> None:
        if self.tmin is not None and self.tmax is not None and self.tmin >= self.tmax:
            raise ValueError(f"tmin is {self.tmin} s and tmax {self.tmax} s, expected tmin below tmax")
        if self.resample_hz is not None and self.resample_hz <= 0:
            raise ValueError(f"resample_hz is {self.resample_hz}, expected above 0")
        high_hz = self.band_hz[1] if self.band_hz is not None else None
        if self.resample_hz is not None and high_hz is not None and high_hz >= self.resample_hz / 2:
            raise ValueError(
                f"resample_hz is {self.resample_hz:g} with band_hz up to {high_hz:g} Hz, expected a band below half of the new rate, "
                f"{self.resample_hz / 2:g} Hz: what lies above is lost"
            )
        if self.channels is not None and (not self.channels or len(set(self.channels)) != len(self.channels)):
            raise ValueError(f"channels is {list(self.channels)}, expected at least one name, each once")
        if self.baseline_seconds is not None and self.baseline_seconds[0] >= self.baseline_seconds[1]:
            raise ValueError(f"baseline_seconds is {list(self.baseline_seconds)}, expected the start before the end")


@dataclass(frozen=True, kw_only=True)
class TrialFacts:
    """Shape of a trial in time and channels."""

    sfreq: float
    """Sampling rate in Hz."""
    tmin: float
    """Seconds from onset to the first time point."""
    n_times: int
    """Time points."""
    ch_names: tuple[str, ...]
    """Channels in order."""


def facts_after(config: TrialsConfig, facts: TrialFacts) -> TrialFacts:
    """Facts of a trial after :func:`apply`, without touching data.

    Raises
    ------
    ValueError
        A channel that is not there, a window that leaves the trial, or a filter that a trial cannot take; both values are stated.
    """
    _check_filter(config, facts)
    resampled = _after_resampling(config, facts)
    if config.channels is not None:
        missing = [name for name in config.channels if name not in facts.ch_names]
        if missing:
            raise UserError(f"channels {missing} are not among {list(facts.ch_names)}")
    if config.baseline_seconds is not None:
        signals.time_slice(*config.baseline_seconds, tmin=resampled.tmin, sfreq=resampled.sfreq, n_times=resampled.n_times)
    window = _window(config, resampled)
    return TrialFacts(
        sfreq=resampled.sfreq,
        tmin=resampled.tmin + window.start / resampled.sfreq,
        n_times=window.stop - window.start,
        ch_names=facts.ch_names if config.channels is None else tuple(config.channels),
    )


def facts_in_study(config: TrialsConfig, facts: TrialFacts, file: Path | None = None) -> TrialFacts:
    """:func:`facts_after`, whose fault is one of the reader's field ``trials``, where ``file`` has such trials.

    Raises
    ------
    StudyError
    """
    try:
        return facts_after(config, facts)
    except ValueError as error:
        raise StudyError(f"{file}: trials: {error}" if file else f"trials: {error}") from error


def apply(config: TrialsConfig, eeg_CT: np.ndarray, facts: TrialFacts) -> np.ndarray:
    """The trial (any leading axes) after the changes, float32; :func:`facts_after` describes it.

    Raises
    ------
    ValueError
        As :func:`facts_after`, and where the array contradicts ``facts``.
    """
    expected: Sequence[int] = (len(facts.ch_names), facts.n_times)
    if tuple(eeg_CT.shape[-2:]) != tuple(expected):
        raise UserError(f"the trial has shape {eeg_CT.shape}, expected (..., {expected[0]} channels, {expected[1]} time points)")
    resampled = _after_resampling(config, facts)
    eeg = np.asarray(eeg_CT, np.float32)
    if config.channels is not None:
        eeg = signals.pick_channels(eeg, facts.ch_names, config.channels)
    if config.band_hz is not None:
        eeg = signals.band_pass(eeg, facts.sfreq, low_hz=config.band_hz[0], high_hz=config.band_hz[1])
    if config.resample_hz is not None:
        eeg = signals.resample(eeg, facts.sfreq, config.resample_hz)
    if config.baseline_seconds is not None:
        eeg = signals.baseline_correct(eeg, tmin=resampled.tmin, sfreq=resampled.sfreq, baseline_seconds=config.baseline_seconds)
    return np.ascontiguousarray(eeg[..., _window(config, resampled)])


def _check_filter(config: TrialsConfig, facts: TrialFacts) -> None:
    if config.band_hz is None:
        return
    low_hz, seconds = config.band_hz[0], facts.n_times / facts.sfreq
    if low_hz is not None and low_hz * seconds < LEAST_CYCLES:
        raise UserError(
            f"band_hz begins at {low_hz:g} Hz, of which a trial of {seconds:.4g} s holds {low_hz * seconds:.3g} cycles, expected at least "
            f"{LEAST_CYCLES} ({LEAST_CYCLES / seconds:.3g} Hz): filter the continuous recording, or leave the lower edge null"
        )
    signals.band_pass(np.zeros((1, facts.n_times)), facts.sfreq, low_hz=low_hz, high_hz=config.band_hz[1])  # which refuses all else


def _after_resampling(config: TrialsConfig, facts: TrialFacts) -> TrialFacts:
    if config.resample_hz is None:
        return facts
    # The polyphase filter returns ceil(n * up / down) points; asking it keeps the two from ever disagreeing.
    n_times = signals.resample(np.zeros((1, facts.n_times), np.float32), facts.sfreq, config.resample_hz).shape[-1]
    return TrialFacts(sfreq=config.resample_hz, tmin=facts.tmin, n_times=n_times, ch_names=facts.ch_names)


def _window(config: TrialsConfig, facts: TrialFacts) -> slice:
    first = facts.tmin if config.tmin is None else config.tmin
    last = facts.tmin + facts.n_times / facts.sfreq if config.tmax is None else config.tmax
    return signals.time_slice(first, last, tmin=facts.tmin, sfreq=facts.sfreq, n_times=facts.n_times)
