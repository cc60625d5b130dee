"""Bytes of a study's tars, read at offsets and compared with the hashes of its manifest.

Files are read, never mapped: of a map, a file that shrinks while it is read ends the process by SIGBUS without a word, and a page that
has to come from a disk stops every thread of the interpreter.
"""

from __future__ import annotations

import hashlib
import os
import weakref
from collections.abc import Callable
from dataclasses import dataclass

from data_prep.contract.errors import StudyError
from data_prep.contract.open_study import OpenStudy

_HASHED_BYTES = 2**20


@dataclass(frozen=True, kw_only=True)
class State:
    """By what a file is seen to have been written to, or put in the place of another."""

    inode: int
    bytes: int
    modified_ns: int
    changed_ns: int


class Tars:
    """Tars by shard number; each is opened when it is first asked for and stays open until :meth:`close`."""

    def __init__(self, study: OpenStudy) -> None:
        self._study = study
        self._handles: dict[int, int] = {}
        weakref.finalize(self, _close, self._handles).atexit = False  # a thread may be reading until the very end

    def handle(self, shard: int) -> int:
        """Descriptor of an open tar.

        Raises
        ------
        StudyError
            It cannot be opened.
        """
        if shard not in self._handles:
            path = self._study.tar_path(shard)
            try:
                opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe in its place is no wait
            except OSError as error:
                raise StudyError(f"{path}: cannot be opened ({error.strerror}), expected a tar of the study") from error
            if self._handles.setdefault(shard, opened) != opened:  # two threads asked at once
                os.close(opened)
        return self._handles[shard]

    def read_into(self, target: memoryview, shard: int, offset: int) -> None:
        """Fill ``target`` from byte ``offset`` of a tar on.

        Raises
        ------
        StudyError
            The tar ends before, or its disk fails.
        """
        handle, wanted, position = self.handle(shard), len(target), 0
        while position < wanted:
            try:
                got = os.preadv(handle, (target[position:] if position else target,), offset + position)
            except OSError as error:
                raise self.failed(shard, error) from error
            if not got:
                size, expected = os.fstat(handle).st_size, self._study.manifest.shards[shard].tar_bytes
                raise StudyError(f"{self._study.tar_path(shard)}: {size} bytes, expected {expected}: it changed since the study was opened")
            position += got

    def read(self, shard: int, offset: int, size: int) -> bytearray:
        """``size`` bytes from byte ``offset`` of a tar on; raises as :meth:`read_into` does."""
        found = bytearray(size)
        self.read_into(memoryview(found), shard, offset)
        return found

    def state(self, shard: int) -> State:
        """What the open file is now."""
        found = os.fstat(self.handle(shard))
        return State(inode=found.st_ino, bytes=found.st_size, modified_ns=found.st_mtime_ns, changed_ns=found.st_ctime_ns)

    def check(self, shard: int, stopped: Callable[[], bool] = lambda: False) -> None:
        """Compare size and SHA-256 of a tar with the manifest's; ``stopped`` ends it early, unsaid.

        Raises
        ------
        StudyError
            One sentence naming the tar, what was found and what was expected.
        """
        facts, path, handle = self._study.manifest.shards[shard], self._study.tar_path(shard), self.handle(shard)
        digest, block, position = hashlib.sha256(), memoryview(bytearray(_HASHED_BYTES)), 0
        while not stopped():
            try:
                got = os.preadv(handle, (block,), position)
            except OSError as error:
                raise self.failed(shard, error) from error
            if not got:
                break
            digest.update(block[:got])
            position += got
        else:
            return
        if position != facts.tar_bytes:
            raise StudyError(f"{path}: {position} bytes, expected {facts.tar_bytes}: it changed since the study was opened")
        if digest.hexdigest() != facts.tar_sha256:
            found, expected = digest.hexdigest()[:12], facts.tar_sha256[:12]
            raise StudyError(f"{path}: SHA-256 {found}…, the manifest says {expected}…: altered, nothing computed from it can be kept")

    def failed(self, shard: int, error: OSError) -> StudyError:
        """The sentence for a read that the system refused."""
        return StudyError(f"{self._study.tar_path(shard)}: cannot be read ({error.strerror or error}), expected a tar of the study")

    def close(self) -> None:
        """Close what is open; what is asked for next is opened anew."""
        _close(self._handles)


def _close(handles: dict[int, int]) -> None:
    while handles:
        os.close(handles.popitem()[1])
