"""Work of rank 0 that may take longer than any collective waits: the others wait for as long as it is heard of."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator

import torch.distributed as dist

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
    heard = _Heard()
    # A thread of its own, which nobody waits for: where the store lies with a rank 0 that is stopped, a question to it never ends.
    threading.Thread(target=_listen, args=(store, key, heard), daemon=True).start()
    while not heard.done:
        if heard.gone or time.monotonic() > heard.last + lost_seconds:
            how = "was gone" if heard.gone else f"was not heard of for {lost_seconds:g} seconds (train.timeout_seconds)"
            raise RankLost(f"rank 0 {how} before the first step, see its error, or its host and link")
        time.sleep(0.05)


class _Heard:
    def __init__(self) -> None:
        self.last, self.done, self.gone = time.monotonic(), False, False


def _listen(store: dist.Store, key: str, heard: _Heard) -> None:
    last = b""
    try:
        while not store.check([f"{key}/done"]):
            if store.check([f"{key}/beat"]) and (beat := store.get(f"{key}/beat")) != last:
                heard.last, last = time.monotonic(), beat
            time.sleep(0.1)
        heard.done = True
    except RuntimeError:
        heard.gone = True
