"""Trials that lie in a source's own file one after the other: any of them is read alone, so that none is kept elsewhere.

They are read, not mapped: a mapped file that becomes shorter ends the process. A file that is not the one that was opened is refused.

Shape suffixes: B trials, C channels, T time points.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.contract.errors import StudyError
from data_prep.contract.file_rows import offset_in_file

FileState = tuple[int, int]
"""Bytes, and nanoseconds of the last change."""
_BLOCK_BYTES = 2**18
"""A block is hashed and looked at while it is near the processor."""


def state_of(file: Path) -> FileState | None:
    """What tells that a file is still the one that was opened; None: there is none."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def refuse_changed(file: Path, now: FileState | None, opened: FileState | None) -> None:
    """Refuse a file of another state: other content would come in the middle of a study.

    Raises
    ------
    StudyError
    """
    if now != opened:
        raise StudyError(f"{file}: changed while it was read, expected the file that was opened: shard the study anew")


@dataclass(frozen=True, kw_only=True)
class Survey:
    """All of a file, read once."""

    sha256: str
    finite: bool
    """Whether all of its trials' numbers are known to be finite."""


@dataclass(frozen=True, kw_only=True)
class LaidTrials:
    """Where the trials of a file lie."""

    file: Path
    state: FileState
    """Of the file that was opened."""
    offset: int
    """First byte of the first trial."""
    dtype: np.dtype
    num_trials: int
    sides: tuple[int, int]
    """Of a trial as it lies: channels and time points, or the other way round."""
    times_first: bool

    def read(self, rows: Sequence[int], picks: Sequence[int]) -> np.ndarray:
        """(rows, picks, times), of the file's dtype, in C order.

        Raises
        ------
        StudyError
            The file is gone, or another.
        """
        found = np.empty((len(rows), *self.sides), self.dtype)
        trial_bytes = found.nbytes // max(len(rows), 1)
        begins = [0, *(place for place in range(1, len(rows)) if rows[place] != rows[place - 1] + 1), len(rows)]
        with self._opened() as handle:
            for begin, end in itertools.pairwise(begins):
                if end > begin:
                    self._fill(handle, found[begin:end], self.offset + rows[begin] * trial_bytes)
        eeg_BCT = found.transpose(0, 2, 1) if self.times_first else found
        chosen = list(picks)
        return np.ascontiguousarray(eeg_BCT if chosen == list(range(eeg_BCT.shape[1])) else eeg_BCT[:, chosen])

    def survey(self) -> Survey:
        """Read the whole file, once: its hash, and whether its numbers are finite.

        Raises
        ------
        StudyError
            As :meth:`read`.
        """
        # What float64 has no room for is none; whole numbers are.
        digest, finite = hashlib.sha256(), self.dtype.kind != "f" or self.dtype.itemsize <= 8
        end = self.offset + self.num_trials * int(np.prod(self.sides)) * self.dtype.itemsize
        buffer = np.empty(_BLOCK_BYTES, np.uint8)
        with self._opened() as handle:
            for start, stop in self._blocks(end):
                block = buffer[: stop - start]
                self._fill(handle, block, start)
                digest.update(block.data)
                if finite and self.dtype.kind == "f" and self.offset <= start < end:
                    finite = bool(np.isfinite(block.view(self.dtype)).all())
        return Survey(sha256=digest.hexdigest(), finite=finite)

    def _blocks(self, end: int) -> Iterator[tuple[int, int]]:
        """All bytes of the file; those of trials, which end at ``end``, in blocks of their own."""
        for first, last in ((0, self.offset), (self.offset, end), (end, self.state[0])):
            for start in range(first, last, _BLOCK_BYTES):
                yield start, min(start + _BLOCK_BYTES, last)

    def _opened(self) -> _Handle:
        return _Handle(self.file, self.state)

    def _fill(self, handle: int, array: np.ndarray, position: int) -> None:
        view = array.data.cast("B")
        while len(view):
            count = os.preadv(handle, [view], position)
            if not count:
                refuse_changed(self.file, None, self.state)
            view, position = view[count:], position + count


class _Handle:
    """The file while it is read: what was read of it was of the one that was opened."""

    def __init__(self, file: Path, state: FileState) -> None:
        self._file, self._state = file, state

    def __enter__(self) -> int:
        try:
            self._handle = os.open(self._file, os.O_RDONLY)
        except FileNotFoundError:
            refuse_changed(self._file, None, self._state)
            raise
        return self._handle

    def __exit__(self, kind: object, *_: object) -> None:
        now = os.fstat(self._handle)
        os.close(self._handle)
        if kind is None:
            refuse_changed(self._file, (now.st_size, now.st_mtime_ns), self._state)


def laid_trials(file: Path, array_BCT: np.ndarray, state: FileState | None) -> LaidTrials | None:
    """Where the trials of an array lie that is mapped from ``file``; None: it is not, or they do not lie one after the other there.

    ``state`` is the file's from before it was opened.
    """
    if isinstance(array_BCT, np.memmap) and Path(array_BCT.filename or "") != file.resolve():
        return None  # mapped from what another process has left of the file
    offset = offset_in_file(array_BCT)
    num_trials, *sides = array_BCT.shape
    item = array_BCT.dtype.itemsize
    if state is None or offset is None or not array_BCT.size or array_BCT.strides[0] != sides[0] * sides[1] * item:
        return None
    for times_first, (slow, fast) in ((False, (1, 2)), (True, (2, 1))):
        if (array_BCT.strides[slow], array_BCT.strides[fast]) == (array_BCT.shape[fast] * item, item):
            return LaidTrials(
                file=file,
                state=state,
                offset=offset,
                dtype=array_BCT.dtype,
                num_trials=num_trials,
                sides=(array_BCT.shape[slow], array_BCT.shape[fast]),
                times_first=times_first,
            )
    return None
