"""Many small pieces of many files into one array, by a few threads."""

from __future__ import annotations

import functools
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from data_prep.contract.tars import Tars
from trainer.data.kernel_reads import read_at_once

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
    starts = ends - lengths
    target = np.empty(int(ends[-1]) if len(ends) else 0, np.uint8)
    view = memoryview(target.data)

    def read_one(piece: int) -> None:
        tars.read_into(view[starts[piece] : ends[piece]], int(shards[piece]), int(offsets[piece]))

    if len(target) <= _ALONE_BYTES:
        for piece in range(len(lengths)):
            read_one(piece)
        return target
    touched, number = np.unique(shards, return_inverse=True)
    handles = np.array([tars.handle(shard) for shard in touched.tolist()])[number]

    def read(part: slice) -> None:
        got = read_at_once(target, starts[part], handles[part], offsets[part], lengths[part])
        for piece in part.start + np.flatnonzero(got != lengths[part]):
            read_one(piece)

    each = -(-len(lengths) // _THREADS)
    waiting = [_pool().submit(read, slice(first, min(first + each, len(lengths)))) for first in range(0, len(lengths), each)]
    failed = [error for error in [share.exception() for share in waiting] if error is not None]  # when all are done
    if failed:
        raise failed[0]
    return target


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_THREADS, thread_name_prefix="shard reader")


os.register_at_fork(after_in_child=_pool.cache_clear)  # its threads stay behind
