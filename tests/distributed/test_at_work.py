"""Rank 0 may work for longer than any collective waits; the others wait for as long as it is heard of."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any

import pytest
import torch.distributed as dist

from data_prep.contract.errors import CommandError
from tests.distributed.launcher import free_port
from trainer.distributed.world import World, all_or_none
from trainer.training.checkpoint import on_rank_0

RANKS = 2
COLLECTIVES_WAIT = 2.0


def works_longer() -> str:
    time.sleep(3 * COLLECTIVES_WAIT)
    return "done"


def fails_late() -> str:
    time.sleep(1.5 * COLLECTIVES_WAIT)
    raise CommandError("this cannot be")


def is_stopped() -> str:
    os.kill(os.getpid(), signal.SIGSTOP)
    return "woken"


def is_killed() -> str:
    os.kill(os.getpid(), signal.SIGKILL)
    return "never"


def is_stopped_itself() -> str:
    return is_stopped()


def is_killed_itself() -> str:
    return is_killed()


def takes_too_long() -> str:
    time.sleep(3 * COLLECTIVES_WAIT)
    return "late"


BEFORE_THE_OTHERS_ARE_THROUGH = (is_stopped_itself, is_killed_itself, takes_too_long)


def rank_main(rank: int, port: int, action: Callable[[], str], answer: Connection) -> None:
    wait = timedelta(seconds=COLLECTIVES_WAIT)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=RANKS, timeout=wait)
    began = time.monotonic()
    world = World(rank=rank, size=RANKS)
    try:
        if action in BEFORE_THE_OTHERS_ARE_THROUGH:
            with all_or_none(world, COLLECTIVES_WAIT):
                said = action() if not rank else "done"
        else:
            said = on_rank_0(world, action, lost_seconds=COLLECTIVES_WAIT)
    except (Exception, SystemExit) as error:
        said = f"{type(error).__name__}: {error}"
    if said != "done":
        dist.destroy_process_group()
    answer.send((said, time.monotonic() - began))
    if rank:
        time.sleep(0.5)
    os._exit(0)


def played(action: Callable[[], str]) -> list[Any]:
    """What each rank got, and after how many seconds; None of one that never answered."""
    context, port = multiprocessing.get_context("fork"), free_port()
    pipes = [context.Pipe(duplex=False) for _ in range(RANKS)]
    ranks = [context.Process(target=rank_main, args=(rank, port, action, pipes[rank][1])) for rank in range(RANKS)]
    for rank in ranks:
        rank.start()
    try:
        found: list[Any] = [None] * RANKS
        for rank in reversed(range(RANKS)):
            if pipes[rank][0].poll(60 if rank else 10 if action in (works_longer, fails_late) else 0):
                found[rank] = pipes[rank][0].recv()
        return found
    finally:
        for rank in ranks:
            rank.kill()
            rank.join(10)


def test_the_others_wait_for_as_long_as_rank_0_works() -> None:
    for said, seconds in played(works_longer):
        assert said == "done"
        assert seconds >= 3 * COLLECTIVES_WAIT


def test_its_failure_is_everybodys() -> None:
    (ours, _), (theirs, _) = played(fails_late)
    assert ours == "CommandError: this cannot be"
    assert theirs.startswith("SystemExit")


@pytest.mark.parametrize("action", [is_stopped, is_killed])
def test_one_that_is_not_heard_of_is_not_waited_for(action: Callable[[], str]) -> None:
    _, (said, seconds) = played(action)
    assert said.startswith("RankLost: rank 0 was ")
    assert seconds < COLLECTIVES_WAIT * 4


@pytest.mark.parametrize(
    ("action", "wanted"),
    [
        (is_stopped_itself, "RankLost: rank 0 of 2 was not heard of for 2 seconds"),
        (is_killed_itself, "UserError: another rank was gone before the first step"),
        (takes_too_long, "UserError: rank 0 of 2 was not ready after 2 seconds"),
    ],
)
def test_who_is_through_does_not_wait_for_a_rank_0_that_is_stopped(action: Callable[[], str], wanted: str) -> None:
    """The store lies with rank 0."""
    _, (said, seconds) = played(action)
    assert said.startswith(wanted)
    assert seconds < COLLECTIVES_WAIT * 3
