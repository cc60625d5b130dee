"""Where pieces of a long job are computed: in this process, in others on this machine, or on a cluster that Dask knows.

A job is a pure function of a value that all pieces share and of one piece. Results come in the order of the pieces, so that what is
written from them does not depend on where, or how often, a piece was computed: a worker that dies has its pieces done by another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

from data_prep.workers.dask_cluster import Dask, SlurmConfig, cluster
from data_prep.workers.piece import Piece, Result, Shared
from data_prep.workers.pool import Pool


class Workers(Protocol):
    """Computes pieces."""

    def map(self, function: Callable[[Shared, Piece], Result], shared: Shared, pieces: Sequence[Piece]) -> Iterator[Result]:
        """``function(shared, piece)`` of every piece, in their order."""
        ...

    def ahead(self) -> int:
        """Pieces that may be computed or begun while nobody has taken the first."""
        ...


class Here:
    """This process."""

    def map(self, function: Callable[[Shared, Piece], Result], shared: Shared, pieces: Sequence[Piece]) -> Iterator[Result]:
        """One after the other, each when it is asked for."""
        return (function(shared, piece) for piece in pieces)

    def ahead(self) -> int:
        """One."""
        return 1


_HERE = Here()
_current: ContextVar[Workers] = ContextVar("workers", default=_HERE)


def mapped(function: Callable[[Shared, Piece], Result], shared: Shared, pieces: Sequence[Piece]) -> Iterator[Result]:
    """``function(shared, piece)`` of every piece, in their order, by the workers of :func:`working`; by this process outside of it.

    Raises
    ------
    StudyError
        What ``function`` raises; what cannot be sent; a piece of which several workers died.
    """
    return _current.get().map(function, shared, pieces)


def most_at_once() -> int:
    """How many pieces :func:`mapped` may have computed or begun that nobody has taken."""
    return _current.get().ahead()


def others_work() -> bool:
    """Whether :func:`mapped` computes in other processes."""
    return _current.get() is not _HERE


def other_hosts_may_work() -> bool:
    """Whether :func:`mapped` computes where a file that is written is perhaps not seen here."""
    return isinstance(_current.get(), Dask)


@contextmanager
def working(count: int = 1, scheduler: str | None = None, slurm: SlurmConfig | None = None) -> Iterator[None]:
    """Inside, :func:`mapped` computes elsewhere.

    Parameters
    ----------
    count
        Processes on this machine; 1: this one alone.
    scheduler
        A cluster instead: address of a Dask scheduler (``tls://host:8786``), its file, or ``slurm``.
    slurm
        What to ask SLURM for.

    Raises
    ------
    StudyError
        No such cluster, or none that answers.
    """
    if scheduler is not None:
        with cluster(scheduler, slurm or SlurmConfig()) as workers, _by(workers):
            yield
    else:
        with _by(Pool(count) if count > 1 else _HERE):
            yield


@contextmanager
def _by(workers: Workers) -> Iterator[None]:
    token = _current.set(workers)
    try:
        yield
    finally:
        _current.reset(token)
