"""Equal content, however it is named: sixteen bytes a trial that survive another unit, offset, precision or order of channels.

A signature is eight random projections of what all channels do together from point to point: the steps between neighbouring points,
each channel's brought to mean 0 and standard deviation 1, squared and summed over channels, once as they are and once with their sign;
both courses are brought to mean 0 and standard deviation 1. Units are 1/512. A copy in volts, with a constant added, z-scored by
channel, rounded to float16 or with its channels under each other's names has the same one within a few units. Two trials agree in all
eight by chance once in 10^15 pairs, those whose courses correlate at 0.9 once in 10^11; that a pair is one is then seen by fitting one
trial to the other (:func:`is_copy`).

Shape suffixes: R repetitions, C channels, T time points, K points that are looked at, N trials, P projections, U signatures that differ.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

PROJECTIONS = 8
STEPS = 512
TOLERANCE = 12
"""Units by which each projection of a copy may differ: 0.023 of a standard deviation; rounding to float16 moves it by 0.01 at most."""
VALUES = 1024
"""Steps of a trial that are looked at; a copy has all of them in common."""
FEWEST_POINTS = 32
"""... and points, however many channels there are: the same of all, so that it does not matter which is called what."""
FEWEST_VALUES = 64
"""Channels times points below which eight projections do not tell trials apart."""
_SEED = 20_240_607
_FLOAT16 = 2.0**-11
"""Largest relative error of a number in float16."""
_LEFT = 1e-3
"""Share of a channel's standard deviation that a copy may differ by beside float16's rounding: text files have four digits."""


def signatures(eeg_RCT: np.ndarray) -> np.ndarray:
    """int16 (R, 8); zeros, which equal nothing, where a trial is too short, or no channel moves."""
    n_reps, n_chans, n_times = eeg_RCT.shape
    found_RP = np.zeros((n_reps, PROJECTIONS), np.int16)
    if n_chans * (n_times - 1) < FEWEST_VALUES:
        return found_RP
    points_K, directions_2KP = _probes(n_chans, n_times)
    # Sums by einsum come out the same on any number of threads, so that shards keep their bytes.
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        step_RCK = np.subtract(eeg_RCT[..., points_K + 1], eeg_RCT[..., points_K], dtype=np.float64)
        unit_RCK = _to_unit(step_RCK)
        unit_RCK[~np.isfinite(unit_RCK)] = 0.0
        course_R2K = np.stack([np.einsum("rck,rck->rk", unit_RCK, each) for each in (unit_RCK, np.abs(unit_RCK))], axis=1)
        projected_RP = np.einsum("rsk,skp->rp", _to_unit(course_R2K), directions_2KP) / np.sqrt(2 * len(points_K))
    found_RP[:] = np.clip(np.rint(np.where(np.isfinite(projected_RP), projected_RP, 0.0) * STEPS), -32_000, 32_000)
    return found_RP


def _to_unit(values_xxK: np.ndarray) -> np.ndarray:
    """Mean 0 and standard deviation 1 on the last axis; not finite where nothing moves."""
    n = values_xxK.shape[-1]
    values_xxK = values_xxK - np.einsum("xyk->xy", values_xxK)[..., None] / n
    values_xxK *= np.sqrt(n / np.einsum("xyk,xyk->xy", values_xxK, values_xxK))[..., None]
    return values_xxK


@functools.lru_cache(maxsize=2)
def _probes(n_chans: int, n_times: int) -> tuple[np.ndarray, np.ndarray]:
    """Time points that are looked at (K,), and projections of the two courses there (2, K, P)."""
    random = np.random.RandomState(_SEED)
    count = min(max(VALUES // n_chans, FEWEST_POINTS), n_times - 1)
    points_K = np.sort(random.permutation(n_times - 1)[:count])
    return points_K, random.standard_normal((2, count, PROJECTIONS))


@dataclass(frozen=True, kw_only=True)
class EqualTrials:
    """Trials that have a twin."""

    trial: np.ndarray
    """int64 (n,), rows of the signatures, increasing."""
    twin: np.ndarray
    """int64 (n,): for each a trial of the same content; the first of them, where there are several."""


def equal_trials(signature_NP: np.ndarray) -> EqualTrials:
    """All trials whose signature another one has, within the tolerance; those that have none (zeros) are passed over."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    known_N = np.flatnonzero(signature_NP.any(1))
    unique_UP, unique_N = np.unique(signature_NP[known_N], axis=0, return_inverse=True)
    near_U = np.arange(len(unique_UP))
    if len(unique_UP) > 1:
        points_UP = unique_UP.astype(np.float64)
        _, nearest_U2 = cKDTree(points_UP).query(points_UP, k=2, p=np.inf, distance_upper_bound=TOLERANCE + 0.5)
        # The nearest of a point is the point; where there is no other within the bound, SciPy gives the number of points.
        near_U = np.where(nearest_U2[:, 1] < len(unique_UP), nearest_U2[:, 1], near_U)
    edges = coo_array((np.ones(len(near_U), bool), (np.arange(len(near_U)), near_U)), shape=(len(near_U), len(near_U)))
    label_N = connected_components(edges, directed=False)[1][unique_N.reshape(-1)]
    order_N = np.argsort(label_N, kind="stable")
    starts_G = np.flatnonzero(np.diff(label_N[order_N], prepend=-1))
    size_G = np.diff(starts_G, append=len(order_N))
    trial, twin = [], []
    for start, size in zip(starts_G[size_G > 1].tolist(), size_G[size_G > 1].tolist(), strict=True):
        members = known_N[order_N[start : start + size]]
        trial.append(members)
        twin.append(np.concatenate([members[1:2], np.repeat(members[0], size - 1)]))
    if not trial:
        return EqualTrials(trial=np.zeros(0, np.int64), twin=np.zeros(0, np.int64))
    joined, twins = np.concatenate(trial), np.concatenate(twin)
    by_trial = np.argsort(joined)
    return EqualTrials(trial=joined[by_trial], twin=twins[by_trial])


def is_copy(one_CT: np.ndarray, other_CT: np.ndarray) -> bool:
    """Whether two trials are one signal but for a factor and a constant by channel, the order of channels, and rounding.

    Signatures of trials that hold little beside the line's 50 Hz may agree; what is left of one trial after the other was fitted to it
    tells: of a copy, its rounding alone. Channels are paired as they stand, or else by their likeness.
    """
    one, other = (np.asarray(eeg_CT, np.float64) for eeg_CT in (one_CT, other_CT))
    rounding, their_rounding = (_FLOAT16 * np.abs(eeg_CT).max(-1) / np.maximum(eeg_CT.std(-1), 1e-300) for eeg_CT in (one, other))
    one, other = one - one.mean(-1, keepdims=True), other - other.mean(-1, keepdims=True)
    power_C, theirs_C = (one**2).sum(-1), (other**2).sum(-1)
    moving, theirs = np.flatnonzero(power_C > 0), np.flatnonzero(theirs_C > 0)
    if not len(moving) or len(moving) != len(theirs):
        return False
    alike_CC = (one[moving] @ other[theirs].T) ** 2 / np.outer(power_C[moving], theirs_C[theirs])
    left_CC = np.sqrt(np.maximum(1 - alike_CC, 0.0))
    most_CC = _LEFT + rounding[moving][:, None] + their_rounding[theirs]
    return bool((np.diag(left_CC) <= np.diag(most_CC)).all()) or _can_be_paired(left_CC <= most_CC)


def _can_be_paired(equal_CC: np.ndarray) -> bool:
    """Whether every channel has one of the other's for itself."""
    from scipy.optimize import linear_sum_assignment

    return bool(equal_CC[linear_sum_assignment(~equal_CC)].all())
