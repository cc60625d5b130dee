"""A new file that is hashed and written by a thread of its own, while what it will hold next is read and measured.

OpenSSL and the system work without Python's lock, so that on two cores neither waits for the other.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from data_prep.contract.records import SealedFile

Bytes = bytes | memoryview
_TOGETHER_BYTES = 2**20
"""Bytes that are written at once, at least."""
_WAITING_BYTES = 2**24
"""Bytes that may wait to be written."""
_BEGUN_BYTES = 2**23
"""Bytes after which the system is told to begin with them: what is left for fsync is then little."""


class HashedFile:
    """A file that is appended to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bytes = 0
        """Of all that it was given."""
        self._digest = hashlib.sha256()
        self._file = path.open("wb", buffering=0)
        self._thread = ThreadPoolExecutor(1, "write")
        self._parts: list[Bytes] = []
        self._parts_bytes = 0
        self._waiting: deque[tuple[int, Future[None]]] = deque()
        self._waiting_bytes = self._written = self._begun = 0

    def close(self) -> None:
        """Write no more of it; once more does nothing."""
        self._thread.shutdown(cancel_futures=True)
        self._file.close()

    def append(self, parts: Sequence[Bytes]) -> None:
        """One part after the other.

        Raises
        ------
        OSError
            Of what was given before, too.
        """
        size = sum(map(len, parts))
        self.bytes += size
        self._parts += parts
        self._parts_bytes += size
        if self._parts_bytes >= _TOGETHER_BYTES:
            self._hand_over()
            self._wait(_WAITING_BYTES)

    def finish(self) -> SealedFile:
        """Wait until all of it is on the disk.

        Raises
        ------
        OSError
        """
        self._hand_over()
        self._wait(-1)
        os.fsync(self._file.fileno())
        return SealedFile(bytes=self.bytes, sha256=self._digest.hexdigest())

    def _hand_over(self) -> None:
        data = b"".join(self._parts)  # one piece: threads take turns at Python between pieces
        self._waiting.append((len(data), self._thread.submit(self._append, data)))
        self._waiting_bytes += len(data)
        self._parts, self._parts_bytes = [], 0

    def _wait(self, most_bytes: int) -> None:
        while self._waiting and self._waiting_bytes > most_bytes:
            size, written = self._waiting.popleft()
            self._waiting_bytes -= size
            written.result()

    def _append(self, data: bytes) -> None:
        view = memoryview(data)
        while len(view):  # the system takes less than 2 GiB at once
            view = view[self._file.write(view) :]
        self._digest.update(data)
        self._written += len(data)
        if self._written - self._begun >= _BEGUN_BYTES and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._file.fileno(), self._begun, self._written - self._begun, os.POSIX_FADV_DONTNEED)
            self._begun = self._written
