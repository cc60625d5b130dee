"""What a raw signal, before any filter, says of its electrodes: dead, stuck, railed and bridged ones, by trial.

A filter hides all of it: it gives a dead electrode the movement of its neighbours in time, and rounds the edges of a clipped one.

Shape suffixes: B trials, C channels, T time points.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

STUCK_SECONDS = 0.1
"""EEG moves within a tenth of a second, its alpha waves through a whole period; a digitised value stays only where nothing arrives."""
STUCK_POINTS = 8
"""... and at low rates it takes so many points to tell that from a coarse step."""
RAILED_SECONDS = 0.02
RAILED_POINTS = 5
"""A peak may hold two or three coarse points; a clipped one is a plateau."""
BRIDGED = 0.05
"""Standard deviation of the difference of two channels over the larger of theirs, high-passed: 0.05 is a correlation of 0.9988. Gel that
joins two electrodes leaves them the amplifier's noise; neighbours of a cap of 128 differ by 0.15 and more."""
BRIDGED_SHARE = 0.5
"""Share of trials in which a pair must be that near (Alschuler et al. 2014; MNE's ``epoch_threshold``)."""
BRIDGED_TRIALS = 64
"""Trials of a recording, at even distances, that tell it."""
_SHARED_CHANNELS = 4
"""Channels from which on their mean is the reference's own movement rather than theirs."""


@dataclass(frozen=True, kw_only=True)
class RawFaults:
    """Trials with a fault in any channel."""

    flat_B: np.ndarray
    """A channel does not move at all."""
    stuck_B: np.ndarray
    """A channel keeps one value for :data:`STUCK_SECONDS`, not at its limit."""
    railed_B: np.ndarray
    """A channel stays at the recording's lowest or highest value, or beyond a stated limit."""


def raw_faults(raw_BCT: np.ndarray, sfreq: float, lowest_C: np.ndarray, highest_C: np.ndarray, limit: float | None = None) -> RawFaults:
    """Faults of the raw trials of one recording.

    Parameters
    ----------
    lowest_C, highest_C
        Extreme values of each channel in the whole recording, in ``raw_BCT``'s dtype.
    limit
        The amplifier's, where it is known: a single point that reaches it, up or down, is railed.
    """
    if not len(raw_BCT):
        none: np.ndarray = np.zeros(0, bool)
        return RawFaults(flat_B=none, stuck_B=none, railed_B=none)
    same_BCT = raw_BCT[..., 1:] == raw_BCT[..., :-1]
    flat_BC = same_BCT.all(-1)
    ends_BCT = (raw_BCT == lowest_C[:, None]) | (raw_BCT == highest_C[:, None])
    stuck_points = max(round(STUCK_SECONDS * sfreq), STUCK_POINTS)
    # A run of n equal values is a run of n - 1 steps of nothing.
    stuck_BC = _has_run(same_BCT & ~ends_BCT[..., 1:], stuck_points - 1)
    railed_BC = _has_run(same_BCT & ends_BCT[..., 1:], max(round(RAILED_SECONDS * sfreq), RAILED_POINTS) - 1)
    if limit is not None:
        railed_BC |= np.abs(raw_BCT).max(-1) >= limit
    return RawFaults(flat_B=flat_BC.any(1), stuck_B=(stuck_BC & ~flat_BC).any(1), railed_B=(railed_BC & ~flat_BC).any(1))


def _has_run(hit_T: np.ndarray, points: int) -> np.ndarray:
    """Whether so many True stand side by side on the last axis."""
    if hit_T.shape[-1] < points:
        return np.zeros(hit_T.shape[:-1], bool)
    count_T = np.cumsum(hit_T, axis=-1, dtype=np.int32)
    before_T = np.concatenate([np.zeros((*hit_T.shape[:-1], 1), np.int32), count_T[..., :-points]], axis=-1)
    found: np.ndarray = (count_T[..., points - 1 :] - before_T == points).any(-1)
    return found


def bridged_pairs(trials_BCT: np.ndarray) -> dict[tuple[int, int], float]:
    """Pairs of channels (rows of C) that are one signal in at least half of the trials -> in which share of them.

    Neighbouring points are subtracted first, and then what all channels share, so that neither a drift nor the hum of a reference makes a
    pair.
    """
    if not len(trials_BCT) or trials_BCT.shape[2] < 8:
        return {}
    n_chans = trials_BCT.shape[1]
    count_CC = np.zeros((n_chans, n_chans))
    for trial_CT in trials_BCT:
        step_CT = np.diff(trial_CT.astype(np.float64), axis=-1)
        if n_chans >= _SHARED_CHANNELS:
            step_CT -= step_CT.mean(0)
        step_CT -= step_CT.mean(-1, keepdims=True)
        power_C = (step_CT**2).mean(-1)
        apart_CC = np.maximum(np.add.outer(power_C, power_C) - 2 * (step_CT @ step_CT.T) / step_CT.shape[-1], 0.0)
        larger_CC = np.maximum.outer(power_C, power_C)
        count_CC += (larger_CC > 0) & (apart_CC < BRIDGED**2 * larger_CC)
    share_CC = count_CC / len(trials_BCT)
    return {(i, j): float(share_CC[i, j]) for i, j in itertools.combinations(range(len(share_CC)), 2) if share_CC[i, j] >= BRIDGED_SHARE}
