"""Questions to the store in which the ranks found each other.

It lies with rank 0, or with the launcher on its host: where that is gone a question is an error, and where it is stopped, a question never
ends.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Unanswered(Exception):
    """The store has not answered in time."""


class StoreGone(Unanswered):
    """It never will."""


def answered(question: Callable[[], T], seconds: float) -> T:
    """What ``question`` gives, which asks the store; after ``seconds`` nobody waits for it any more.

    Raises
    ------
    Unanswered, StoreGone
    """
    answers: queue.SimpleQueue[tuple[T] | None] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put((question(),))
        except RuntimeError:  # of torch's store and its sockets
            answers.put(None)

    threading.Thread(target=ask, name="store", daemon=True).start()
    try:
        answer = answers.get(timeout=seconds)
    except queue.Empty:
        raise Unanswered from None
    if answer is None:
        raise StoreGone
    return answer[0]
