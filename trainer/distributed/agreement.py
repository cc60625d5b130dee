"""All ranks are about to do what rank 0 does, or none begins.

Hosts come to differ without a word: another checkout, another package, a config or a split that was copied before it was changed. Each rank
would train to its end, and what it did not share with the others would be averaged with theirs. So before the first step each holds its
facts against those of rank 0, and the host and the field that differ are named. The ranks talk through the store in which they met: there
are no groups yet that would have to be made first.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta

import torch.distributed as dist

from data_prep.contract.errors import UserError
from data_prep.contract.words import listed, short
from trainer.distributed.world import World

_LOOK_SECONDS = 2.0
_MOST_NAMED = 4


def agree(world: World, name: str, facts: Mapping[str, str], *, timeout_seconds: float) -> None:
    """Hold this rank's facts against those of rank 0; a collective.

    Parameters
    ----------
    name
        Of the facts, another one each time.
    facts
        What must be the same, by field: short texts, or hashes of long ones.
    timeout_seconds
        Longest wait for another rank.

    Raises
    ------
    UserError
        On every rank the same sentence: which hosts differ from rank 0's, in which fields; or which rank was not heard of.
    """
    if world.size == 1:
        return
    store, end = dist.distributed_c10d._get_default_store(), time.monotonic() + timeout_seconds
    if world.is_main:
        store.set(f"{name}/facts", json.dumps(dict(facts)))
    first = dict(facts) if world.is_main else json.loads(_wait(store, f"{name}/facts", 0, end))
    mine = {"host": socket.gethostname(), "differs": differences(first, facts)}
    store.set(f"{name}/of/{world.rank}", json.dumps(mine))
    if world.is_main:
        answers = [json.loads(_wait(store, f"{name}/of/{rank}", rank, end)) for rank in range(world.size)]
        store.set(f"{name}/verdict", verdict([(answer["host"], answer["differs"]) for answer in answers]))
    if said := _wait(store, f"{name}/verdict", 0, end):
        raise UserError(said)


def differences(first: Mapping[str, str], mine: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """(field, what rank 0 has, what this rank has) of all fields that differ."""
    pairs = ((field, first.get(field, "nothing"), mine.get(field, "nothing")) for field in sorted(first.keys() | mine.keys()))
    return [(field, one, other) for field, one, other in pairs if one != other]


def verdict(answers: Sequence[tuple[str, Sequence[Sequence[str]]]]) -> str:
    """One sentence about what the ranks said, (host, differences) in their order; empty where all agree."""
    differing = [rank for rank, (_, found) in enumerate(answers) if found]
    if not differing:
        return ""
    rank = differing[0]
    host, found = answers[rank]
    shown = [f"{field} is {short(other)} there and {short(one)} here" for field, one, other in found[:_MOST_NAMED]]
    more = f", and {len(found) - _MOST_NAMED} more fields differ" if len(found) > _MOST_NAMED else ""
    others = [f"{answers[other][0]} (rank {other})" for other in differing[1:]]
    also = f"; {listed(others, _MOST_NAMED)} differ{'s' if len(others) == 1 else ''}, too" if others else ""
    here = answers[0][0]
    return f"{host} (rank {rank}) would not train what {here} (rank 0) does: {'; '.join(shown)}{more}{also}: expected the same on all ranks"


def _wait(store: dist.Store, key: str, rank: int, end: float) -> str:
    """What a rank puts into the store under ``key``."""
    while True:
        try:
            store.wait([key], timedelta(seconds=_LOOK_SECONDS))
            return store.get(key).decode()
        except dist.DistStoreError as error:
            if store.check([f"failed/{rank}"]):
                raise UserError(f"rank {rank} could not start, see its error") from error
            if time.monotonic() > end:
                raise UserError(f"rank {rank} was not heard of in time: look whether its host runs, and its log") from error
        except RuntimeError as error:  # rank 0, which may keep the store, is gone
            raise UserError(f"rank {rank} was gone before the first step, see its error") from error
