"""Many pieces of open files in one call of the system: Linux's own asynchronous reads (man 2 io_submit), which copy cached pages at once.

``os.preadv`` reads one piece a call, and after each the interpreter's lock must be had anew: among threads that read, or beside one that
computes, this takes longer than the copying. Here the lock is free while a whole batch is copied. It promises nothing: what it has not
read (another system, a limit of the machine's, an end of the file, a disk that fails) is for the caller to read and to speak of.

P: pieces.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import platform
import sys
import threading

import numpy as np

_AT_ONCE = 256
_CALLS = {"x86_64": (206, 209, 208), "aarch64": (0, 2, 4)}
"""Numbers of io_setup, io_submit and io_getevents, by machine."""
_REQUEST = np.dtype(
    [
        *(("data", "<u8"), ("key", "<u4"), ("rw_flags", "<u4"), ("opcode", "<u2"), ("priority", "<i2"), ("handle", "<u4")),
        *(("address", "<u8"), ("bytes", "<u8"), ("offset", "<i8"), ("reserved", "<u8"), ("flags", "<u4"), ("resfd", "<u4")),
    ]
)
"""``struct iocb`` of linux/aio_abi.h; opcode 0 is a read."""
_EVENT = np.dtype([("data", "<u8"), ("request", "<u8"), ("got", "<i8"), ("second", "<i8")])
_own = threading.local()


def read_at_once(
    target: np.ndarray, starts_P: np.ndarray, handles_P: np.ndarray, offsets_P: np.ndarray, lengths_P: np.ndarray
) -> np.ndarray:
    """Read pieces into ``target``; for a thread that stays, since each keeps a queue of the system's until its process ends.

    Parameters
    ----------
    target
        uint8, contiguous; piece ``p`` goes to ``target[starts_P[p] : starts_P[p] + lengths_P[p]]``.
    handles_P, offsets_P
        Descriptors of open files, and the first byte to read of each piece.

    Returns
    -------
    np.ndarray
        Bytes read of each piece: ``lengths_P`` where it is whole, less or negative where it is not.
    """
    got_P = np.full(len(lengths_P), -1, np.int64)
    if (queue := _queue()) is None:
        return got_P
    requests = np.zeros(len(lengths_P), _REQUEST)
    requests["data"], requests["handle"] = np.arange(len(lengths_P)), handles_P
    requests["address"], requests["bytes"], requests["offset"] = target.ctypes.data + starts_P, lengths_P, offsets_P
    pointers = requests.ctypes.data + _REQUEST.itemsize * np.arange(len(lengths_P), dtype=np.uint64)
    for first in range(0, len(pointers), _AT_ONCE):
        done = queue.run(pointers[first : first + _AT_ONCE])
        got_P[done["data"].astype(np.int64)] = done["got"]
        if len(done) < len(pointers[first : first + _AT_ONCE]):
            break
    return got_P


class _Queue:
    """A queue of the system's for one thread."""

    def __init__(self, libc: ctypes.CDLL, calls: tuple[int, int, int]) -> None:
        self._libc, self._context = libc, ctypes.c_ulong(0)
        setup, self._submit, self._getevents = calls
        if self._call(setup, ctypes.c_uint(_AT_ONCE), ctypes.byref(self._context)) < 0:
            raise OSError(ctypes.get_errno(), "no queue for reads")

    def run(self, pointers: np.ndarray) -> np.ndarray:
        """Events of the requests that were taken: all of them, or those before the first that the system refuses."""
        taken = 0
        while taken < len(pointers):
            more = self._call(
                self._submit, self._context, ctypes.c_long(len(pointers) - taken), ctypes.c_void_p(pointers[taken:].ctypes.data)
            )
            if more <= 0:
                break
            taken += more
        events, known = np.zeros(taken, _EVENT), 0
        while known < taken:  # whatever comes meanwhile: the system is writing into the caller's memory
            rest = ctypes.c_long(taken - known)
            more = self._call(self._getevents, self._context, rest, rest, ctypes.c_void_p(events[known:].ctypes.data), None)
            if more < 0 and ctypes.get_errno() != errno.EINTR:
                raise OSError(ctypes.get_errno(), "a queue of reads was lost")
            known += max(more, 0)
        return events

    def _call(self, number: int, *arguments: object) -> int:
        found: int = self._libc.syscall(ctypes.c_long(number), *arguments)
        return found


def _queue() -> _Queue | None:
    """This thread's; None where the system has none for it."""
    if not hasattr(_own, "queue"):
        _own.queue = None
        calls = _CALLS.get(platform.machine())
        if sys.platform == "linux" and sys.byteorder == "little" and calls is not None and ctypes.sizeof(ctypes.c_void_p) == 8:
            libc = ctypes.CDLL(None, use_errno=True)
            libc.syscall.restype = ctypes.c_long
            with contextlib.suppress(OSError):  # a container that forbids it, or more queues than the machine allows
                _own.queue = _Queue(libc, calls)
    found: _Queue | None = _own.queue
    return found
