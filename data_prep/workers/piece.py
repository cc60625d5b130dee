"""One piece of a job on a worker, and what is said where it cannot be computed."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from data_prep.contract.errors import StudyError
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


def compute(call: Call[Shared, Piece, Result], piece: Piece) -> Result:
    """On a worker: in the folder in which the command runs, so that names of files mean the same, and with its limits of files."""
    use_limits(call.limits)
    try:
        os.chdir(call.folder)
    except OSError as error:
        raise StudyError(
            f"{call.folder}: not seen by the worker on {socket.gethostname()}, expected a folder that all hosts share"
        ) from error
    return call.function(call.shared, piece)


def not_sent(shared: object, error: Exception) -> StudyError:
    """What all pieces share cannot leave this process."""
    return StudyError(f"{type(shared).__name__} cannot be sent to other processes ({short(error, 200)}): compute in this one (workers: 1)")


def died(piece: object) -> StudyError:
    """Several workers died of the same piece."""
    what = short(str(piece), 100)
    return StudyError(f"several workers died of one piece of the work ({what}): most often for lack of memory, try fewer at once (workers)")
