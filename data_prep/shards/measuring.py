"""What becomes of the trials that a reader gives: measured, and those that are none left out before anything is stored.

Shape suffixes: R repetitions, C channels, T time points.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from data_prep.measure.trials import Measured
from data_prep.studies.base import SamplePlan

Refusal = Literal["level", "levels_apart", "flat_channel", "equal_trials"]
"""What a study is refused for, unless it is allowed."""


@dataclass(frozen=True, kw_only=True)
class MeasureConfig:
    """What is measured of a study while it is written; ``check`` tells it without writing."""

    allow: tuple[Refusal, ...] = ()
    """What is known of these data and no reason to refuse them: ``level`` (one that EEG in this unit cannot have), ``levels_apart``
    (one part's a hundred times another's), ``flat_channel`` (a channel that does not move in most trials of a subject),
    ``equal_trials`` (trials of one content). It is written in the manifest all the same, and the audit says it."""
    drop: tuple[Literal["equal_trials", "flat"], ...] = ()
    """What is left out, and counted, instead of being refused: ``equal_trials``, of each group all but the first (all EEG is read once
    more, beforehand), and ``flat``, samples of which every trial has a channel that does not move."""

    def __post_init__(self) -> None:
        both = sorted({*self.allow} & {*self.drop})
        if both:
            raise ValueError(f"measure.allow and measure.drop both have {both[0]}, expected one of the two")


@dataclass(frozen=True, kw_only=True)
class Trials:
    """What stays of one sample."""

    plan: SamplePlan | None
    """Of the repetitions that stay; None: none does."""
    eeg_RCT: np.ndarray
    rows: np.ndarray
    """:data:`data_prep.measure.trials.MEASURED_DTYPE` of each."""
    lost: Counter[str]
    """Repetitions that do not, by reason: ``nan``, ``zeros``, ``constant``, ``repeated``, ``flat``, ``equal_trials``."""
    std_RC: np.ndarray
    """Standard deviation of every channel of those that stay."""
    lowest_RC: np.ndarray
    """Smallest value of every channel of those that stay."""
    highest_RC: np.ndarray
    flat_C: np.ndarray
    """In how many trials, padding aside, each channel does not move."""


def keep_trials(plan: SamplePlan, eeg_RCT: np.ndarray, measured: Measured, config: MeasureConfig, twins: Collection[int] = ()) -> Trials:
    """Leave padding, dead channels and ``twins`` (repetitions that equal other trials) out of a sample that was measured.

    A sample of several trials that all have a dead channel is left to whoever stores it, who refuses it by name.
    """
    lost = Counter[str]()
    if not (twins or measured.flat_RC.any() or any(measured.padding)):
        return Trials(
            plan=plan,
            eeg_RCT=eeg_RCT,
            rows=measured.rows,
            lost=lost,
            std_RC=measured.std_RC,
            lowest_RC=measured.lowest_RC,
            highest_RC=measured.highest_RC,
            flat_C=np.zeros(eeg_RCT.shape[1], int),
        )
    keep_R = np.ones(len(eeg_RCT), bool)
    for r, padding in enumerate(measured.padding):
        if padding is not None:
            keep_R[r] = False
            lost[padding] += 1
    flat_R = measured.flat_RC.any(1) & keep_R
    flat_C = measured.flat_RC[keep_R].sum(0)
    if flat_R.any() and ("flat" in config.drop or len(flat_R) == 1 or not flat_R[keep_R].all()):
        keep_R &= ~flat_R
        lost["flat"] += int(flat_R.sum())
    for r in twins:
        if keep_R[r]:
            keep_R[r] = False
            lost["equal_trials"] += 1
    kept = plan if keep_R.all() else only(plan, np.flatnonzero(keep_R).tolist()) if keep_R.any() else None
    return Trials(
        plan=kept,
        eeg_RCT=eeg_RCT if keep_R.all() else eeg_RCT[keep_R],
        rows=measured.rows[keep_R],
        lost=lost,
        std_RC=measured.std_RC[keep_R],
        lowest_RC=measured.lowest_RC[keep_R],
        highest_RC=measured.highest_RC[keep_R],
        flat_C=flat_C,
    )


def only(plan: SamplePlan, repetitions: list[int]) -> SamplePlan:
    """A sample of these of its repetitions: all that it lists by repetition goes with them."""
    lists: dict[str, Any] = {name: [value[r] for r in repetitions] for name, value in vars(plan).items() if isinstance(value, list)}
    return replace(plan, n_reps=len(repetitions), **lists)
