"""Reads that the system does many of at once are those of one at a time; what it does not read is left to the caller, who says why."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from trainer.data import kernel_reads
from trainer.data.kernel_reads import read_at_once

AVAILABLE = kernel_reads._queue() is not None
"""Not in every container, and on Linux alone: there everything is left to the caller."""


@pytest.fixture
def files(tmp_path: Path) -> list[int]:
    """Descriptors of three files of random bytes."""
    rng = np.random.default_rng(0)
    opened = []
    for number, size in enumerate((100_000, 7, 40_000)):
        (tmp_path / str(number)).write_bytes(rng.bytes(size))
        opened.append(os.open(tmp_path / str(number), os.O_RDONLY))
    return opened


def pieces(files: list[int], seed: int, count: int) -> tuple[np.ndarray, ...]:
    """Where to, from which file, from where and how much: of ``count`` pieces, some of them beyond their file's end."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 3000, count)
    return np.cumsum(lengths) - lengths, np.array(files)[rng.integers(0, 3, count)], rng.integers(0, 101_000, count), lengths


def check(files: list[int], seed: int, count: int) -> None:
    starts, handles, offsets, lengths = pieces(files, seed, count)
    target = np.zeros(int(lengths.sum()), np.uint8)
    got = read_at_once(target, starts, handles, offsets, lengths)
    for start, handle, offset, length, found in zip(starts, handles, offsets, lengths, got, strict=True):
        there = os.pread(handle, length, offset)
        assert found == (len(there) if AVAILABLE else -1)
        assert not AVAILABLE or target[start : start + length].tobytes() == there.ljust(length, b"\0")


@pytest.mark.parametrize("count", [0, 1, 2, 255, 256, 257, 1000])
def test_any_number_of_pieces(files: list[int], count: int) -> None:
    check(files, count, count)


def test_by_several_threads_and_in_a_forked_child(files: list[int]) -> None:
    together = threading.Barrier(3)
    with ThreadPoolExecutor(3, initializer=together.wait) as pool:
        assert list(pool.map(lambda seed: check(files, seed, 300), range(6))) == [None] * 6
        child = os.fork()
        if not child:
            with ThreadPoolExecutor(1) as own:
                os._exit(own.submit(check, files, 7, 300).exception() is not None)
    assert os.waitpid(child, 0)[1] == 0


def test_what_the_system_refuses_is_left_to_the_caller(files: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    starts, handles, offsets, lengths = pieces(files, 1, 10)
    target = np.zeros(int(lengths.sum()), np.uint8)
    offsets[:] = 0
    handles[:] = files[0]
    handles[4] = 10_000  # no open file
    got = read_at_once(target, starts, handles, offsets, lengths)
    assert (got[:4] == lengths[:4]).all() == AVAILABLE
    assert (got[4:] != lengths[4:]).all(), "the caller reads these, and meets what is wrong"

    monkeypatch.setattr(kernel_reads, "_CALLS", {})
    monkeypatch.setattr(kernel_reads, "_own", threading.local())
    assert (read_at_once(target, starts, handles, offsets, lengths) == -1).all()
