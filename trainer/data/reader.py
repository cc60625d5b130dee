"""Many small pieces of many files into one array, by a few threads."""

from __future__ import annotations

import functools
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from data_prep.contract.tars import Tars

_THREADS = min(4, os.cpu_count() or 1)
"""The system copies, or waits for a disk, without the interpreter's lock: several at once keep a disk's queue filled."""
_ALONE_BYTES = 2**20
"""Up to here a batch is read sooner than threads are told of it."""


def read_pieces(tars: Tars, shards: np.ndarray, offsets: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Pieces of tars one after the other, uint8 (sum of ``lengths``,), whichever thread reads them.

    Raises
    ------
    StudyError
        A tar ends before a piece does, or cannot be read.
    """
    ends = np.cumsum(lengths)
    target = np.empty(int(ends[-1]) if len(ends) else 0, np.uint8)
    view = memoryview(target.data)
    pieces = list(zip(shards.tolist(), offsets.tolist(), (ends - lengths).tolist(), ends.tolist(), strict=True))

    def read(part: list[tuple[int, int, int, int]]) -> None:
        for shard, offset, start, end in part:
            tars.read_into(view[start:end], shard, offset)

    if len(target) <= _ALONE_BYTES:
        read(pieces)
    else:
        each = -(-len(pieces) // _THREADS)
        for _ in _pool().map(read, [pieces[i : i + each] for i in range(0, len(pieces), each)]):
            pass
    return target


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_THREADS, thread_name_prefix="shard reader")


os.register_at_fork(after_in_child=_pool.cache_clear)  # its threads stay behind
