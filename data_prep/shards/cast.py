"""EEG in the dtype that a study stores, refused where that would lose what matters."""

from __future__ import annotations

import numpy as np

from data_prep.contract.errors import StudyError
from data_prep.studies.base import SamplePlan, StudyFacts

MAX_ROUNDING = 0.01
"""Largest rounding error (root mean square) of a channel as a fraction of its standard deviation within trials."""


def cast_eeg(eeg_RCT: np.ndarray, dtype: np.dtype, plan: SamplePlan, facts: StudyFacts) -> np.ndarray:
    """EEG of one sample in the study's dtype, refused where the cast would lose what matters.

    Parameters
    ----------
    eeg_RCT
        (n_reps, n_chans, n_times) in ``facts.unit``.

    Raises
    ------
    StudyError
        Wrong shape, values not finite (before or after the cast), a constant channel, or a rounding error above
        :data:`MAX_ROUNDING` of a channel's standard deviation within trials.
    """
    expected = (plan.n_reps, facts.n_chans, facts.n_times)
    if eeg_RCT.shape != expected:
        raise StudyError(f"sample {plan.key}: EEG has shape {eeg_RCT.shape}, expected {expected} (n_reps, n_chans, n_times)")
    eeg = np.asarray(eeg_RCT, dtype=np.float64)
    with np.errstate(over="ignore"):
        cast = np.ascontiguousarray(eeg_RCT, dtype=dtype)
    bad_C = ~np.isfinite(cast).all(axis=(0, 2))
    if bad_C.any():
        name = facts.ch_names[int(bad_C.argmax())]
        kind = f"values beyond the range of {dtype.name}" if np.isfinite(eeg).all() else "values that are not finite"
        raise StudyError(f"sample {plan.key}: channel {name} has {kind}, expected finite {facts.unit}")
    within = eeg - eeg.mean(axis=2, keepdims=True)
    std_C = np.sqrt((within**2).mean(axis=(0, 2)))
    constant_C = np.ptp(eeg, axis=(0, 2)) == 0
    if constant_C.any():
        name = facts.ch_names[int(constant_C.argmax())]
        raise StudyError(f"sample {plan.key}: channel {name} is constant, expected a signal: drop the channel or the trial")
    error_C = np.sqrt(((cast - eeg) ** 2).mean(axis=(0, 2)))
    coarse_C = error_C > MAX_ROUNDING * std_C
    if coarse_C.any():
        worst = int(coarse_C.argmax())
        share = error_C[worst] / std_C[worst] if std_C[worst] else np.inf
        raise StudyError(
            f"sample {plan.key}: rounding channel {facts.ch_names[worst]} to {dtype.name} loses {share:.1%} of its standard deviation, "
            f"expected at most {MAX_ROUNDING:.0%}: high-pass first, or write eeg_dtype float32"
        )
    return cast
