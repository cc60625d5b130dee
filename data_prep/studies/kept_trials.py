"""The trials of a study by row: where they lie in their own files they stay there, and the others are kept in a temporary file.

Shape suffixes: B trials, C channels, T time points.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from data_prep.studies.cut_signal import CutSignal
from data_prep.studies.laid_trials import Survey
from data_prep.studies.spool import Spool


class KeptTrials:
    """Trials of recordings, in the order in which those come.

    Parameters
    ----------
    scratch
        Folder of :class:`Spool`.
    thread
        Reads a file whole while the next is opened.
    """

    def __init__(self, scratch: str | None, thread: ThreadPoolExecutor) -> None:
        self._scratch = scratch
        self._spool: Spool | None = None
        self._thread: ThreadPoolExecutor | None = thread
        self._begun: dict[Path, Future[Survey]] = {}
        self._unchecked: list[tuple[CutSignal, Sequence[int]]] = []
        self._parts: list[tuple[CutSignal, Sequence[int]] | int] = []
        """Of each recording: its signal and the trials in it, or the row of the spool with which it begins."""
        self._first = [0]
        """Row of the first trial of each, and of what comes next."""

    def keep(self, signal: CutSignal, trials: Sequence[int]) -> int:
        """Keep these trials of a file; returns the row of the first.

        Raises
        ------
        StudyError
            One has values that are no finite numbers; where they lie in their file, :meth:`check` says so, or what keeps the next.
        """
        if signal.laid is not None:
            assert self._thread is not None
            file = signal.laid.file.resolve()
            if file not in self._begun:
                self.check()  # one file at a time
                self._begun[file] = self._thread.submit(signal.laid.survey)
            self._unchecked.append((signal, trials))
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

    def check(self) -> None:
        """Wait for the thread, and refuse what it has found.

        Raises
        ------
        StudyError
            A file changed, or a trial has values that are no finite numbers.
        """
        for signal, trials in self._unchecked:
            assert signal.laid is not None
            if not self._begun[signal.laid.file.resolve()].result().finite:
                signal.refuse_gaps(trials)
        self._unchecked = []

    def finish(self) -> dict[Path, str]:
        """:meth:`check`, and keep no more; SHA-256 of the files that were read whole."""
        self.check()
        hashes = {file: survey.result().sha256 for file, survey in self._begun.items()}
        self._thread, self._begun = None, {}  # which cannot be sent to other processes
        return hashes

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
