"""Standard output and error of a command: what they can no longer take is lost, and never ends a result that is being made.

A reader may go (``| head``), a terminal may close, a disk fill. The command goes on; its children, too, write into nothing from then on.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import sys
from collections.abc import Iterator
from typing import Any

_NOBODY_READS = (errno.EPIPE, errno.EIO, errno.ECONNRESET)
"""A pipe, a terminal or a connection whose other end has gone: there is nobody to be told."""
_lost: dict[int, OSError] = {}
_patience_seconds: list[float | None] = [None]
_DROPPED = b"... (what came here was dropped: nobody read it)\n"


def keep_output() -> None:
    """Make this process's output such that no write to it fails.

    Output that was closed before the start is lost without a word, and no file takes its number; a character that its encoding lacks is
    written as its escape; one that breaks later is lost from there on, see :func:`lost_output`.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest number that is free: this one
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            kept: Any = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper) and _writes_to(stream, number):
            kept = _kept(stream, number)
        else:
            continue
        setattr(sys, name, kept)
        setattr(sys, f"__{name}__", kept)


@contextlib.contextmanager
def waiting_at_most(seconds: float) -> Iterator[None]:
    """Inside, what nobody reads (a pipe that is full, a terminal that was stopped) is dropped after so long, and so is all that comes
    until somebody reads again: ranks that wait for each other must not wait for a reader."""
    before, _patience_seconds[0] = _patience_seconds[0], seconds
    try:
        yield
    finally:
        _patience_seconds[0] = before


def lost_output() -> OSError | None:
    """Why standard output could not take all that this process wrote; None: it did, or its reader had gone."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    return _lost.get(1)


class _Output(io.FileIO):
    """A file descriptor that takes every write, as long as it can to where it leads."""

    _unread = False

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        while len(rest):
            if _patience_seconds[0] is not None and not self._is_read(_patience_seconds[0]):
                break
            try:
                # So much never blocks where there is room for any.
                written = super().write(rest if _patience_seconds[0] is None else rest[: select.PIPE_BUF])
            except OSError as error:
                self._lose(error)
                break
            if written is None:  # whoever shares it has made it non-blocking, and it is full
                select.select([], [self.fileno()], [])
            else:
                rest = rest[written:]
        return len(data)

    def _is_read(self, patience_seconds: float) -> bool:
        ready = bool(select.select([], [self.fileno()], [], 0.0 if self._unread else patience_seconds)[1])
        if ready and self._unread:
            self._unread = False
            with contextlib.suppress(OSError):
                os.write(self.fileno(), _DROPPED)
            return self._is_read(patience_seconds)
        self._unread = not ready
        return ready

    def _lose(self, error: OSError) -> None:
        number = self.fileno()
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, number)  # not only for Python: libraries and children write to the number
        os.close(nothing)
        if error.errno in _NOBODY_READS or number in _lost:
            return
        _lost[number] = error
        if number == 1:
            with contextlib.suppress(OSError):
                os.write(2, f"warning: standard output is lost from here on ({error.strerror}); the command goes on\n".encode())


def _writes_to(stream: io.TextIOWrapper, number: int) -> bool:
    try:
        return stream.fileno() == number
    except (OSError, ValueError):
        return False


def _kept(stream: io.TextIOWrapper, number: int) -> io.TextIOWrapper:
    with contextlib.suppress(OSError):
        stream.flush()
    raw = _Output(number, "w", closefd=False)
    is_raw = isinstance(stream.buffer, io.RawIOBase)  # python -u
    return io.TextIOWrapper(
        raw if is_raw else io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering or raw.isatty(),
        write_through=stream.write_through,
    )
