"""Work of rank 0 that may take longer than any collective waits: the others wait for as long as it is heard of."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator

import torch.distributed as dist

from trainer.distributed.store import StoreGone, Unanswered, answered
from trainer.distributed.world import RankLost, World

BEAT_SECONDS = 1.0
_numbers = itertools.count()
"""Works so far, which are the same on all ranks."""


@contextlib.contextmanager
def rank_0_at_work(world: World, lost_seconds: float) -> Iterator[None]:
    """Context in which rank 0 works, whatever time it takes, and through which the others come when it is done.

    No collective may stand in it. The ranks meet in the store through which they found each other.

    Raises
    ------
    RankLost
        On the others: nothing was heard of rank 0 for ``lost_seconds``.
    """
    if world.size == 1:
        yield
        return
    store, key = dist.distributed_c10d._get_default_store(), f"at-work/{next(_numbers)}"
    if world.rank:
        _wait(store, key, lost_seconds)
        yield
        return
    done = threading.Event()

    def beat() -> None:
        with contextlib.suppress(RuntimeError):  # the store is gone with the group, and so is the wait
            for number in itertools.count():
                store.set(f"{key}/beat", str(number))
                if done.wait(BEAT_SECONDS):
                    return

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        store.set(f"{key}/done", "")


def _wait(store: dist.Store, key: str, lost_seconds: float) -> None:
    last, heard, how = b"", time.monotonic(), f"was not heard of for {lost_seconds:g} seconds (train.timeout_seconds)"
    try:
        while time.monotonic() <= heard + lost_seconds:
            done, beat = answered(lambda: _look(store, key), lost_seconds)
            if done:
                return
            if beat != last:
                last, heard = beat, time.monotonic()
            time.sleep(0.1)
    except StoreGone:
        how = "was gone"
    except Unanswered:
        pass
    raise RankLost(f"rank 0 {how} before the first step, see its error, or its host and link")


def _look(store: dist.Store, key: str) -> tuple[bool, bytes]:
    """Whether the work is done, and the latest beat."""
    done = store.check([f"{key}/done"])
    return done, store.get(f"{key}/beat") if not done and store.check([f"{key}/beat"]) else b""
