"""A process that ends itself anywhere: before any line of some files, before any change of a folder, or in the middle of writing.

A line that runs once is as likely a place as one that runs a thousand times: the n-th time counts 1/n. The process dies of SIGKILL, as
soon as what has run counts more than a number that was drawn before.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Literal

How = Literal["kill", "torn", "stop", "never"]
_CHANGES = (
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.mkdir",
    "os.truncate",
    "os.link",
    "shutil.copyfile",
    "shutil.rmtree",
    "sqlite3.connect",
)
_WRITING = os.O_WRONLY | os.O_RDWR
_CHANGE_COUNTS = 3.0


class Killer:
    """Watches this process, in every thread that begins after :meth:`start`, and ends it once.

    Parameters
    ----------
    files
        Beginnings of the paths of the files whose lines count.
    home
        Folder whose changes count.
    after
        How much may run before; a run that ends earlier is not touched, and :attr:`counted` says how much it had.
    how
        ``kill``; ``torn``: in the middle of what is being written, if anything is; ``stop``: SIGTERM, and the process goes on.
    report
        File that says where it happened.
    """

    def __init__(self, files: tuple[str, ...], home: Path, *, after: float, how: How, draw: random.Random, report: Path) -> None:
        self.files, self.home, self.after, self.how, self.draw, self.report = files, f"{home}{os.sep}", after, how, draw, report
        self.counted = 0.0
        self._times: Counter[tuple[str, int]] = Counter()
        self._watched: dict[str, bool] = {}
        self._bytes_before: dict[str, int] = {}
        self._done = how == "never"
        self._away = threading.local()

    def start(self) -> None:
        """From now on; there is no end."""
        sys.addaudithook(self._changes)
        threading.settrace(self._called)
        sys.settrace(self._called)

    @contextlib.contextmanager
    def resting(self) -> Iterator[None]:
        """Context in which this thread is not watched."""
        self._away.now = True
        try:
            yield
        finally:
            self._away.now = False

    def _called(self, frame: FrameType, event: str, argument: Any) -> Any:
        file = frame.f_code.co_filename
        if file not in self._watched:
            self._watched[file] = file.startswith(self.files)
        return self._line if self._watched[file] else None

    def _line(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            self._moment(frame.f_code.co_filename, frame.f_lineno, 1.0, ())
        return self._line

    def _changes(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in _CHANGES and not (event == "open" and arguments[2] & _WRITING):
            return
        path = arguments[1] if event == "shutil.copyfile" else arguments[0]
        if isinstance(path, (str, os.PathLike)) and os.path.abspath(path).startswith(self.home):
            if event == "open":
                self._bytes_before[os.path.abspath(path)] = os.stat(path).st_size if os.path.exists(path) else 0
            self._moment(event, 0, _CHANGE_COUNTS, arguments)

    def _moment(self, place: str, line: int, counts: float, arguments: tuple[Any, ...]) -> None:
        if getattr(self._away, "now", False):
            return
        # Changes are told apart by who makes them.
        key = (place, line) if line else (place, sum(frame.f_lineno for frame in _stack(sys._getframe(2))))
        self._times[key] += 1
        self.counted += counts / self._times[key]
        if self.counted >= self.after and not self._done:
            self._done = True
            with self.resting():
                self._end(f"{place}:{line}" if line else f"{place}{arguments[:2]}", place, arguments)

    def _end(self, where: str, place: str, arguments: tuple[Any, ...]) -> None:
        torn = self._tear(place, arguments) if self.how == "torn" else []
        with self.report.open("a") as report:
            report.write(f"{self.how} before {where}{''.join(torn)}\n")
        os.kill(os.getpid(), signal.SIGTERM if self.how == "stop" else signal.SIGKILL)

    def _tear(self, place: str, arguments: tuple[Any, ...]) -> list[str]:
        """Leave a part of what is being written, as a kill in the middle of it does."""
        if place == "shutil.copyfile":
            source = Path(arguments[0]).read_bytes()
            Path(arguments[1]).write_bytes(source[: self.draw.randint(0, len(source))])
            return [f", {arguments[1]} torn"]
        found = []
        for file in {id(value): value for frame in _stack(sys._getframe(2)) for value in frame.f_locals.values()}.values():
            if not isinstance(file, (io.BufferedWriter, io.BufferedRandom, io.TextIOWrapper)) or file.closed or not file.writable():
                continue
            path = os.path.realpath(f"/proc/self/fd/{file.fileno()}")
            if path.startswith(self.home):
                file.flush()
                cut = self.draw.randint(self._bytes_before.get(path, 0), os.fstat(file.fileno()).st_size)
                os.ftruncate(file.fileno(), cut)
                found.append(f", {path} torn at {cut}")
        return found


def _stack(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back
