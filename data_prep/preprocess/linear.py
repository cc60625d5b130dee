"""Linear arithmetic over the channels of a recording, piece by piece in place, with the same bytes on any machine's number of threads.

Shape suffixes: C channels, O output channels, T time points.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import mmap
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

PIECE_VALUES = 2**22
"""Values of a piece: 32 MB of float64."""
LARGE_BYTES = 2**28
"""An array above this is kept in a file."""


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Linear algebra on one thread: on several, last bits depend on how many."""
    with threadpool_limits(limits=1):
        yield


def pieces(shape: tuple[int, int]) -> Iterator[slice]:
    """Time points of an array (C, T), in pieces of nearly one length: a piece of one point would be summed in another order."""
    n_chans, n_times = shape
    count = max(-(-n_times * n_chans // PIECE_VALUES), 1)
    edges = np.linspace(0, n_times, count + 1).astype(int).tolist()
    return (slice(start, stop) for start, stop in itertools.pairwise(edges))


def apply_in_place(eeg_CT: np.ndarray, matrix_CC: np.ndarray, offset_C: np.ndarray | None = None) -> None:
    """``eeg = matrix @ eeg + offset`` at every time point."""
    for piece, mixed_CT in _products(eeg_CT, matrix_CC):
        if offset_C is not None:
            mixed_CT += offset_C[:, None]
        eeg_CT[:, piece] = mixed_CT
        release(eeg_CT)


def applied(eeg_CT: np.ndarray, matrix_OC: np.ndarray, folder: str | Path | None = None) -> np.ndarray:
    """``matrix @ eeg`` (O, T) as a new array of the signal's dtype."""
    out_OT = empty((len(matrix_OC), eeg_CT.shape[1]), eeg_CT.dtype, folder)
    for piece, mixed_OT in _products(eeg_CT, matrix_OC):
        out_OT[:, piece] = mixed_OT
        release(eeg_CT)
        release(out_OT)
    return out_OT


def _products(eeg_CT: np.ndarray, matrix_OC: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    with one_thread():
        for piece in pieces((eeg_CT.shape[0], eeg_CT.shape[1])):
            yield piece, matrix_OC @ np.asarray(eeg_CT[:, piece], np.float64)


def empty(shape: tuple[int, int], dtype: np.dtype | type, folder: str | Path | None = None) -> np.ndarray:
    """Room for a signal: in memory, or where it is large in a file in ``folder`` (None: the system's) that is gone with the array."""
    if int(np.prod(shape)) * np.dtype(dtype).itemsize <= LARGE_BYTES:
        return np.empty(shape, dtype)
    with tempfile.TemporaryFile(prefix="signal-", dir=folder) as file:
        return np.memmap(file, dtype, "w+", shape=shape)


def sha256_of(eeg_CT: np.ndarray) -> str:
    """Hash of an array's bytes in C order, a channel at a time."""
    digest = hashlib.sha256()
    for channel_T in eeg_CT:
        digest.update(np.ascontiguousarray(channel_T).data)
        release(channel_T)
    return digest.hexdigest()


def extremes(eeg_CT: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest value of each channel, (C,) each."""
    found = np.empty((2, len(eeg_CT)))
    for c, channel_T in enumerate(eeg_CT):
        found[:, c] = channel_T.min(), channel_T.max()
        release(channel_T)
    return found[0], found[1]


def release(array: np.ndarray) -> None:
    """Give the pages of an array in a file back to the system: they stay in the file, not in this process's memory."""
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap):
        base.madvise(mmap.MADV_DONTNEED)
