"""Levels: how large EEG is, which unit that suggests, and whether the parts of a study can be of one unit.

Volts, millivolts and microvolts are a thousand apart. People, caps and references differ by a factor of five, a filter by ten: no two
parts of a study, measured alike, lie a hundred apart for any other reason than their unit (or an amplifier that records nothing).

Shape suffixes: R repetitions, C channels, T time points, G groups.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

PLAUSIBLE_MICROVOLTS = (0.2, 2_000.0)
"""Standard deviation within a second, median over channels and time, that scalp EEG can have, from a quiet to an unfiltered one."""
USUAL_MICROVOLTS = 15.0
MICROVOLTS = {"volts": 1e6, "millivolts": 1e3, "microvolts": 1.0, "nanovolts": 1e-3}
"""How many microvolts one of a unit is."""
LEAST_ZSCORE = 0.01
"""What was divided by a standard deviation is not so small, whatever was averaged afterwards."""
MOST_ZSCORE = 5.0
"""Above, numbers that are called z-scores look like microvolts."""
APART = 100.0
"""Factor between two parts of a study that a unit alone explains."""
UNCLEAR = 10.0
"""Factor from which on it is not clear what explains it."""
DIFFERENT = 3.0
"""Factor that is worth a word."""
ZSCORED = (0.8, 1.25)
"""Standard deviation of every channel over all of a part's trials that says that somebody divided by it."""
ZSCORED_CHANNELS = 3
"""... in at least so many channels."""
FEWEST_TRIALS = 3
"""Trials that a level needs, so that one artefact makes none."""


def trial_levels(eeg_RCT: np.ndarray) -> np.ndarray:
    """Level of each trial: median over channels of the standard deviation over time; float32 (R,)."""
    level_R: np.ndarray = np.median(eeg_RCT.std(-1, dtype=np.float64), axis=1).astype(np.float32)
    return level_R


@dataclass(frozen=True, kw_only=True)
class Level:
    """Level of one part of a study."""

    level: float
    """Median over its trials, in the unit of the numbers."""
    trials: int
    zscored: bool = False
    """Whether every channel has a standard deviation of 1 over these trials."""


def level_of(level_N: np.ndarray, channel_std_C: np.ndarray | None = None) -> Level:
    """Level of a part of a study.

    Parameters
    ----------
    level_N
        :func:`trial_levels` of its trials.
    channel_std_C
        Standard deviation of each channel over all of its trials; None: not measured.
    """
    zscored = False
    if channel_std_C is not None and len(channel_std_C) >= ZSCORED_CHANNELS:
        zscored = bool(ZSCORED[0] <= channel_std_C.min() and channel_std_C.max() <= ZSCORED[1])
    return Level(level=float(np.median(level_N)), trials=len(level_N), zscored=zscored)


def looks_like(level: float, *, zscored: bool = False) -> str | None:
    """Unit in which numbers of this level would be EEG, the likeliest; None: in no unit."""
    if zscored:
        return "zscore"
    suits = [unit for unit, factor in MICROVOLTS.items() if PLAUSIBLE_MICROVOLTS[0] <= level * factor <= PLAUSIBLE_MICROVOLTS[1]]
    return min(suits, key=lambda unit: abs(np.log(level * MICROVOLTS[unit] / USUAL_MICROVOLTS)), default=None)


def is_plausible(level: float, unit: str) -> bool:
    """Whether EEG in ``microvolts`` or ``zscore`` can have this level."""
    return level >= LEAST_ZSCORE if unit == "zscore" else PLAUSIBLE_MICROVOLTS[0] <= level <= PLAUSIBLE_MICROVOLTS[1]


@dataclass(frozen=True, kw_only=True)
class Apart:
    """The two parts of a study that lie farthest apart."""

    low: str
    high: str
    factor: float
    one_unit: bool
    """Whether one unit can explain both."""


def farthest(levels: Mapping[str, Level]) -> Apart | None:
    """The lowest and the highest level of the parts that have enough trials; None: fewer than two have."""
    known = {name: level for name, level in levels.items() if level.trials >= FEWEST_TRIALS and level.level > 0}
    if len(known) < 2:
        return None
    low, high = (pick(known, key=lambda name: known[name].level) for pick in (min, max))
    factor = known[high].level / known[low].level
    # Microvolts of single trials and z-scores lie between five and fifty apart: told by what z-scores alone have.
    mixed = known[low].zscored and not known[high].zscored and factor > MOST_ZSCORE
    return Apart(low=low, high=high, factor=factor, one_unit=factor < APART and not mixed)
