"""Each shard's SHA-256 checked once, when it is first read, by a thread beside training.

What is read before its shard's hash is known is used at once; what is computed from it is kept only after :meth:`ShardHashes.settle`.
"""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Iterable
from typing import Literal

from data_prep.contract.errors import StudyError
from data_prep.contract.tars import State, Tars

Verify = Literal["first_touch", "sizes", "all"]


class ShardHashes:
    """Which shards were read, and which of them proved to be what the manifest says. For any thread."""

    def __init__(self, tars: Tars) -> None:
        self._tars = tars
        self._hashed: dict[int, State | None] = {}
        """Every shard that was touched, and the state of its file when it was hashed; None: it is to be hashed."""
        self._waiting: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._fault: StudyError | None = None
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def touch(self, shards: Iterable[int]) -> None:
        """Have these shards hashed, if they are not yet.

        Raises
        ------
        StudyError
            A shard that was touched before is not what the manifest says.
        """
        self._refuse()
        new = [shard for shard in shards if shard not in self._hashed]
        if new:
            with self._changed:  # another thread may have asked for them meanwhile
                self._ask([shard for shard in new if shard not in self._hashed])

    def settle(self) -> None:
        """Wait until all that was touched is hashed; a file that was written to since it was hashed is hashed again.

        Raises
        ------
        StudyError
            One of them is not what the manifest says: nothing computed from it may be kept.
        """
        with self._changed:
            hashed = {shard: state for shard, state in self._hashed.items() if state is not None}
            self._ask([shard for shard, state in hashed.items() if self._tars.state(shard) != state])
            self._changed.wait_for(lambda: self._fault is not None or None not in self._hashed.values())
        self._refuse()

    def _refuse(self) -> None:
        if self._fault is not None:
            raise StudyError(str(self._fault)) from self._fault

    def _ask(self, shards: list[int]) -> None:
        """Have these hashed; for a thread that holds the condition."""
        for shard in shards:
            self._hashed[shard] = None
            self._waiting.put(shard)
        if shards and self._thread is None:
            weakref.finalize(self, _end, self._stopped, self._waiting)
            # It must not keep the object it works for, or that one's end would never come.
            work = (weakref.ref(self), self._tars, self._waiting, self._stopped)
            self._thread = threading.Thread(target=_work, args=work, name="shard hashes", daemon=True)
            self._thread.start()

    def _found(self, shard: int, state: State | None, fault: StudyError | None) -> None:
        with self._changed:
            self._hashed[shard] = state
            self._fault = self._fault or fault
            self._changed.notify_all()


def _end(stopped: threading.Event, waiting: queue.SimpleQueue[int | None]) -> None:
    stopped.set()
    waiting.put(None)


def _work(owner: weakref.ref[ShardHashes], tars: Tars, waiting: queue.SimpleQueue[int | None], stopped: threading.Event) -> None:
    while (shard := waiting.get()) is not None and not stopped.is_set():
        state, fault = None, None
        try:
            state = tars.state(shard)  # before its bytes: what is written while they are hashed is then seen as later
            tars.check(shard, stopped.is_set)
        except StudyError as error:
            fault = error
        except OSError as error:
            fault = tars.failed(shard, error)
        if (hashes := owner()) is None:
            return
        hashes._found(shard, state, fault)
        del hashes
