"""Workers of a Dask cluster that a user has, or that SLURM gives."""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.contract.errors import StudyError
from data_prep.contract.words import short
from data_prep.workers.piece import AHEAD, Call, Piece, Result, Shared, compute, died, sent

SLURM = "slurm"
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


class Dask:
    """Workers of a Dask cluster."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def map(self, function: Callable[[Shared, Piece], Result], shared: Shared, pieces: Sequence[Piece]) -> Iterator[Result]:
        call = sent(Call.here(function, shared))
        held = self._send(call)
        again = 0
        waiting: deque[tuple[Piece, Any]] = deque()
        rest = iter(pieces)
        try:
            while True:
                ahead = self.ahead()
                while len(waiting) < ahead and (piece := next(rest, _END)) is not _END:
                    waiting.append((piece, self._submit(held, piece)))
                if not waiting:
                    return
                piece, future = waiting[0]
                try:
                    result = future.result()
                except _lost() as error:
                    # All workers that held the shared value are gone: whoever has come since has never had it.
                    again += 1
                    if again > _SHARED_AGAIN:
                        raise died(piece) from error
                    held = self._send(call)
                    waiting = deque((each, self._submit(held, each)) for each, _ in waiting)
                    continue
                except _killed() as error:
                    raise died(piece) from error
                waiting.popleft()
                again = 0
                yield result
        finally:
            for _, future in waiting:
                future.cancel()

    def ahead(self) -> int:
        """Pieces that are asked for before the first is taken."""
        return AHEAD * max(1, len(self._client.scheduler_info(n_workers=-1)["workers"]))

    def _send(self, call: bytes) -> Any:
        return self._client.scatter(call, broadcast=True, hash=False)

    def _submit(self, held: Any, piece: Piece) -> Any:
        return self._client.submit(compute, held, piece, pure=False)


_END: Any = object()


def _lost() -> tuple[type[BaseException], ...]:
    from concurrent.futures import CancelledError

    from distributed.client import FutureCancelledError

    return (CancelledError, FutureCancelledError)


def _killed() -> type[BaseException]:
    from distributed import KilledWorker

    killed: type[BaseException] = KilledWorker
    return killed


@contextmanager
def cluster(scheduler: str, slurm: SlurmConfig) -> Iterator[Dask]:
    """The workers of a Dask cluster: address of its scheduler, its file, or ``slurm``.

    Raises
    ------
    StudyError
        No such cluster, or none that answers.
    """
    try:
        import dask
        from distributed import Client
    except ImportError as error:
        raise StudyError("a cluster needs the package distributed: pip install distributed") from error

    class OurClient(Client):
        def __del__(self) -> None:
            """It is closed below. One that could not connect would close itself when it is collected, by whichever thread: that which is
            just beginning for the next client would wait for itself."""

    with contextlib.ExitStack() as stack:
        stack.enter_context(_quiet())
        # Dask's own pages tell whoever asks what is computed.
        stack.enter_context(dask.config.set({f"distributed.{who}.http.routes": [] for who in ("scheduler", "worker")}))
        try:
            where = stack.enter_context(_slurm(slurm)) if scheduler == SLURM else scheduler
            file = {"scheduler_file": scheduler} if Path(scheduler).is_file() else {"address": where}
            client = stack.enter_context(OurClient(**file, timeout=_CONNECT_SECONDS, set_as_default=False))
            client.wait_for_workers(1, timeout=None if scheduler == SLURM else _CONNECT_SECONDS)
        except (OSError, ValueError, TypeError, TimeoutError) as error:
            said = short(error, 200) or type(error).__name__
            raise StudyError(f"scheduler: no workers at {scheduler} ({said}), expected a Dask cluster") from error
        yield Dask(client)


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
