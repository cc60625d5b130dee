"""The signal of cut trials as a study keeps it: finite, at a level that its unit can have, cropped, resampled, scaled.

Shape suffixes: B trials, C channels, T time points.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from data_prep.contract import signals
from data_prep.contract.errors import StudyError, UserError
from data_prep.contract.words import listed, short
from data_prep.studies import trials
from data_prep.studies.channels import check_level
from data_prep.studies.continuous import MICROVOLTS
from data_prep.studies.cut_files import CutUnit, electric
from data_prep.studies.laid_trials import LaidTrials
from data_prep.studies.trials import TrialFacts, TrialsConfig

Zscore = Literal["source", "trial"]
ZSCORE_LEVEL = (0.02, 30.0)
"""Standard deviation within a trial that z-scores can have, median over channels and trials."""
_BLOCK_VALUES = 2**22
_LOOKED_AT = 64
"""Trials of a recording by which its level is measured."""
_FEMTO = 1e15


@dataclass(frozen=True, kw_only=True)
class CutSignal:
    """Chosen channels of a file, read block by block."""

    file: Path
    read: Callable[[Sequence[int], Sequence[int]], np.ndarray]
    """As of :class:`data_prep.studies.cut_files.CutFile`."""
    laid: LaidTrials | None
    """As of :class:`data_prep.studies.cut_files.CutFile`."""
    source: TrialFacts
    """Of a trial as it is read; the channels' names are ours, in the study's order."""
    picks: Sequence[int]
    """Rows of the file's channels, in that order."""
    unit: CutUnit
    """Of the numbers in the file."""
    trials: TrialsConfig
    zscore: Zscore | None

    def level(self, rows: Sequence[int]) -> np.ndarray:
        """Median over some trials of every channel's standard deviation within one (C,).

        Raises
        ------
        StudyError
            A level that neither EEG nor z-scores have; a channel that never moves.
        """
        looked = [rows[i] for i in np.unique(np.linspace(0, len(rows) - 1, min(_LOOKED_AT, len(rows))).astype(int))]
        # Trial by trial, near the processor.
        trials_BCT = [trial_CT for block in self._blocks(looked) for trial_CT in self._numbers(block)]
        still_C = np.all([np.ptp(trial_CT, axis=1) == 0 for trial_CT in trials_BCT], axis=0)
        if still_C.any():
            still = [name for name, constant in zip(self.source.ch_names, still_C, strict=True) if constant]
            raise StudyError(
                f"{self.file}: channel {listed(still)} is constant in all {len(looked)} trials looked at: leave it out with channels.drop"
            )
        level_C: np.ndarray = np.median([trial_CT.std(1) for trial_CT in trials_BCT], axis=0)
        self._check_level(float(np.median(level_C)))
        return level_C

    def _check_level(self, level: float) -> None:
        voltage = electric(self.unit)
        if self.unit == "zscore" and not ZSCORE_LEVEL[0] <= level <= ZSCORE_LEVEL[1]:
            raise StudyError(
                f"{self.file}: its numbers have a level of {level:.3g} (standard deviation within a trial), z-scores one of "
                f"{ZSCORE_LEVEL[0]:g} to "
                f"{ZSCORE_LEVEL[1]:g}: they are no z-scores (zscore, unit)"
            )
        if voltage is None:
            return
        try:
            check_level(self.file, level, voltage)
        except StudyError as error:
            looks_scaled = 0.3 <= level / MICROVOLTS[voltage] <= 3
            raise StudyError(f"{error}{'; or they are z-scores (zscore: source)' if looks_scaled else ''}") from None

    def kept(self, rows: Sequence[int]) -> Iterator[np.ndarray]:
        """Blocks of trials as the study has them: float32 (B, C, T)."""
        for block in self._blocks(rows):
            eeg_BCT = self._read(block)
            if eeg_BCT.dtype == np.float32 and self._stays:  # what the long way ends with, too
                if self.laid is None:  # of one that is, all were looked at when it was opened
                    self._refuse_gaps(block, eeg_BCT)
                yield np.ascontiguousarray(eeg_BCT)
                continue
            eeg_BCT = trials.apply(self.trials, self._scaled(block, eeg_BCT), self.source)
            yield signals.zscore_trials(eeg_BCT) if self.zscore == "trial" else eeg_BCT

    def refuse_gaps(self, rows: Sequence[int]) -> None:
        """Refuse trials that have values that are no finite numbers.

        Raises
        ------
        StudyError
        """
        for block in self._blocks(rows):
            self._numbers(block)

    @property
    def _stays(self) -> bool:
        """Whether a study has the numbers of the file."""
        return self._factor == 1.0 and self.trials == TrialsConfig() and self.zscore != "trial"

    @property
    def _factor(self) -> float:
        return _FEMTO if self.unit == "tesla" else 1.0 if self.unit == "zscore" else MICROVOLTS[self.unit]

    def _blocks(self, rows: Sequence[int]) -> Iterator[Sequence[int]]:
        block = max(_BLOCK_VALUES // (len(self.picks) * self.source.n_times), 1)
        for start in range(0, len(rows), block):
            yield rows[start : start + block]

    def _numbers(self, rows: Sequence[int]) -> np.ndarray:
        """float64 (B, C, T): microvolts, z-scores, or femtotesla."""
        return self._scaled(rows, self._read(rows))

    def _scaled(self, rows: Sequence[int], eeg_BCT: np.ndarray) -> np.ndarray:
        wide_BCT = np.asarray(eeg_BCT, np.float64)
        self._refuse_gaps(rows, wide_BCT)
        return wide_BCT if self._factor == 1.0 else wide_BCT * self._factor

    def _read(self, rows: Sequence[int]) -> np.ndarray:
        """(B, C, T), as they are in the file."""
        try:
            return np.asarray(self.read(rows, self.picks))
        except (UserError, MemoryError):
            raise
        except Exception as error:
            raise StudyError(f"{self.file}: trials {rows[0]} to {rows[-1]} cannot be read ({short(error, 200)})") from error

    def _refuse_gaps(self, rows: Sequence[int], eeg_BCT: np.ndarray) -> None:
        bad_B = ~np.isfinite(eeg_BCT).all((1, 2))
        if bad_B.any():
            raise StudyError(
                f"{self.file}: trial {rows[int(bad_B.argmax())]} holds values that are no finite numbers, as do {int(bad_B.sum()) - 1} "
                f"more of {len(rows)}: "
                "expected a signal everywhere; 'where' leaves trials out"
            )
