"""The trials of a study by row: where they lie in their own files they stay there, and the others are kept in a temporary file.

Shape suffixes: B trials, C channels, T time points.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from data_prep.studies.cut_signal import CutSignal
from data_prep.studies.laid_trials import LaidTrials, Survey
from data_prep.studies.spool import Spool


class KeptTrials:
    """Trials of recordings, in the order in which those come; ``scratch`` is the folder of :class:`Spool`."""

    def __init__(self, scratch: str | None) -> None:
        self._scratch = scratch
        self._spool: Spool | None = None
        self._surveys: dict[Path, Survey] = {}
        self._parts: list[tuple[CutSignal, Sequence[int]] | int] = []
        """Of each recording: its signal and the trials in it, or the row of the spool with which it begins."""
        self._first = [0]
        """Row of the first trial of each, and of what comes next."""

    def keep(self, signal: CutSignal, trials: Sequence[int]) -> int:
        """Keep these trials of a file; returns the row of the first.

        Raises
        ------
        StudyError
            One has values that are no finite numbers.
        """
        if signal.laid is not None:
            if not self._survey(signal.laid).finite:
                signal.refuse_gaps(trials)
            self._parts.append((signal, trials))
        else:
            self._spool = self._spool or Spool(self._scratch)
            firsts = [self._spool.append(block_BCT) for block_BCT in signal.kept(trials)]
            self._parts.append(firsts[0])
        self._first.append(self._first[-1] + len(trials))
        return self._first[-2]

    def read(self, rows: Sequence[int]) -> np.ndarray:
        """float32 (len(rows), C, T)."""
        found = list(self._runs(rows))
        return found[0] if len(found) == 1 else np.concatenate(found)

    def hashes(self) -> dict[Path, str]:
        """SHA-256 of the files that were read whole."""
        return {file: survey.sha256 for file, survey in self._surveys.items()}

    def _survey(self, laid: LaidTrials) -> Survey:
        file = laid.file.resolve()
        if file not in self._surveys:
            self._surveys[file] = laid.survey()
        return self._surveys[file]

    def _runs(self, rows: Sequence[int]) -> Iterator[np.ndarray]:
        """Trials of one recording after the other."""
        for number, own in itertools.groupby(rows, lambda row: bisect.bisect(self._first, row) - 1):
            part, places = self._parts[number], [row - self._first[number] for row in own]
            if isinstance(part, int):
                assert self._spool is not None
                yield self._spool.read([part + place for place in places])
            else:
                signal, trials = part
                yield from signal.kept([trials[place] for place in places])
