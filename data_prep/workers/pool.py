"""Processes of this machine.

They are forks of this one, made when a job begins, so nothing is imported anew and a job of seconds is worth them. What the pieces share is
pickled all the same, as for a cluster: an open file that several processes have from a fork has one position for all of them.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

from data_prep.contract.child import die_with
from data_prep.workers.piece import AHEAD, Call, Piece, Result, Shared, compute, died, sent

_MOST_DEATHS = 3
"""Workers that may die of a piece while nothing else is computed."""


@dataclass
class _Asked:
    piece: Any
    answer: Future[Any] | None = None
    """None: of nobody yet, or of a worker that died."""

    def lost(self) -> bool:
        """Whether who was to compute it is gone."""
        answer = self.answer
        return answer is not None and (not answer.done() or answer.cancelled() or isinstance(answer.exception(), BrokenProcessPool))


class Pool:
    """So many processes."""

    def __init__(self, count: int) -> None:
        self._count = count

    def map(self, function: Callable[[Shared, Piece], Result], shared: Shared, pieces: Sequence[Piece]) -> Iterator[Result]:
        """``function(shared, piece)`` of every piece, in their order, each by a worker; one that dies has its pieces done by another.

        Raises
        ------
        StudyError
            What cannot be sent; a piece of which several workers died.
        """
        call = sent(Call.here(function, shared))
        rest, waiting, deaths = iter(pieces), deque[_Asked](), 0
        with contextlib.ExitStack() as stack:
            workers = stack.enter_context(self._workers(call))
            while True:
                waiting.extend(_Asked(piece) for piece in itertools.islice(rest, self.ahead() - len(waiting)))
                if not waiting:
                    return
                try:
                    # After a death the first is computed alone, for any of them may have been the cause.
                    for each in itertools.islice(waiting, 1 if deaths else None):
                        if each.answer is None:
                            each.answer = workers.submit(_computed, each.piece)
                    assert waiting[0].answer is not None
                    result = waiting[0].answer.result()
                except BrokenProcessPool as error:
                    deaths += 1
                    if deaths > _MOST_DEATHS:
                        raise died(waiting[0].piece) from error
                    stack.close()
                    workers = stack.enter_context(self._workers(call))
                    for each in waiting:
                        if each.lost():
                            each.answer = None
                    continue
                waiting.popleft()
                deaths = 0
                yield result

    def ahead(self) -> int:
        """Pieces that are asked for before the first is taken."""
        return AHEAD * self._count

    @contextlib.contextmanager
    def _workers(self, call: bytes) -> Iterator[ProcessPoolExecutor]:
        how = get_context("fork" if sys.platform == "linux" else "spawn")  # elsewhere what the system itself runs may not survive a fork
        workers = ProcessPoolExecutor(self._count, how, initializer=_begin, initargs=(os.getpid(), call))
        try:
            yield workers
        finally:
            workers.shutdown(cancel_futures=True)


_call: list[bytes] = []
"""On a worker: that of its job."""


def _begin(parent: int, call: bytes) -> None:
    die_with(parent)
    _call[:] = [call]


def _computed(piece: Any) -> Any:
    return compute(_call[0], piece)
