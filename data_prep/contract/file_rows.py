"""Rows of an array that is larger than memory: a block of them at a time, read from its file and let go again.

A mapped array costs nothing until it is touched, and from then on every page that was touched counts as this process's memory. So rows
are copied in blocks, and the pages behind them are given back.
"""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np

from data_prep.contract.raw_file import MappedFile

BLOCK_BYTES = 2**25
"""Bytes of a block."""
_KEPT_BYTES = 2**26


class FileRows:
    """Rows (entries of the first axis) of an array, in any memory order and of any dtype."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self._mapping = _mapping_of(array)
        row_bytes = max(array.nbytes // max(len(array), 1), 1)
        self._per_block = max(BLOCK_BYTES // row_bytes, 1)
        self._first = 0
        self._block: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.array)

    def __reduce__(self) -> tuple[type[FileRows], tuple[np.ndarray]]:
        return FileRows, (self.array,)

    def __getitem__(self, row: int) -> np.ndarray:
        """One row, in memory."""
        if self._mapping is None:
            found: np.ndarray = self.array[row]
            return found
        if self._block is None or not self._first <= row < self._first + len(self._block):
            self._block = None  # the old block goes before the new one comes
            self._first = row - row % self._per_block
            self._block = self._read(self.array[self._first : self._first + self._per_block])
        return self._block[row - self._first]  # type: ignore[no-any-return]

    def values(self, row: int, rest: tuple[int | slice, ...]) -> np.ndarray:
        """Some values of a row, straight from the file."""
        found: np.ndarray = np.array(self.array[row][rest])
        return found

    def forget(self) -> None:
        """Let go of the block and of the pages that were touched."""
        self._block = None
        self.give_back()

    def give_back(self) -> None:
        """Let go of the pages that were touched; reading them again brings them back."""
        _give_back(self._mapping)

    def _read(self, part: np.ndarray) -> np.ndarray:
        slowest = int(np.argmax(part.strides)) if part.ndim else 0
        if slowest == 0:
            found = np.array(part, order="C")
        else:  # the first axis is not the file's slowest: the block lies all over the file, so it is gathered a piece at a time
            found = np.empty(part.shape, part.dtype)
            touched = 0
            for place in range(part.shape[slowest]):
                where = (slice(None),) * slowest + (place,)
                found[where] = part[where]
                touched += self.array.nbytes // part.shape[slowest]
                if touched > _KEPT_BYTES:
                    self.give_back()
                    touched = 0
        self.give_back()
        return found


def give_back(array: np.ndarray) -> None:
    """Let go of the pages of a mapped array that were touched; reading them again brings them back."""
    _give_back(_mapping_of(array))


def offset_in_file(array: np.ndarray) -> int | None:
    """First byte, in the file that it is mapped from, of an array whose first value lies first; None: it is in memory."""
    mapping = _mapping_of(array)
    if mapping is None:
        return None
    start: int = np.frombuffer(mapping, np.uint8).__array_interface__["data"][0]
    first: int = array.__array_interface__["data"][0]
    return first - start


def by_its_file(array: np.ndarray) -> tuple[Any, ...] | None:
    """How pickle makes a mapped array from its file again (:class:`data_prep.contract.raw_file.MappedFile`); None: it is in memory."""
    mapping = _mapping_of(array)
    if not isinstance(mapping, MappedFile):
        return None
    return np.ndarray, (array.shape, array.dtype, mapping, offset_in_file(array), array.strides)


def _give_back(mapping: mmap.mmap | None) -> None:
    if mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapping.madvise(mmap.MADV_DONTNEED)


def _mapping_of(array: np.ndarray) -> mmap.mmap | None:
    """The mapped file that an array is a view of; None: it is in memory."""
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    return base if isinstance(base, mmap.mmap) else None
