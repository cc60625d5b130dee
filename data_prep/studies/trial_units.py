"""The unit of trials whose file does not say it: measured, or stated and held against what is measured.

Shape suffixes: C channels, T time points, B trials.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_prep.contract.errors import StudyError
from data_prep.studies.channels import PLAUSIBLE_MICROVOLTS
from data_prep.studies.continuous import MICROVOLTS

TrialUnit = Literal["zscore", "volts", "millivolts", "microvolts", "nanovolts"]
MOST_MEASURED = 256
"""Trials that are read to measure, spread evenly."""
ZSCORE_DEVIATION = (0.7, 1.4)
"""Deviation from the mean of all trials that a scaled channel has. Narrow bands of EEG can have one microvolt, too, but never in nine
channels of ten."""
STATED_ZSCORE = (0.05, 20.0)
"""The same where the config says that it is scaled."""


def measured_unit(path: Path, read: Callable[[int], np.ndarray], count: int, stated: TrialUnit | None) -> tuple[float, str, dict[str, Any]]:
    """Factor to the study's unit, that unit, and what was measured, for the manifest: ``deviation`` at 5, 50 and 95 % of channels.

    Parameters
    ----------
    read
        Trial by number: (C, T), as it stands in the file.

    Raises
    ------
    StudyError
        Not stated and no z-scores, or a level that the stated unit cannot have.
    """
    rows = np.unique(np.linspace(0, count - 1, min(count, MOST_MEASURED)).astype(int)).tolist()
    found = [trial_CT for trial_CT in (np.asarray(read(row), np.float64) for row in rows) if np.isfinite(trial_CT).all()]
    if not found:
        raise StudyError(f"{path}: not one of {len(rows)} measured trials has finite numbers alone, expected a number everywhere")
    level, deviation_C, offset = _measure(found)
    low, deviation, high = (float(f"{value:.3g}") for value in np.quantile(deviation_C, (0.05, 0.5, 0.95)))
    facts = {
        "level": float(f"{level:.3g}"),
        "deviation": [low, deviation, high],
        "offset": float(f"{offset:.3g}"),
        "trials_measured": len(found),
    }
    said = f"its trials have a level of {level:.3g} (standard deviation over time, median of {len(found)} trials)"
    if stated is None:
        if not (ZSCORE_DEVIATION[0] <= low and high <= ZSCORE_DEVIATION[1] and abs(offset) < 0.5):
            fitting = [u for u, factor in MICROVOLTS.items() if PLAUSIBLE_MICROVOLTS[0] <= level * factor <= PLAUSIBLE_MICROVOLTS[1]]
            hint = f", as {' or '.join(fitting)} would have" if fitting else ""
            raise StudyError(f"{path}: {said}, which are no z-scores{hint}: say the reader's field unit")
        return 1.0, "zscore", {"unit": "measured: z-scores", **facts}
    if stated == "zscore":
        if not STATED_ZSCORE[0] <= deviation <= STATED_ZSCORE[1]:
            raise StudyError(f"{path}: {said}, unit is zscore: expected one near 1")
        return 1.0, "zscore", {"unit": "stated: z-scores", **facts}
    if not PLAUSIBLE_MICROVOLTS[0] <= level * MICROVOLTS[stated] <= PLAUSIBLE_MICROVOLTS[1]:
        others = [u for u, factor in MICROVOLTS.items() if PLAUSIBLE_MICROVOLTS[0] <= level * factor <= PLAUSIBLE_MICROVOLTS[1]]
        hint = f"unit {' or '.join(others)} would give such a level" if others else "no unit gives such a level"
        low, high = PLAUSIBLE_MICROVOLTS
        raise StudyError(f"{path}: {said}, as {stated} {level * MICROVOLTS[stated]:.3g} µV, expected {low:g} to {high:g} µV: {hint}")
    return MICROVOLTS[stated], "microvolts", {"unit": f"stated: {stated}", **facts}


def _measure(trials_BCT: list[np.ndarray]) -> tuple[float, np.ndarray, float]:
    """Level within a trial, median over trials and channels; each channel's deviation from its mean over all of them; the median mean."""
    level = float(np.median([trial_CT.std(axis=1) for trial_CT in trials_BCT]))
    mean_C = np.mean([trial_CT.mean(axis=1) for trial_CT in trials_BCT], axis=0)
    square_C = np.mean([(trial_CT**2).mean(axis=1) for trial_CT in trials_BCT], axis=0)
    return level, np.sqrt(np.maximum(square_C - mean_C**2, 0)), float(np.median(mean_C))
