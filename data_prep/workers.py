"""Where pieces of a long job are computed: in this process, in others on this machine, or on a cluster that Dask knows.

A job is a pure function of a value that all pieces share and of one piece. Results come in the order of the pieces, so that what is
written from them does not depend on where, or how often, a piece was computed: a worker that dies has its pieces done by another.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from data_prep.contract.errors import StudyError
from data_prep.contract.limits import Limits, limits, use_limits
from data_prep.contract.words import short

Shared = TypeVar("Shared")
Piece = TypeVar("Piece")
Result = TypeVar("Result")

SLURM = "slurm"
_AHEAD = 2
"""Pieces a worker that are asked for before the first is taken: a result may be a recording."""
_CONNECT_SECONDS = 60
_SHARED_AGAIN = 3
"""How often the shared value is sent anew when all workers that held it died."""


@dataclass(frozen=True, kw_only=True)
class SlurmConfig:
    """Jobs that Dask asks SLURM for; ``scheduler: slurm``. Needs the extra ``cluster``."""

    jobs: int = 4
    """Jobs, a worker each."""
    queue: str | None = None
    """Partition; None: the cluster's own choice."""
    account: str | None = None
    """Account; None: the user's."""
    cores: int = 1
    """Cores a job."""
    memory: str = "8GB"
    """Memory a job."""
    walltime: str = "04:00:00"
    """Longest time of a job, hours:minutes:seconds."""
    interface: str | None = None
    """Network interface by which workers find this process, such as ``ib0``; None: the host's first."""
    more_lines: tuple[str, ...] = ()
    """Further ``#SBATCH`` lines, without that word."""

    def __post_init__(self) -> None:
        if self.jobs < 1 or self.cores < 1:
            raise ValueError(f"jobs is {self.jobs} and cores {self.cores}, expected at least 1 of each")


class Workers(Protocol):
    """Computes pieces."""

    def map(self, function: Callable[[Shared, Piece], Result], shared: Shared, pieces: Sequence[Piece]) -> Iterator[Result]:
        """``function(shared, piece)`` of every piece, in their order."""
        ...


class Here:
    """This process."""

    def map(self, function: Callable[[Shared, Piece], Result], shared: Shared, pieces: Sequence[Piece]) -> Iterator[Result]:
        """One after the other, each when it is asked for."""
        return (function(shared, piece) for piece in pieces)


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
    current = _current.get()
    return current.ahead() if isinstance(current, _Dask) else 1


def others_work() -> bool:
    """Whether :func:`mapped` computes in other processes."""
    return _current.get() is not _HERE


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
    if count == 1 and scheduler is None:
        yield
        return
    with _quiet(), _client(count, scheduler, slurm or SlurmConfig()) as client:
        token = _current.set(_Dask(client))
        try:
            yield
        finally:
            _current.reset(token)


class _Dask:
    """Workers of a Dask cluster."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def map(self, function: Callable[[Shared, Piece], Result], shared: Shared, pieces: Sequence[Piece]) -> Iterator[Result]:
        call = os.getcwd(), limits(), function, shared
        sent = self._send(call)
        again = 0
        waiting: deque[tuple[Piece, Any]] = deque()
        rest = iter(pieces)
        try:
            while True:
                ahead = self.ahead()
                while len(waiting) < ahead and (piece := next(rest, _END)) is not _END:
                    waiting.append((piece, self._submit(sent, piece)))
                if not waiting:
                    return
                piece, future = waiting[0]
                try:
                    result = future.result()
                except _lost() as error:
                    # All workers that held the shared value are gone: whoever has come since has never had it.
                    again += 1
                    if again > _SHARED_AGAIN:
                        raise StudyError(_died(piece)) from error
                    sent = self._send(call)
                    waiting = deque((each, self._submit(sent, each)) for each, _ in waiting)
                    continue
                except _killed() as error:
                    raise StudyError(_died(piece)) from error
                waiting.popleft()
                again = 0
                yield result
        finally:
            for _, future in waiting:
                future.cancel()

    def ahead(self) -> int:
        """Pieces that are asked for before the first is taken."""
        return _AHEAD * max(1, len(self._client.scheduler_info(n_workers=-1)["workers"]))

    def _send(self, call: tuple[str, Limits, Any, Any]) -> Any:
        try:
            return self._client.scatter(call, broadcast=True, hash=False)
        except Exception as error:
            if isinstance(error, OSError):
                raise
            raise StudyError(
                f"{type(call[-1]).__name__} cannot be sent to other processes ({short(error, 200)}): compute in this one (workers: 1)"
            ) from error

    def _submit(self, sent: Any, piece: Piece) -> Any:
        return self._client.submit(_compute, sent, piece, pure=False)


def _died(piece: object) -> str:
    what = short(str(piece), 100)
    return f"several workers died of one piece of the work ({what}): most often for lack of memory, try fewer at once (workers)"


_END: Any = object()


def _compute(call: tuple[str, Limits, Callable[[Any, Any], Any], Any], piece: Any) -> Any:
    """On a worker: in the folder in which the command runs, so that names of files mean the same, and with its limits of files."""
    folder, file_limits, function, shared = call
    use_limits(file_limits)
    try:
        os.chdir(folder)
    except OSError as error:
        raise StudyError(f"{folder}: not seen by the worker on {socket.gethostname()}, expected a folder that all hosts share") from error
    return function(shared, piece)


def _lost() -> tuple[type[BaseException], ...]:
    from concurrent.futures import CancelledError

    from distributed.client import FutureCancelledError

    return (CancelledError, FutureCancelledError)


def _killed() -> type[BaseException]:
    from distributed import KilledWorker

    killed: type[BaseException] = KilledWorker
    return killed


@contextmanager
def _client(count: int, scheduler: str | None, slurm: SlurmConfig) -> Iterator[Any]:
    try:
        import dask
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise StudyError("other workers than this process need the package distributed: pip install distributed") from error

    with contextlib.ExitStack() as stack:
        # Dask's own pages tell whoever asks what is computed.
        quiet: dict[str, Any] = {f"distributed.{who}.http.routes": [] for who in ("scheduler", "worker")}
        # On this machine a worker that does not answer at once is dead.
        soon = {"distributed.comm.timeouts.connect": "5s"} if scheduler is None else {}
        stack.enter_context(dask.config.set(quiet | soon))
        try:
            where: Any = scheduler
            if scheduler is None:
                scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="workers-", ignore_cleanup_errors=True))
                # Encrypted with keys of this moment: whoever reaches a worker's port could have it compute anything.
                cluster = LocalCluster(
                    n_workers=count,
                    threads_per_worker=1,
                    processes=True,
                    host="127.0.0.1",
                    security=True,
                    dashboard_address="127.0.0.1:0",
                    memory_limit=0,
                    local_directory=scratch,
                    silence_logs=logging.CRITICAL,
                )
                where = stack.enter_context(cluster)
            elif scheduler == SLURM:
                where = stack.enter_context(_slurm(slurm))
            file = {"scheduler_file": scheduler} if scheduler and Path(scheduler).is_file() else {"address": where}
            client = stack.enter_context(Client(**file, timeout=_CONNECT_SECONDS, set_as_default=False))
            client.wait_for_workers(count, timeout=None if scheduler == SLURM else _CONNECT_SECONDS)
        except (OSError, ValueError, TypeError, TimeoutError) as error:
            said = short(error, 200) or type(error).__name__
            raise StudyError(f"scheduler: no workers at {scheduler or 'this machine'} ({said}), expected a Dask cluster") from error
        yield client


def _slurm(config: SlurmConfig) -> Any:
    try:
        from dask_jobqueue import SLURMCluster
    except ImportError as error:
        raise StudyError("scheduler: slurm needs the package dask-jobqueue: pip install 'eeg-vision-stack[cluster]'") from error
    cluster = SLURMCluster(
        queue=config.queue,
        account=config.account,
        cores=config.cores,
        processes=1,
        memory=config.memory,
        walltime=config.walltime,
        interface=config.interface,
        job_extra_directives=list(config.more_lines),
        protocol="tls://",
        scheduler_options={"dashboard": False},
    )
    cluster.scale(jobs=config.jobs)
    return cluster


@contextmanager
def _quiet() -> Iterator[None]:
    """Dask's own words: a worker that dies is told of by what comes of it."""
    loggers = [logging.getLogger(name) for name in ("distributed", "tornado", "asyncio")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
