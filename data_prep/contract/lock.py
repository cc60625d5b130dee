"""One writer of a folder at a time, and the name of who writes when another comes.

The lock is on the folder itself, so it leaves no file behind and a killed process holds nothing. Who reads, changes and writes back
(a manifest, a split of a name) reads inside of it.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_prep.contract.errors import StudyError
from data_prep.contract.urls import refuse_url

WAIT_SECONDS = 60.0
"""How long a writer of small files waits for another."""
_POLL_SECONDS = 0.05
_HELD: set[int] = set()
"""Handles by which this process holds locks, or waits for them."""


def _let_go() -> None:
    # A fork has its parent's locks, too, and would hold them when the parent is killed.
    for handle in _HELD:
        os.close(handle)
    _HELD.clear()


os.register_at_fork(after_in_child=_let_go)


@contextmanager
def alone(folder: Path, *, wait_seconds: float = WAIT_SECONDS) -> Iterator[None]:
    """Be the only one who writes into ``folder``; another one is waited for.

    Raises
    ------
    StudyError
        After ``wait_seconds`` another process still writes there; the sentence names it where the system tells. Or the file system has
        no locks.
    """
    refuse_url(folder)
    handle = os.open(folder, os.O_RDONLY)
    _HELD.add(handle)
    end = time.monotonic() + wait_seconds
    try:
        while not _locked(handle, folder):
            if time.monotonic() >= end:
                raise StudyError(
                    f"{folder}: another process is writing here{_holder(handle)}: expected to be alone, try again when it is done"
                )
            time.sleep(_POLL_SECONDS)
        yield
    finally:
        if handle in _HELD:  # not in a fork
            _HELD.discard(handle)
            os.close(handle)


@contextmanager
def first_come(file: Path) -> Iterator[None]:
    """Hold the lock ``file``, made if missing: who comes first makes what all need, the others wait until it is there, however long.

    Raises
    ------
    StudyError
        The file system has no locks.
    """
    handle = os.open(file, os.O_WRONLY | os.O_CREAT, 0o666)
    _HELD.add(handle)
    try:
        _locked(handle, file, fcntl.LOCK_EX)
        yield
    finally:
        if handle in _HELD:
            _HELD.discard(handle)
            os.close(handle)


def _locked(handle: int, path: Path, how: int = fcntl.LOCK_EX | fcntl.LOCK_NB) -> bool:
    try:
        fcntl.flock(handle, how)
    except BlockingIOError:
        return False
    except OSError as error:  # NFS without its lock service, Lustre mounted with noflock
        raise StudyError(
            f"{path}: its file system gives no lock ({error.strerror}), expected one that does: writers would lose work"
        ) from error
    return True


def _holder(handle: int) -> str:
    """`` (process 123: python -m data_prep embed)``, or nothing where the system does not say who holds a lock."""
    facts = os.fstat(handle)
    # 1: FLOCK  ADVISORY  WRITE 4711 08:01:1234 0 EOF
    file = f"{os.major(facts.st_dev):02x}:{os.minor(facts.st_dev):02x}:{facts.st_ino}"
    try:
        rows = [line.split() for line in Path("/proc/locks").read_text(encoding="ascii").splitlines()]
        pid = next(int(row[4]) for row in rows if len(row) > 5 and row[1] == "FLOCK" and row[5] == file and int(row[4]) > 0)
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").replace("\0", " ").split()
    except (OSError, ValueError, StopIteration):
        return ""
    # The command, not its options: those may name what is no one else's business.
    named = [Path(words[0]).name, *words[1:4]] if words else []
    return f" (process {pid}{': ' if named else ''}{' '.join(named)})"
