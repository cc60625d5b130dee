"""A few trials of every part of a study, looked at before any is written: what would be refused at the end is refused at once.

Shape suffixes: R repetitions, C channels, T time points.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from data_prep.contract.progress import tracked
from data_prep.measure.electrodes import bridged_pairs
from data_prep.measure.padding import padded_in_time
from data_prep.measure.trials import MEASURED_DTYPE, measure_trials
from data_prep.shards.measuring import MeasureConfig, keep_trials
from data_prep.shards.parts import StudyParts
from data_prep.studies.base import Source

SAMPLES_A_PART = 8
"""Samples, at even distances, that are looked at."""
_REPETITIONS = 4
"""... and repetitions of each, for the pairs of channels."""


@dataclass(frozen=True, kw_only=True)
class Early:
    """What a few trials of each part say."""

    rows: np.ndarray
    """:data:`MEASURED_DTYPE`."""
    channel_std: dict[int, np.ndarray]
    """Part -> standard deviation of each channel over its trials (C,)."""
    trials: dict[int, int]
    """Subject -> trials that were looked at, padding aside."""
    flat: dict[int, np.ndarray]
    """Subject -> in how many of them each channel does not move (C,)."""
    padded: dict[int, int]
    """Subject -> trials of them whose beginning or end stands still in every channel."""
    bridged: dict[int, dict[tuple[int, int], float]]
    """Subject -> pairs of channels that are one signal, and in which share of the trials; where the reader has seen no raw signal."""


def look(source: Source, parts: StudyParts) -> Early:
    """Read at most :data:`SAMPLES_A_PART` samples of each part, in their order."""
    rows: list[np.ndarray] = [np.zeros(0, MEASURED_DTYPE)]
    power: dict[int, list[np.ndarray]] = defaultdict(list)
    trials: dict[int, int] = defaultdict(int)
    flat: dict[int, np.ndarray] = {}
    padded: dict[int, int] = defaultdict(int)
    raw: dict[int, list[np.ndarray]] = defaultdict(list)
    expected = source.facts.n_chans, source.facts.n_times
    for i in tracked(_chosen(source, parts), "samples looked at"):
        plan, eeg_RCT = source.samples[i], source.eeg(i)
        if eeg_RCT.shape != (plan.n_reps, *expected):
            continue  # refused by name when it is written
        measured = measure_trials(eeg_RCT, i, source.facts.masked_channels(plan.recording))
        kept = keep_trials(plan, eeg_RCT, measured, MeasureConfig(drop=("flat",)))
        trials[plan.subject] += plan.n_reps - sum(kept.lost.values()) + kept.lost["flat"]
        flat[plan.subject] = flat.get(plan.subject, 0) + kept.flat_C
        padded[plan.subject] += int(padded_in_time(kept.eeg_RCT).sum())
        finite_R = np.isfinite(kept.std_RC).all(1)
        rows.append(kept.rows[finite_R])
        if source.facts.bridged is None:
            raw[plan.subject].append(kept.eeg_RCT[finite_R][:_REPETITIONS].astype(np.float32))
        for row, std_C in zip(kept.rows[finite_R], kept.std_RC[finite_R], strict=True):
            power[parts.of(i, int(row["repetition"]))].append(std_C.astype(np.float64) ** 2)
    return Early(
        rows=np.concatenate(rows),
        channel_std={part: np.sqrt(np.mean(squares, axis=0)) for part, squares in power.items()},
        trials=dict(trials),
        flat=flat,
        padded=dict(padded),
        bridged={subject: bridged_pairs(np.concatenate(trials_BCT)) for subject, trials_BCT in raw.items()},
    )


def _chosen(source: Source, parts: StudyParts) -> list[int]:
    """Samples by the part of their first repetition: the first, the last, and those at even distances between them."""
    of_part: dict[int, list[int]] = defaultdict(list)
    for i in range(len(source.samples)):
        of_part[parts.of(i, 0)].append(i)
    return sorted(set(_spread(of_part)))


def _spread(of_part: dict[int, list[int]]) -> Iterator[int]:
    for samples in of_part.values():
        for place in np.unique(np.linspace(0, len(samples) - 1, num=min(SAMPLES_A_PART, len(samples))).astype(int)):
            yield samples[int(place)]
