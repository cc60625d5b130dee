"""Parts of a checkpoint, one or more a rank: durable, hashed by the rank that wrote them, and seen by rank 0 before it seals the whole."""

from __future__ import annotations

import re
import socket
import time
from pathlib import Path
from typing import Any

import torch.distributed as dist

from data_prep.contract.errors import CommandError
from data_prep.contract.files import fsync, sha256_file
from data_prep.contract.records import SealedFile
from trainer.distributed.world import World
from trainer.training.owner import SHARED_SECONDS


def written_parts(path: Path, world: World, zero_stage: int) -> dict[str, SealedFile]:
    """The parts that the ranks wrote, durable, as each rank knows its own; a collective.

    Raises
    ------
    CommandError
        On rank 0: it does not see one of them as its rank does, or a rank wrote none.
    """
    own = own_parts(path, world)
    for file in own:
        fsync(file)
    mine = {file.name: SealedFile(bytes=file.stat().st_size, sha256=sha256_file(file)) for file in own}
    every: list[Any] = [None] * world.size
    dist.all_gather_object(every, (socket.gethostname(), mine))
    parts: dict[str, SealedFile] = {}
    for rank, (host, written) in enumerate(every):
        if not written and (rank == 0 or zero_stage):
            raise CommandError(f"{path}: rank {rank} on {host} has written no part of this checkpoint: it is not sealed, earlier ones stay")
        if world.is_main:
            _await(path, written, f"rank {rank} on {host}")
        parts |= written
    return parts


def own_parts(path: Path, world: World) -> list[Path]:
    """Files of a checkpoint that this rank writes, those that are there."""
    return sorted(file for file in path.glob("*.pt") if _rank_of(file.name) == world.rank) if path.is_dir() else []


def _rank_of(part: str) -> int:
    """Rank that writes a file of DeepSpeed's checkpoints."""
    found = re.search(r"zero_pp_rank_(\d+)_", part)
    return int(found[1]) if found else 0


def _await(path: Path, written: dict[str, SealedFile], who: str) -> None:
    end = time.monotonic() + SHARED_SECONDS
    for name, sealed in written.items():
        while (size := (path / name).stat().st_size if (path / name).is_file() else None) != sealed.bytes:
            if time.monotonic() > end:
                seen = "no such file" if size is None else f"{size} bytes"
                raise CommandError(f"{path / name}: {seen}, {who} wrote {sealed.bytes} bytes: expected a folder that all hosts share")
            time.sleep(0.1)
