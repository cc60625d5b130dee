"""Who this process is among all ranks, on which device it computes, and how the ranks find each other.

:func:`read_world` is the only place that reads the launcher's variables; :class:`World` is a value, so everything that
depends on rank and size can be tested for any cluster in one process.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import torch
import torch.distributed

from data_prep.contract.errors import UserError
from trainer.distributed.lean_deepspeed import import_deepspeed
from trainer.distributed.schedulers import launcher_variables
from trainer.distributed.store import StoreGone, Unanswered, answered

DeviceName = Literal["auto", "cpu", "cuda", "mps"]


_LATER_SECONDS = 3.0


class RankLost(UserError):
    """A rank is gone, perhaps with the store in which the ranks meet: nobody is to be told of it there."""


@dataclass(frozen=True, kw_only=True)
class World:
    """This process among all: ``rank`` of ``size`` ranks, ``local_rank`` of ``local_size`` on this host."""

    rank: int = 0
    local_rank: int = 0
    size: int = 1
    local_size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise ValueError(f"RANK is {self.rank}, expected 0 to {self.size - 1} in a world of {self.size}")
        if not 0 <= self.local_rank < self.local_size <= self.size:
            raise ValueError(f"LOCAL_RANK is {self.local_rank} of {self.local_size} local ranks in a world of {self.size}")

    @property
    def is_main(self) -> bool:
        """Whether this rank writes files and logs."""
        return self.rank == 0

    @property
    def one_host(self) -> bool:
        """Whether all ranks are on this host."""
        return self.local_size == self.size

    def rows(self, count: int) -> slice:
        """The contiguous slice of ``count`` rows that is this rank's; ``count`` must be divisible by the world size."""
        if count % self.size:
            raise UserError(f"{count} rows cannot be divided among {self.size} ranks")
        share = count // self.size
        return slice(self.rank * share, (self.rank + 1) * share)


def read_world(environ: Mapping[str, str] | None = None) -> World:
    """The world that the launcher (deepspeed, torchrun, srun, mpirun) describes; without one, a single process.

    Reads ``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK`` and ``LOCAL_WORLD_SIZE`` (deepspeed calls it ``LOCAL_SIZE``), or what
    :mod:`trainer.distributed.schedulers` makes of a scheduler's own.

    Raises
    ------
    ValueError
        Only one of RANK and WORLD_SIZE is there, a value is no integer, or they contradict each other.
    """
    environ = os.environ if environ is None else environ
    environ = {**environ, **launcher_variables(environ)}
    if "RANK" not in environ and "WORLD_SIZE" not in environ:
        return World()
    for needed, other in (("RANK", "WORLD_SIZE"), ("WORLD_SIZE", "RANK")):
        if needed not in environ:
            raise UserError(
                f"{other} is {environ[other]!r} in the environment but {needed} is missing: start through a launcher, or unset it"
            )
    rank, size = _integer(environ, "RANK", 0), _integer(environ, "WORLD_SIZE", 1)
    local_size = _integer(environ, "LOCAL_WORLD_SIZE", _integer(environ, "LOCAL_SIZE", size))
    return World(rank=rank, size=size, local_rank=_integer(environ, "LOCAL_RANK", rank % max(local_size, 1)), local_size=local_size)


def check_world_size(world: World, expected: int | None) -> None:
    """Raise ValueError unless the world has ``expected`` ranks (None: any). A missing hostfile only warns in the launcher."""
    if expected is not None and world.size != expected:
        raise UserError(f"train.world_size: {expected} ranks were asked for, but {world.size} started: check the launcher and its hostfile")


def choose_device(name: DeviceName, world: World) -> torch.device:
    """The device this rank computes on.

    ``auto`` takes CUDA where there is one for every local rank, else the CPU (MPS only when named).

    Raises
    ------
    ValueError
        The device is not there, or cannot be used by so many ranks.
    """
    num_cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        name = "cuda" if num_cuda >= world.local_size else "cpu"
    if name == "cuda":
        if num_cuda == 0:
            raise UserError("train.device: cuda, but this machine has no usable CUDA device; use cpu or auto")
        if world.local_size > num_cuda:
            raise UserError(f"train.device: cuda with {world.local_size} ranks on this host, but it has {num_cuda} CUDA devices")
        return torch.device("cuda", world.local_rank)
    if name == "mps":
        if not torch.backends.mps.is_available():
            raise UserError("train.device: mps, but this machine has no Apple GPU that torch can use; use cpu or auto")
        if world.size > 1:
            raise UserError(f"train.device: mps with {world.size} ranks, but mps has no collectives: use one rank, or cpu")
        return torch.device("mps")
    if name != "cpu":
        raise UserError(f"train.device: {name!r}, expected auto, cpu, cuda or mps")
    return torch.device("cpu")


def start_distributed(world: World, device: torch.device, timeout_seconds: float) -> None:
    """Connect the ranks for DeepSpeed on ``device``; a single one meets nobody and takes no port.

    Call it before anything imports deepspeed: the accelerator is chosen at import. A second call changes nothing.
    Call :func:`set_group_timeouts` again after ``deepspeed.initialize``, which makes further groups.

    Raises
    ------
    ValueError
        deepspeed was imported for another accelerator, or the timeout is not positive.
    """
    if timeout_seconds <= 0:
        raise UserError(f"train.timeout_seconds: {timeout_seconds}, expected a positive number of seconds")
    os.environ["DS_ACCELERATOR"] = device.type
    os.environ.update(launcher_variables(os.environ))
    if world.size == 1:
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", LOCAL_SIZE="1")  # deepspeed asks for them
    if world.one_host and "GLOO_SOCKET_IFNAME" not in os.environ:
        # gloo would resolve the host's own name, which fails on machines whose name no server knows.
        loopback = sorted({name for _, name in socket.if_nameindex()} & {"lo", "lo0"})
        if loopback:
            os.environ["GLOO_SOCKET_IFNAME"] = loopback[0]
    if device.type == "cuda":
        torch.cuda.set_device(device)

    deepspeed = import_deepspeed()
    from deepspeed.accelerator import get_accelerator

    chosen = get_accelerator().device_name()
    if chosen != device.type:
        raise UserError(f"train.device: {device.type}, but deepspeed was already set up for {chosen}: set DS_ACCELERATOR={device.type}")
    if device.type == "cpu":
        # The shared-memory op serves tensor-parallel inference only, and compiling it at first use takes a minute.
        getattr(deepspeed.ops, "__compatible_ops__", {}).update(deepspeed_shm_comm=False)
    timeout = timedelta(seconds=timeout_seconds)
    backend = "nccl" if device.type == "cuda" else "gloo"
    if world.size == 1 and not torch.distributed.is_initialized():
        torch.distributed.init_process_group(backend, store=torch.distributed.HashStore(), rank=0, world_size=1, timeout=timeout)
    deepspeed.init_distributed(backend, auto_mpi_discovery=False, verbose=False, timeout=timeout)
    set_group_timeouts(timeout_seconds)


def set_group_timeouts(timeout_seconds: float) -> None:
    """Give every process group of this rank the timeout: that of ``init_distributed`` reaches only the default group,
    and the others would wait half an hour for a rank that is gone."""
    groups = torch.distributed.distributed_c10d
    set_timeout = getattr(torch.distributed, "set_timeout", None) or groups._set_pg_timeout
    for group in list(groups._world.pg_map):
        set_timeout(timedelta(seconds=timeout_seconds), group)


@contextlib.contextmanager
def new_groups_wait(timeout_seconds: float) -> Iterator[None]:
    """Context in which groups that others make without saying how long they wait (``deepspeed.initialize`` does) wait as long as ours."""
    groups = torch.distributed.distributed_c10d
    before, groups._get_default_timeout = groups._get_default_timeout, lambda backend: timedelta(seconds=timeout_seconds)
    try:
        yield
    finally:
        groups._get_default_timeout = before


@contextlib.contextmanager
def all_or_none(world: World, timeout_seconds: float, name: str = "start") -> Iterator[None]:
    """Context that ends well on all ranks or on none: a rank that fails in it tells the others, and who is through waits for all.

    The ranks tell each other through the store in which they met. In a collective a rank would wait for one that is gone where no signal
    reaches it, and one that failed would take part in whichever comes next. ``name``: of this context, another one each time.

    Raises
    ------
    UserError
        On a rank that was through: another one failed, or was not through after ``timeout_seconds``.
    """
    if world.size == 1:
        yield
        return
    store = torch.distributed.distributed_c10d._get_default_store()
    try:
        yield
    except RankLost:
        raise
    except BaseException as error:
        sentence, told = str(error), isinstance(error, UserError) and bool(world.rank)
        with contextlib.suppress(Unanswered):  # rank 0, which may keep the store, may have been the first to fail, or hang
            answered(lambda: store.set(f"failed/{world.rank}", sentence), _LATER_SECONDS)
            if told and answered(lambda: _is_said_by_rank_0(store, sentence), 2 * _LATER_SECONDS):
                raise SystemExit(1) from error
        raise
    end = time.monotonic() + timeout_seconds
    try:
        answered(lambda: store.set(f"{name}/through/{world.rank}", ""), timeout_seconds)
        while (found := answered(lambda: _first_late(store, name, world), timeout_seconds)) is not None:
            late, failed = found
            if failed:
                raise UserError(f"rank {late} of {world.size} could not start, see its error")
            if time.monotonic() > end:
                raise UserError(f"rank {late} of {world.size} was not ready after {timeout_seconds:g} seconds (train.timeout_seconds)")
            time.sleep(0.05)
    except StoreGone as error:
        raise UserError("another rank was gone before the first step, see its error") from error
    except Unanswered as error:
        silent = f"rank 0 of {world.size} was not heard of for {timeout_seconds:g} seconds (train.timeout_seconds)"
        raise RankLost(f"{silent} before the first step, see its host and link") from error


def _first_late(store: torch.distributed.Store, name: str, world: World) -> tuple[int, bool] | None:
    """A rank that is not through, and whether it has failed: one that has, if any; None: all are through."""
    late = [rank for rank in range(world.size) if not store.check([f"{name}/through/{rank}"])]
    failed = [rank for rank in late if store.check([f"failed/{rank}"])]
    return ((failed or late)[0], bool(failed)) if late else None


def _is_said_by_rank_0(store: torch.distributed.Store, sentence: str) -> bool:
    """Whether rank 0 fails with the same sentence, within the seconds by which it may be later."""
    end = time.monotonic() + _LATER_SECONDS
    while not store.check(["failed/0"]):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return bool(store.get("failed/0").decode() == sentence)


def stop_distributed() -> None:
    """Leave the process groups, if any, and make deepspeed forget them, so that the process can start anew."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
        backend, groups = (sys.modules.get(name) for name in ("deepspeed.comm.comm", "deepspeed.utils.groups"))
        if backend is not None and groups is not None:
            backend.cdb = None  # type: ignore[attr-defined]
            importlib.reload(groups)  # its globals hold the groups that are gone


def _integer(environ: Mapping[str, str], name: str, default: int) -> int:
    try:
        return int(environ.get(name, default))
    except ValueError:
        raise UserError(f"{name} is {environ[name]!r} in the environment, expected an integer") from None
