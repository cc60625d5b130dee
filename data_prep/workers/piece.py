"""One piece of a job on a worker, and what is said where it cannot be computed."""

from __future__ import annotations

import functools
import io
import os
import pickle
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from data_prep.contract.errors import StudyError
from data_prep.contract.file_rows import by_its_file
from data_prep.contract.limits import Limits, limits, use_limits
from data_prep.contract.words import short

Shared = TypeVar("Shared")
Piece = TypeVar("Piece")
Result = TypeVar("Result")

AHEAD = 2
"""Pieces a worker that are asked for before the first is taken: a result may be a recording."""


@dataclass(frozen=True)
class Call(Generic[Shared, Piece, Result]):
    """What every worker of a job is sent once."""

    folder: str
    """In which the command runs."""
    limits: Limits
    """Of files."""
    function: Callable[[Shared, Piece], Result]
    shared: Shared

    @classmethod
    def here(cls, function: Callable[[Shared, Piece], Result], shared: Shared) -> Call[Shared, Piece, Result]:
        """As this process would compute it."""
        return cls(os.getcwd(), limits(), function, shared)


def compute(message: bytes, piece: Any) -> Any:
    """On a worker, of a call as it was :func:`sent`: in the folder in which the command runs, so that names of files mean the same, and
    with its limits of files."""
    call = opened(message)
    use_limits(call.limits)
    try:
        os.chdir(call.folder)
    except OSError as error:
        raise StudyError(
            f"{call.folder}: not seen by the worker on {socket.gethostname()}, expected a folder that all hosts share"
        ) from error
    return call.function(call.shared, piece)


def sent(call: Call[Any, Any, Any]) -> bytes:
    """A call as workers get it. An array that is mapped from a file is sent as that: its content would fill the memory of each.

    Raises
    ------
    StudyError
        Something that all pieces share cannot leave this process.
    """
    message = io.BytesIO()
    try:
        _Pickler(message, pickle.HIGHEST_PROTOCOL).dump(call)
    except Exception as error:
        if isinstance(error, OSError):
            raise
        what = type(call.shared).__name__
        raise StudyError(f"{what} cannot be sent to other processes ({short(error, 200)}): compute in this one (workers: 1)") from error
    return message.getvalue()


@functools.lru_cache(maxsize=1)
def opened(message: bytes) -> Call[Any, Any, Any]:
    """On a worker: what :func:`sent` gave, once for all pieces."""
    call: Call[Any, Any, Any] = pickle.loads(message)  # noqa: S301  of this program's own memory, and sent by itself
    return call


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        found = by_its_file(value) if type(value) is np.ndarray else None
        return NotImplemented if found is None else found


def died(piece: object) -> StudyError:
    """Several workers died of the same piece."""
    what = short(str(piece), 100)
    return StudyError(f"several workers died of one piece of the work ({what}): most often for lack of memory, try fewer at once (workers)")
