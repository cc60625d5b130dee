"""The level of EEG: how large its values are, measured on what an encoder was trained on, and asked of what it is given later.

Volts, millivolts, microvolts and z-scores lie orders apart, and an encoder answers all of them. What :func:`measure_level` finds over the
training part stands in the export; :func:`check_trials` judges single trials by it and :func:`check_part` a part of a study. Both look at
the EEG as it comes in, before any transform, average or normalisation, which may hide its level.

The level of a channel in a trial is its standard deviation over time, that of a trial the median over its channels. An average of
repetitions has less: hence the room below.

B: trials, R: repetitions, C: channels, T: time points.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.contract.errors import CommandError, UserError
from trainer.data import random
from trainer.data.loader import Loader

_BELOW, _ABOVE = 30.0, 10.0
"""How far a trial may lie below the quiet and above the loud ones of training: the average of 900 repetitions has a 30th of their noise."""
_ABOVE_ZSCORE = 3.0
"""The same for z-scores, which have no loud persons."""
_MORE = 10.0
"""How much further a single channel may lie, since electrodes come off."""
_PEAK = 100.0
"""How far above those of training the largest value may lie: offsets, spikes."""
_SPREAD = 10.0
"""Trials of training beyond this from their median are not what it was trained on."""
_EXACT = 1e-4
"""Standard deviations this near 1 are made, not measured."""
_TRIALS, _TRIALS_OF_SUBJECT, _AT_ONCE = 1024, 64, 128
_CHOICE = random.word("trials whose level is measured")
_UNITS = {-6: "volts", -3: "millivolts", 3: "nanovolts"}


@dataclass(frozen=True, kw_only=True)
class Level:
    """How large the EEG of a training part is, in its unit; of single repetitions, before the transform."""

    unit: str
    """``microvolts`` or ``zscore``."""
    trials: int
    """Repetitions measured, a fixed choice."""
    median: float
    low: float
    high: float
    """Of the trials' levels; ``low`` and ``high`` are the 1st and the 99th percentile."""
    peak: float
    """Of the largest magnitude of a trial, the 99th percentile."""
    channels: tuple[tuple[float, float, float], ...]
    """``median``, ``low`` and ``high`` of each channel. A channel without any (median 0) was dead, and is not judged."""

    @property
    def live_C(self) -> np.ndarray:
        """Channels that had a signal, bool."""
        return np.array([median > 0 for median, _, _ in self.channels], bool)

    def bounds(self) -> tuple[float, float]:
        """Between what a trial's level is believed."""
        above = _ABOVE_ZSCORE if self.unit == "zscore" else _ABOVE
        return max(self.low, self.median / _SPREAD) / _BELOW, min(self.high, self.median * _SPREAD) * above

    def channel_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The same for each channel: two arrays (C,); any level will do where training had none."""
        median_C, low_C, high_C = np.array(self.channels, np.float64).reshape(-1, 3).T
        below_C = np.maximum(low_C, median_C / _SPREAD) / (_BELOW * _MORE)
        above_C = np.minimum(high_C, median_C * _SPREAD) * _ABOVE * _MORE
        return below_C, np.where(median_C > 0, above_C, np.inf)

    def __str__(self) -> str:
        low, high = self.bounds()
        return f"{self.median:.3g} {_name(self.unit)}: expected {low:.2g} to {high:.2g}"


# -------------------------------------------------------------------------------------------------------- measured


_MEASURED: weakref.WeakKeyDictionary[Loader, Level] = weakref.WeakKeyDictionary()


def measure_level(loader: Loader) -> Level:
    """The level of a part, over at most 1,024 of its repetitions; measured once a loader."""
    if loader not in _MEASURED:
        found = [_Measured.of(eeg_RCT) for eeg_RCT in _chosen(loader, np.arange(loader.num_repetitions), _TRIALS)]
        deviation_RC = np.concatenate([each.deviation_RC for each in found])
        peak_R = np.concatenate([each.peak_R for each in found])
        live_C = np.median(deviation_RC, axis=0) > 0
        level_R = np.median(deviation_RC[:, live_C], axis=1) if live_C.any() else np.zeros(len(peak_R))
        median, low, high = _quantiles(level_R)
        _MEASURED[loader] = Level(
            unit=loader.index.signal.unit,
            trials=len(peak_R),
            median=median,
            low=low,
            high=high,
            peak=float(np.quantile(peak_R, 0.99)),
            channels=tuple(_quantiles(deviation_R) for deviation_R in deviation_RC.T),
        )
    return _MEASURED[loader]


def _quantiles(values: np.ndarray) -> tuple[float, float, float]:
    median, low, high = np.quantile(values, (0.5, 0.01, 0.99))
    return float(median), float(low), float(high)


def _chosen(loader: Loader, among: np.ndarray, most: int) -> Iterator[np.ndarray]:
    """At most ``most`` of some repetitions of a loader, always the same ones: float32 (R, C, T), some at a time."""
    if len(among) > most:
        among = np.sort(among[np.argsort(random.hash_numpy(_CHOICE, among), kind="stable")[:most]])
    for first in range(0, len(among), _AT_ONCE):
        yield loader.trials_batch(among[first : first + _AT_ONCE]).repetitions_RCT.numpy().astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class _Measured:
    deviation_RC: np.ndarray
    """float64; exactly 0 where a channel is constant."""
    peak_R: np.ndarray
    zscored_R: np.ndarray
    """Whether a trial was scaled to a deviation of 1, by channel or as a whole."""
    n_times: int

    @classmethod
    def of(cls, eeg_RCT: np.ndarray) -> _Measured:
        eeg_RCT = np.ascontiguousarray(eeg_RCT, np.float32)  # what a model is given: an offset may have swallowed the signal
        low_RC, high_RC = eeg_RCT.min(axis=-1), eeg_RCT.max(axis=-1)
        # Rounding leaves a constant channel with a tiny spread.
        deviation_RC = np.where(low_RC == high_RC, 0.0, eeg_RCT.std(axis=-1, dtype=np.float64))
        whole_R = eeg_RCT.std(axis=(1, 2), dtype=np.float64)
        by_channel_R = is_scaled(deviation_RC, eeg_RCT.shape[2]).all(axis=1)
        zscored_R = by_channel_R | is_scaled(whole_R, eeg_RCT.shape[1] * eeg_RCT.shape[2])
        return cls(
            deviation_RC=deviation_RC, peak_R=np.maximum(-low_RC, high_RC).max(axis=1), zscored_R=zscored_R, n_times=eeg_RCT.shape[2]
        )


def is_scaled(deviation: np.ndarray, count: int) -> np.ndarray:
    """Whether standard deviations of ``count`` values are 1, as a z-score has it (divided by the count, or by one less)."""
    one = np.array([1.0, np.sqrt((count - 1) / count)])
    found: np.ndarray = (np.abs(deviation[..., None] - one) < _EXACT).any(axis=-1)
    return found


# ---------------------------------------------------------------------------------------------------------- judged


def check_trials(eeg_BRCT: np.ndarray, level: Level | None, ch_names: Sequence[str]) -> None:
    """Refuse trials that are constant, or whose level is orders from that of training.

    Parameters
    ----------
    eeg_BRCT
        Finite numbers, as they are given to an encoder.
    level
        Of the encoder's training; None: not known, then only constant trials are refused.

    Raises
    ------
    UserError
        One sentence: the trial, and channel where it is one, both levels and the unit.
    """
    repetitions = eeg_BRCT.shape[1]
    some = max(1, _AT_ONCE // max(1, repetitions))
    for first in range(0, len(eeg_BRCT) if repetitions else 0, some):
        found = _Measured.of(eeg_BRCT[first : first + some].reshape(-1, *eeg_BRCT.shape[2:]))
        if (fault := _first_fault(found, level, ch_names)) is not None:
            row, sentence = fault
            repetition = f", repetition {row % repetitions}," if repetitions > 1 else ""
            raise UserError(f"EEG of trial {first + row // repetitions}{repetition} {sentence}")
    if level is not None and _not_near_one(level) and _zscored_together(eeg_BRCT):
        raise UserError(
            f"EEG is z-scored over its trials (every channel has a standard deviation of 1), the encoder was trained on {level}"
        )


def check_part(loader: Loader, level: Level | None, who: str) -> None:
    """Refuse a part of a study in which the EEG of a subject is orders from what ``who`` was trained on; None: not known, nothing is.

    Raises
    ------
    CommandError
        One sentence: the subject, both levels and the unit.
    """
    if level is None:
        return
    subject_N = loader.subject_of_repetitions
    names = loader.index.signal.ch_names if loader.transform is not None else loader.ch_names
    for subject in np.unique(subject_N):
        found = [_Measured.of(eeg_RCT) for eeg_RCT in _chosen(loader, np.flatnonzero(subject_N == subject), _TRIALS_OF_SUBJECT)]
        typical = _Measured(
            deviation_RC=np.median(np.concatenate([each.deviation_RC for each in found]), axis=0, keepdims=True),
            peak_R=np.median(np.concatenate([each.peak_R for each in found]), keepdims=True),
            zscored_R=np.mean(np.concatenate([each.zscored_R for each in found]), keepdims=True) > 0.5,
            n_times=loader.n_times,
        )
        if (fault := _first_fault(typical, level, names, of=who)) is not None:
            label = loader.index.manifest.tables.subjects[int(subject)]
            raise CommandError(f"{loader.index.root}: EEG of subject {label} {fault[1]}")


def _first_fault(found: _Measured, level: Level | None, ch_names: Sequence[str], of: str = "the encoder") -> tuple[int, str] | None:
    """The first trial that has one and what is wrong with it, to follow its name; None: nothing."""
    deviation_RC, trained = found.deviation_RC, "" if level is None else f"{of} was trained on {level}"
    if level is None or level.median == 0:
        # Trained on single time points, or before levels were written down.
        constant = np.flatnonzero(~deviation_RC.any(axis=1)) if level is None and found.n_times > 1 else np.empty(0, int)
        return (int(constant[0]), "is constant: expected a signal") if len(constant) else None
    own_R, (low, high) = np.median(deviation_RC[:, level.live_C], axis=1), level.bounds()
    least_C, (low_C, high_C) = np.array([each[1] for each in level.channels]), level.channel_bounds()
    odd_RC = np.where(deviation_RC == 0, least_C > 0, (deviation_RC < low_C) | (deviation_RC > high_C))
    faults = {
        "constant": ~deviation_RC.any(axis=1),
        "zscored": found.zscored_R & _not_near_one(level),
        "level": (own_R < low) | (own_R > high),
        "channel": odd_RC.any(axis=1),
        "peak": found.peak_R > _PEAK * level.peak,
    }
    rows = np.flatnonzero(np.any(list(faults.values()), axis=0))
    if not len(rows):
        return None
    row, unit = int(rows[0]), _name(level.unit)
    kind = next(name for name, odd_R in faults.items() if odd_R[row])
    if kind == "constant":
        return row, f"is constant, {trained}"
    if kind == "zscored":
        return row, f"is z-scored (its standard deviation is 1), {trained}"
    if kind == "level":
        return row, f"has a level of {own_R[row]:.3g} (standard deviation over time), {trained}{_as_of(own_R[row], level)}"
    if kind == "peak":
        most = f"{level.peak:.3g} {unit}: expected at most {_PEAK * level.peak:.2g}"
        return row, f"reaches {found.peak_R[row]:.3g} (an offset, or a spike), {of} was trained on at most {most}"
    c = int(np.flatnonzero(odd_RC[row])[0])
    what = f"a level of {deviation_RC[row, c]:.3g}" if deviation_RC[row, c] else "a constant"
    there = f"{of} was trained on {level.channels[c][0]:.3g} {unit} there: expected {low_C[c]:.2g} to {high_C[c]:.2g}"
    return row, f"has {what} in channel {ch_names[c]}, {there}"


def _as_of(own: float, level: Level) -> str:
    """A guess at the unit: a tenth of an order is common between persons, a factor of a thousand is not."""
    if level.unit != "microvolts" or own <= 0:
        return ""
    order = np.log10(own / level.median)
    near = min(_UNITS, key=lambda power: abs(order - power))
    return f" (by the look of it these are {_UNITS[near]}: multiply by 1e{-near})" if abs(order - near) < 1 else ""


def _not_near_one(level: Level) -> bool:
    """Whether a z-score is another scale than the one of training."""
    return level.unit != "zscore" and not 0.4 <= level.median <= 2.5


def _zscored_together(eeg_BRCT: np.ndarray) -> bool:
    if len(eeg_BRCT) < 2 or eeg_BRCT.shape[2] < 2:
        return False
    deviation_C = eeg_BRCT.std(axis=(0, 1, 3), dtype=np.float64)
    return bool(is_scaled(deviation_C, eeg_BRCT.size // eeg_BRCT.shape[2]).all())


def _name(unit: str) -> str:
    return "z-scores" if unit == "zscore" else unit
