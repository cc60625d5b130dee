"""EEG in the dtype that a study stores, refused where that would lose what matters."""

from __future__ import annotations

import numpy as np

from data_prep.contract.errors import StudyError
from data_prep.shards.measuring import Trials
from data_prep.studies.base import SamplePlan, StudyFacts

MAX_ROUNDING = 0.01
"""Largest rounding error (root mean square) of a channel as a fraction of its standard deviation within trials."""
_SURELY = 0.9
"""Share of it that the largest rounding of any value may have: what was measured in float32 is not off by as much as the rest."""


def cast_eeg(kept: Trials, plan: SamplePlan, dtype: np.dtype, facts: StudyFacts) -> np.ndarray:
    """EEG of one sample in the study's dtype, (n_reps, n_chans, n_times), refused where the cast would lose what matters.

    Parameters
    ----------
    kept
        Its trials in ``facts.unit``, as they were measured.
    plan
        Of these trials.

    Raises
    ------
    StudyError
        Wrong shape, values not finite (before or after the cast), a constant channel, or a rounding error above
        :data:`MAX_ROUNDING` of a channel's standard deviation within trials.
    """
    eeg_RCT = kept.eeg_RCT
    expected = (plan.n_reps, facts.n_chans, facts.n_times)
    if eeg_RCT.shape != expected:
        raise StudyError(f"sample {plan.key}: EEG has shape {eeg_RCT.shape}, expected {expected} (n_reps, n_chans, n_times)")
    with np.errstate(over="ignore"):
        cast = np.ascontiguousarray(eeg_RCT, dtype=dtype)
        # A cast keeps the order of values: what becomes infinite is a channel's lowest or highest.
        bad_C = ~(np.isfinite(kept.lowest_RC.astype(dtype)) & np.isfinite(kept.highest_RC.astype(dtype))).all(0)
    if bad_C.any():
        name = facts.ch_names[int(bad_C.argmax())]
        kind = f"values beyond the range of {dtype.name}" if np.isfinite(eeg_RCT).all() else "values that are not finite"
        raise StudyError(f"sample {plan.key}: channel {name} has {kind}, expected finite {facts.unit}")
    constant_C = kept.lowest_RC.min(0) == kept.highest_RC.max(0)
    masked_RC = facts.masked_channels(plan.recording)
    if masked_RC is not None:
        constant_C &= ~masked_RC.any(0)
    if constant_C.any():
        name = facts.ch_names[int(constant_C.argmax())]
        raise StudyError(f"sample {plan.key}: channel {name} is constant, expected a signal: drop the channel or the trial")
    if cast.dtype == eeg_RCT.dtype:
        return cast
    if _surely_fine(kept, dtype):
        return cast
    std_C, error_C = _std_and_error(eeg_RCT, cast)
    coarse_C = error_C > MAX_ROUNDING * std_C
    if coarse_C.any():
        worst = int(coarse_C.argmax())
        share = error_C[worst] / std_C[worst] if std_C[worst] else np.inf
        raise StudyError(
            f"sample {plan.key}: rounding channel {facts.ch_names[worst]} to {dtype.name} loses {share:.1%} of its standard deviation, "
            f"expected at most {MAX_ROUNDING:.0%}: high-pass first, or write eeg_dtype float32"
        )
    return cast


def _surely_fine(kept: Trials, dtype: np.dtype) -> bool:
    """Whether every channel is so small beside its standard deviation that no value is rounded by a share that matters."""
    facts = np.finfo(dtype)
    largest_C = np.maximum(np.abs(kept.lowest_RC), np.abs(kept.highest_RC)).max(0).astype(np.float64)
    error_C = largest_C * float(facts.eps) / 2 + float(facts.smallest_subnormal) / 2
    std_C = np.sqrt((kept.std_RC.astype(np.float64) ** 2).mean(0))
    return bool((error_C <= _SURELY * MAX_ROUNDING * std_C).all())


def _std_and_error(eeg_RCT: np.ndarray, cast_RCT: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Standard deviation of each channel within trials, and root mean square of what the cast changes: (C,), (C,)."""
    power_C, error_C = np.zeros(eeg_RCT.shape[1]), np.zeros(eeg_RCT.shape[1])
    for given_CT, stored_CT in zip(eeg_RCT, cast_RCT, strict=True):  # one at a time, in float64: all at once leave the processor's caches
        eeg_CT = np.asarray(given_CT, np.float64)
        apart_CT = stored_CT - eeg_CT
        within_CT = eeg_CT - eeg_CT.mean(axis=1, keepdims=True)
        power_C += np.einsum("ct,ct->c", within_CT, within_CT)
        error_C += np.einsum("ct,ct->c", apart_CT, apart_CT)
    count = eeg_RCT.shape[0] * eeg_RCT.shape[2]
    return np.sqrt(power_C / count), np.sqrt(error_C / count)
