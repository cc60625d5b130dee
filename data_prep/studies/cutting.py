"""From a continuous recording to the trials that stay: the steps of :mod:`data_prep.preprocess`, cut, resample, baseline, reject; every
loss is counted.

Shape suffixes: C channels, T time points, B trials, N onsets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from typing import Any

import numpy as np

from data_prep.contract import signals
from data_prep.measure.electrodes import BRIDGED_TRIALS, RawFaults, bridged_pairs, raw_faults
from data_prep.preprocess import recording
from data_prep.preprocess.autorejection import AutorejectConfig, autoreject
from data_prep.preprocess.linear import extremes, release
from data_prep.preprocess.recording import Beside, SignalConfig, filter_in_place
from data_prep.preprocess.scaling import scale_and_clamp

__all__ = ["Beside", "Cut", "CuttingConfig", "Span", "Windows", "cut", "filter_in_place", "windows"]

Span = tuple[int, int]
"""Time points ``[start, stop)``."""
_TRIALS_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True)
class CuttingConfig(SignalConfig):
    """What is done to a recording."""

    tmin: float = -0.2
    """Trial start in seconds from onset; the nearest time point is taken."""
    tmax: float = 0.8
    """Trial end in seconds from onset, exclusive."""
    resample_hz: float | None = None
    """New sampling rate in Hz, per trial, so that no onset moves; None keeps the files'."""
    baseline_seconds: tuple[float, float] | None = None
    """Window whose mean is subtracted from every channel, seconds from onset; None: none."""
    reject_microvolts: float | None = None
    """Drop trials in which a channel's largest minus smallest value exceeds this, after filters; None keeps all."""
    rail_microvolts: float | None = None
    """The amplifier's limit: trials whose raw signal touches it are marked ``railed``, the others ``good``. None: trials that stay at their
    recording's lowest or highest value are, and the quality of the others is ``unknown``."""
    autoreject: AutorejectConfig | None = None
    """Reject or mend trials by limits fitted on the recording's trials, after ``reject_microvolts``; None: none."""
    robust_scaling: bool = False
    """Bring every channel to median 0 and robust standard deviation 1 (IQR / 1.349) over the recording's trials that stay; the unit is then
    ``zscore``. It knows no split: test trials of a recording count in it."""
    clamp_sd: float | None = None
    """Hold values within this many robust standard deviations of the channel's median in the recording; None: none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tmin >= self.tmax:
            raise ValueError(f"tmin is {self.tmin} s and tmax {self.tmax} s, expected tmin below tmax")
        if self.baseline_seconds is not None:
            start, stop = self.baseline_seconds
            if not self.tmin <= start < stop <= self.tmax:
                raise ValueError(f"baseline_seconds is {start}..{stop} s, expected a window inside tmin..tmax = {self.tmin}..{self.tmax} s")
        for name in ("reject_microvolts", "resample_hz", "rail_microvolts", "clamp_sd"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value}, expected above 0")

        high_hz = self.band_hz[1] if self.band_hz is not None else None
        if self.resample_hz is not None and high_hz is not None and high_hz >= self.resample_hz / 2:
            raise ValueError(
                f"resample_hz is {self.resample_hz:g} with band_hz up to {high_hz:g} Hz, expected a band below half of the new rate, "
                f"{self.resample_hz / 2:g} Hz: what lies above is lost"
            )

    @property
    def unit(self) -> str:
        """Of the trials: ``microvolts``, or ``zscore`` where they are scaled."""
        return "zscore" if self.robust_scaling else "microvolts"

    def libraries(self) -> dict[str, str]:
        """Versions of what computes the steps that this config has, for the manifest."""
        found = super().libraries()
        return found | {"autoreject": version("autoreject")} if self.autoreject is not None else found

    def plain(self) -> dict[str, Any]:
        """As the manifest says it."""
        later = {"autoreject", "robust_scaling", "clamp_sd"}
        return {name: value for name, value in super().plain().items() if name not in later or value not in (None, False)}


@dataclass(frozen=True, kw_only=True)
class Cut:
    """The trials of one recording that stay."""

    eeg_BCT: np.ndarray
    """float32, in the config's unit."""
    onset_B: np.ndarray
    """Row of the given onsets that each trial belongs to."""
    quality_B: list[str]
    tmin: float
    """Seconds from onset to the first time point."""
    sfreq: float
    """Hz, after resampling."""
    lost: dict[str, int] = field(default_factory=dict)
    """Trials that did not stay, by reason: ``incomplete``, ``across_a_break``, ``bad_segment``, ``flat``, ``stuck``, ``rejected``; and
    ``autorejected`` where the config asks for it."""
    ch_names: list[str] = field(default_factory=list)
    """Channels in order: the recording's, or those of a common montage."""
    positions: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Of those channels that have one, metres in head coordinates."""
    masked: tuple[str, ...] = ()
    """Channels that are zero in this recording."""
    bridged: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """Pairs of channels whose raw signal is one -> in which share of the trials."""
    found: dict[str, Any] = field(default_factory=dict)
    """What each step found, for the manifest; empty where the config has none of the steps that find anything."""


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Trials of a signal that is filtered."""

    eeg_BCT: np.ndarray
    """float32 microvolts, resampled and baseline-corrected."""
    complete_N: np.ndarray
    """Which onsets they belong to: those whose window lies inside the recording."""
    loud_B: np.ndarray
    """Whether a channel's largest minus smallest value exceeds ``reject_microvolts``."""
    tmin: float
    sfreq: float


def windows(eeg_CT: np.ndarray, onsets_N: np.ndarray, sfreq: float, config: CuttingConfig) -> Windows:
    """The windows around onsets.

    Raises
    ------
    UserError
        A window that the signal cannot take.
    """
    rate, tmin = config.resample_hz or sfreq, round(config.tmin * sfreq) / sfreq
    all_BCT: np.ndarray | None = None
    complete, count = [], 0
    for block in _blocks(onsets_N):
        eeg_BCT, complete_N = _gathered(eeg_CT, block, sfreq, config)
        eeg_BCT = signals.resample(eeg_BCT, sfreq, rate)
        if config.baseline_seconds is not None:
            eeg_BCT = signals.baseline_correct(eeg_BCT, tmin=tmin, sfreq=rate, baseline_seconds=config.baseline_seconds)
        if all_BCT is None:
            all_BCT = np.empty((len(onsets_N), *eeg_BCT.shape[1:]), np.float32)
        all_BCT[count : count + len(eeg_BCT)] = eeg_BCT
        complete.append(complete_N)
        count += len(eeg_BCT)
    assert all_BCT is not None
    found_BCT = all_BCT[:count]
    loud_B: np.ndarray = np.zeros(count, bool)
    if config.reject_microvolts is not None:
        loud_B = np.any(signals.peak_to_peak(found_BCT) > config.reject_microvolts, axis=1)
    return Windows(eeg_BCT=found_BCT, complete_N=np.concatenate(complete), loud_B=loud_B, tmin=tmin, sfreq=rate)


def cut(
    eeg_CT: np.ndarray,
    ch_names: Sequence[str],
    sfreq: float,
    onsets_N: np.ndarray,
    config: CuttingConfig,
    *,
    breaks: Sequence[int] = (),
    bad: Sequence[Span] = (),
    beside: Beside | None = None,
    bad_names: Mapping[str, Sequence[str]] | None = None,
) -> Cut:
    """Cut trials around onsets; ``eeg_CT`` (float64 microvolts) is overwritten by its filtered self.

    Nothing is filtered or cut across a break. A trial in which a channel of the raw signal does not move at all, or keeps one value for a
    tenth of a second, is dropped, unless it is a bad channel: a filter would give a dead electrode the movement of its neighbours in time.
    One that stays at its recording's lowest or highest value is called ``railed``.

    Parameters
    ----------
    beside
        What the recording has beside its EEG, for the steps that need it.
    bad_names
        Bad channels with why, where they are known already; None: they are found here.

    Raises
    ------
    UserError
        A step or window that the signal cannot take, or a reference channel that is not there.
    """
    first, n_times = round(config.tmin * sfreq), round((config.tmax - config.tmin) * sfreq)
    beside = beside or Beside()
    spans = list(zip([0, *breaks], [*breaks, eeg_CT.shape[1]], strict=True))
    if bad_names is None:
        bad_names = recording.find_bad(eeg_CT, ch_names, sfreq, config, beside, spans, bad)
    good = [i for i, name in enumerate(ch_names) if name not in bad_names]
    raw, complete_N = _raw_faults(eeg_CT, good, onsets_N, sfreq, config)
    bridged = _bridged(eeg_CT, good, onsets_N[complete_N], sfreq, config)
    prepared = recording.prepare(eeg_CT, ch_names, sfreq, config, beside, spans=spans, bad=bad, bad_names=bad_names)
    found = windows(prepared.eeg_CT, onsets_N, sfreq, config)
    start_B = onsets_N[complete_N] + first
    reasons = {
        "across_a_break": _meets(start_B, n_times, [(point, point) for point in breaks]),
        "bad_segment": _meets(start_B, n_times, bad),
        "flat": raw.flat_B,
        "stuck": raw.stuck_B,
        "rejected": found.loud_B,
    }
    keep_B: np.ndarray = np.ones(len(found.eeg_BCT), bool)
    lost = {"incomplete": int((~complete_N).sum())}
    for reason, hit_B in reasons.items():
        lost[reason] = int((hit_B & keep_B).sum())
        keep_B &= ~hit_B
    trials_BCT, said = found.eeg_BCT[keep_B], dict(prepared.found)
    if config.autoreject is not None:
        trials_BCT, keep_B, said["autoreject"] = _autoreject(trials_BCT, keep_B, prepared, found.sfreq, config.autoreject)
        lost["autorejected"] = said["autoreject"]["trials"]
    if config.robust_scaling or config.clamp_sd is not None:
        trials_BCT, said["scaling"] = scale_and_clamp(
            trials_BCT, prepared.ch_names, scale=config.robust_scaling, clamp_sd=config.clamp_sd, masked=prepared.masked
        )
    known = config.rail_microvolts is not None
    quality_B = ["railed" if railed else "good" if known else "unknown" for railed in raw.railed_B[keep_B]]
    return Cut(
        eeg_BCT=trials_BCT,
        onset_B=np.flatnonzero(complete_N)[keep_B],
        quality_B=quality_B,
        tmin=found.tmin,
        sfreq=found.sfreq,
        lost=lost,
        ch_names=prepared.ch_names,
        positions=prepared.positions,
        masked=prepared.masked,
        bridged={(ch_names[i], ch_names[j]): share for (i, j), share in bridged.items()},
        found=said,
    )


def _blocks(onsets_N: np.ndarray) -> Iterator[np.ndarray]:
    """Some hundred onsets at a time, at least once: trials before they are resampled may be larger than the recording."""
    for first in range(0, max(len(onsets_N), 1), _TRIALS_AT_ONCE):
        yield onsets_N[first : first + _TRIALS_AT_ONCE]


def _raw_faults(
    eeg_CT: np.ndarray, good: Sequence[int], onsets_N: np.ndarray, sfreq: float, config: CuttingConfig
) -> tuple[RawFaults, np.ndarray]:
    """Faults of the raw trials in the channels ``good``, and whose windows are complete."""
    lowest_C, highest_C = (each_C.astype(np.float32)[good] for each_C in extremes(eeg_CT))
    found, complete = [], []
    for block in _blocks(onsets_N):
        raw_BCT, complete_N = _gathered(eeg_CT, block, sfreq, config)
        found.append(raw_faults(raw_BCT[:, good], sfreq, lowest_C, highest_C, config.rail_microvolts))
        complete.append(complete_N)
    joined = {each.name: np.concatenate([getattr(faults, each.name) for faults in found]) for each in fields(RawFaults)}
    return RawFaults(**joined), np.concatenate(complete)


def _bridged(
    eeg_CT: np.ndarray, good: Sequence[int], onsets_N: np.ndarray, sfreq: float, config: CuttingConfig
) -> dict[tuple[int, int], float]:
    """Pairs of rows of ``eeg_CT`` that are one signal in most of the raw trials, a few of which are looked at."""
    if not len(onsets_N):
        return {}
    chosen = np.unique(np.linspace(0, len(onsets_N) - 1, num=min(len(onsets_N), BRIDGED_TRIALS)).astype(int))
    raw_BCT, _ = _gathered(eeg_CT, onsets_N[chosen], sfreq, config)
    return {(good[i], good[j]): share for (i, j), share in bridged_pairs(raw_BCT[:, good]).items()}


def _gathered(eeg_CT: np.ndarray, onsets_N: np.ndarray, sfreq: float, config: CuttingConfig) -> tuple[np.ndarray, np.ndarray]:
    """:func:`data_prep.contract.signals.cut_trials`, of a signal in a file a channel at a time, so that it does not come into memory
    whole."""
    if not isinstance(eeg_CT, np.memmap):
        return signals.cut_trials(eeg_CT, onsets_N, sfreq, tmin=config.tmin, tmax=config.tmax)
    found = []
    for c in range(len(eeg_CT)):
        found.append(signals.cut_trials(eeg_CT[c : c + 1], onsets_N, sfreq, tmin=config.tmin, tmax=config.tmax))
        release(eeg_CT)
    return np.concatenate([trials_B1T for trials_B1T, _ in found], axis=1), found[0][1]


def _autoreject(
    trials_BCT: np.ndarray, keep_B: np.ndarray, prepared: recording.Prepared, sfreq: float, config: AutorejectConfig
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Trials that stay, which of all those are, and what was found; masked channels take no part."""
    rows = [i for i, name in enumerate(prepared.ch_names) if name not in prepared.masked]
    names = [prepared.ch_names[i] for i in rows]
    mended_BCT, stay_B, said = autoreject(trials_BCT[:, rows], names, sfreq, config, prepared.positions)
    out_BCT = trials_BCT.copy()
    out_BCT[:, rows] = mended_BCT
    left_B = keep_B.copy()
    left_B[np.flatnonzero(keep_B)[~stay_B]] = False
    return out_BCT[stay_B], left_B, {"trials": int((~stay_B).sum()), **said}


def _meets(start_B: np.ndarray, n_times: int, spans: Sequence[Span]) -> np.ndarray:
    """Whether a trial's points hold one of ``spans``, or the step into it where it has no length."""
    hit_B: np.ndarray = np.zeros(len(start_B), bool)
    for start, stop in spans:
        hit_B |= (start_B < stop) & (start_B + n_times > start)
    return hit_B
