"""One way to say how far a long job is: a bar where a person watches, plain lines where the output is redirected.

``for shard in tracked(shards, "shards")`` counts items; ``with progress("images", total) as advance`` counts what the caller
says. Either way a line is there at once and then at least every :data:`EVERY_SECONDS`, however long one item takes.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Protocol, TextIO, TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from data_prep.contract.terminal import Terminal

EVERY_SECONDS = 10.0
"""Longest silence of a redirected command."""

Item = TypeVar("Item")


class Advance(Protocol):
    """Says that ``count`` more are done."""

    def __call__(self, count: int = 1) -> None: ...


class _Rate(ProgressColumn):
    """Items a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.2g}/s", style="progress.data.speed")


class ProgressLines:
    """Plain lines such as ``shards 3/12 (20 s, 0.15/s, 60 s left)``, each flushed; safe to call from several threads.

    Parameters
    ----------
    what
        What is counted, in the plural.
    total
        How many there will be; None: nobody knows.
    stream
        Where the lines go.
    clock
        Seconds, rising.
    every_seconds
        A line is due this long after the last one.
    """

    def __init__(self, what: str, total: int | None, stream: TextIO, clock: Callable[[], float], every_seconds: float) -> None:
        self._what, self._total, self._stream, self._clock, self._every_seconds = what, total, stream, clock, every_seconds
        self._lock = threading.Lock()
        self._done = 0
        self._began = self._said = clock()
        self._write(f"{what} {self._count()}")

    def advance(self, count: int = 1) -> None:
        """``count`` more are done; says so if a line is due."""
        with self._lock:
            self._done += count
            self._say_if_due()

    def beat(self) -> None:
        """Says where things are if a line is due."""
        with self._lock:
            self._say_if_due()

    def finish(self) -> None:
        """Says how many there were and how long they took."""
        with self._lock:
            self._say(self._clock())

    def _count(self) -> str:
        return f"{self._done}" if self._total is None else f"{self._done}/{self._total}"

    def _say_if_due(self) -> None:
        now = self._clock()
        if now - self._said >= self._every_seconds:
            self._say(now)

    def _say(self, now: float) -> None:
        self._said = now
        seconds = now - self._began
        self._write(f"{self._what} {self._count()} ({seconds:.0f} s{self._ahead(seconds)})")

    def _ahead(self, seconds: float) -> str:
        """``, 2.5/s, 30 s left``, while there is more to come and something to judge by."""
        if self._total is None or not 0 < self._done < self._total or seconds <= 0:
            return ""
        rate = self._done / seconds
        return f", {rate:.2g}/s, {(self._total - self._done) / rate:.0f} s left"

    def _write(self, line: str) -> None:
        self._stream.write(f"{line}\n")
        self._stream.flush()


@contextmanager
def progress(
    what: str,
    total: int | None = None,
    *,
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
    every_seconds: float = EVERY_SECONDS,
) -> Iterator[Advance]:
    """A job of ``total`` steps, counted by the function that the ``with`` gives; ``stream`` is stderr unless another is given."""
    stream = sys.stderr if stream is None else stream
    if stream.isatty():
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            _Rate(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Terminal(file=stream), transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda count=1: bar.advance(task, count)
        return
    lines = ProgressLines(what, total, stream, clock, every_seconds)
    with _beating(lines, every_seconds):
        yield lines.advance
    lines.finish()


def tracked(items: Iterable[Item], what: str, total: int | None = None, *, stream: TextIO | None = None) -> Iterator[Item]:
    """``items`` one by one, counted; ``total`` is needed where they have no length."""
    known = len(items) if total is None and isinstance(items, Sized) else total
    with progress(what, known, stream=stream) as advance:
        for item in items:
            yield item
            advance()


@contextmanager
def _beating(lines: ProgressLines, every_seconds: float) -> Iterator[None]:
    # One item may take minutes (a large shard, a fit): a thread speaks while the job cannot.
    over = threading.Event()

    def beat() -> None:
        while not over.wait(every_seconds / 10):
            lines.beat()

    thread = threading.Thread(target=beat, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
