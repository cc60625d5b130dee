"""One thread that computes the next values of an iterator while the last one is used."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")
_POLL_SECONDS = 0.1


class Prefetched(Iterator[T], Generic[T]):
    """Iterate over ``source`` with up to ``ahead`` values ready.

    An exception in the thread is raised by the ``next`` that would have given its value. :meth:`close` (or leaving a
    ``with`` block) stops the thread and waits for it; the thread is a daemon, so a crash elsewhere cannot leave it behind.
    """

    def __init__(self, source: Iterator[T], *, ahead: int = 2) -> None:
        if ahead < 1:
            raise ValueError(f"ahead is {ahead}, expected at least 1")
        self._ready: queue.Queue[tuple[str, object]] = queue.Queue(maxsize=ahead)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._fill, args=(source,), name="batch prefetch", daemon=True)
        self._thread.start()

    def __iter__(self) -> Prefetched[T]:
        return self

    def __next__(self) -> T:
        if self._stopped.is_set():
            raise StopIteration
        kind, value = self._ready.get()
        if kind == "value":
            return value  # type: ignore[return-value]
        self.close()
        if isinstance(value, BaseException):
            raise value
        raise StopIteration

    def close(self) -> None:
        """Stop the thread; further ``next`` calls end the iteration. May be called again."""
        self._stopped.set()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def __enter__(self) -> Prefetched[T]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _fill(self, source: Iterator[T]) -> None:
        try:
            for value in source:
                if not self._offer("value", value):
                    return
            self._offer("end", None)
        except BaseException as error:
            self._offer("error", error)

    def _offer(self, kind: str, value: object) -> bool:
        while not self._stopped.is_set():
            try:
                self._ready.put((kind, value), timeout=_POLL_SECONDS)
                return True
            except queue.Full:
                continue
        return False
