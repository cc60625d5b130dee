"""A run folder that the first host alone has (``run_folder: local``): what ranks on other hosts write for a checkpoint is sent to rank 0,
and what they need of one comes from there. So a checkpoint is whole in one place, and no other host's disk has to outlive the run.

Files travel in pieces from one rank to another, by the group in which all ranks train; nothing else does meanwhile.
"""

from __future__ import annotations

import hashlib
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from data_prep.contract.errors import CommandError
from data_prep.contract.machine import this_machine
from data_prep.contract.words import listed
from trainer.distributed.world import World
from trainer.training.owner import Owner

SEEN_SECONDS = 5.0
"""How long hosts look whether they see a folder that they should not."""
_PIECE_BYTES = 2**24
_BROUGHT = ".brought"


class Apart:
    """Ranks on hosts that do not see rank 0's run folder.

    Parameters
    ----------
    run
        The run folder: rank 0's on its host, on others a folder of the same path in which nothing stays.
    ranks
        Those ranks, ascending.
    firsts
        Of each of their hosts one.
    """

    def __init__(self, run: Path, world: World, device: torch.device, *, ranks: Sequence[int], firsts: Sequence[int]) -> None:
        self.run, self.world, self.device = run, world, device
        self.ranks, self.firsts = tuple(ranks), tuple(firsts)

    @property
    def here(self) -> bool:
        """Whether this rank is one of them."""
        return self.world.rank in self.ranks

    @property
    def first_here(self) -> bool:
        """Whether it is the one that cleans up on its host."""
        return self.world.rank in self.firsts

    def send(self, files: Sequence[Path], into: Path) -> None:
        """A collective: these ranks' files appear in the folder ``into`` of rank 0, under their names.

        Raises
        ------
        CommandError
            On rank 0: a file that did not arrive as it was sent.
        """
        for rank in self.ranks:
            if self.world.rank == rank:
                self._give([(file.name, file) for file in files], 0)
            elif self.world.rank == 0:
                self._take(into, rank)

    def bring(self, folder: Path, name: str) -> Path:
        """A collective: a folder of rank 0's host, without the export in it, for ranks of all hosts; returns where this rank finds it."""
        there = self.scratch / name
        for rank in self.firsts:
            if self.world.rank == rank:
                self._take(there, 0)
            elif self.world.rank == 0:
                inner = ((file.relative_to(folder), file) for file in sorted(folder.rglob("*")) if file.is_file())
                self._give([(path.as_posix(), file) for path, file in inner if path.parts[0] != "export"], rank)
        dist.barrier()
        return there if self.here else folder

    def forget(self) -> None:
        """What was brought is not needed any more; on other ranks than the first of a host: nothing."""
        if self.first_here:
            shutil.rmtree(self.scratch, ignore_errors=True)

    def clean(self) -> None:
        """Take away what an attempt that was killed left on these hosts."""
        self.forget()
        if self.first_here:
            for partial in (self.run / "checkpoints").glob(".*.partial"):
                shutil.rmtree(partial, ignore_errors=True)

    @property
    def scratch(self) -> Path:
        """Where on these hosts what was brought lies."""
        return self.run / _BROUGHT

    def _give(self, files: Sequence[tuple[str, Path]], to: int) -> None:
        self._say([(name, file.stat().st_size) for name, file in files], to)
        for _, file in files:
            digest = hashlib.sha256()
            with file.open("rb") as source:
                while piece := source.read(_PIECE_BYTES):
                    digest.update(piece)
                    dist.send(torch.frombuffer(bytearray(piece), dtype=torch.uint8).to(self.device), to)
            self._say(digest.hexdigest(), to)

    def _take(self, into: Path, of: int) -> None:
        into.mkdir(parents=True, exist_ok=True)
        for name, size in self._hear(of):
            digest, left = hashlib.sha256(), size
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            with (into / name).open("wb") as target:
                while left:
                    piece = torch.empty(min(left, _PIECE_BYTES), dtype=torch.uint8, device=self.device)
                    dist.recv(piece, of)
                    content = piece.cpu().numpy().tobytes()
                    digest.update(content)
                    target.write(content)
                    left -= len(content)
            if digest.hexdigest() != self._hear(of):
                raise CommandError(
                    f"{into / name}: its SHA-256 is not that of the file which rank {of} sent: the network or a disk altered it"
                )

    def _say(self, value: Any, to: int) -> None:
        dist.send_object_list([value], to, device=self.device)

    def _hear(self, of: int) -> Any:
        found: list[Any] = [None]
        dist.recv_object_list(found, of, device=self.device)
        return found[0]


def ranks_apart(run: Path, owner: Owner | None, world: World, device: torch.device) -> Apart:
    """Which ranks are on other hosts than rank 0; a collective.

    Raises
    ------
    CommandError
        One of them sees the folder all the same, or has a run of its own there; or one of rank 0's host does not see it.
    """
    mine = this_machine()
    every: list[Any] = [None] * world.size
    dist.all_gather_object(every, mine)
    ranks = [rank for rank, machine in enumerate(every) if machine != every[0]]
    sees = owner is not None and owner.sees_itself(wait_seconds=SEEN_SECONDS)
    seen: list[Any] = [None] * world.size
    dist.all_gather_object(seen, (socket.gethostname(), sees, (run / "identity.json").is_file()))
    if blind := [f"{host} (rank {rank})" for rank, (host, found, _) in enumerate(seen) if not found and rank not in ranks]:
        raise CommandError(f"run: {run} is not the folder that rank 0 writes for {listed(blind, 4)} of the same host: expected one")
    if shared := [f"{host} (rank {rank})" for rank, (host, found, _) in enumerate(seen) if found and rank in ranks]:
        raise CommandError(
            f"run_folder: local, but {listed(shared, 4)} sees {run} of {seen[0][0]}: expected shared, or a folder of its own"
        )
    if others := [f"{host} (rank {rank})" for rank, (host, _, holds) in enumerate(seen) if holds and rank in ranks]:
        raise CommandError(
            f"run_folder: local, but {run} on {listed(others, 4)} holds a run of its own: expected one on the first host alone"
        )
    firsts = [every.index(machine) for machine in dict.fromkeys(every) if machine != every[0]]
    return Apart(run, world, device, ranks=ranks, firsts=firsts)
