"""A start that fails leaves the run folder as it was: what it wrote is taken away, what was there before is put back.

A run has started when every rank is about to take its first step. Until then a folder is written into all the same (a converted
checkpoint, the run's first files, what callbacks open), because callbacks and other ranks read it. So before the first of these what is
there is looked at, and whatever ends the start, on this rank or on another, undoes what has come since.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from data_prep.contract.errors import UserError
from data_prep.contract.files import write_atomically
from trainer.distributed.stop_signals import stop_signals
from trainer.training.owner import Owner

STOPPED_STATUS = 75
"""Exit status of a run that a signal stopped: not finished, to be resumed or started again (sysexits' EX_TEMPFAIL)."""
_SMALL_BYTES = 2**20


@dataclass(frozen=True, kw_only=True)
class Before:
    """A run folder as a start found it."""

    path: Path
    missing: tuple[Path, ...]
    """The folder and its parents, those that were not there, innermost first."""
    names: frozenset[Path]
    """All that was in it."""
    contents: dict[Path, bytes]
    """The small files at its top: all that a start replaces or takes away is among them."""
    lengths: dict[Path, int]
    """Bytes of the line files at its top, which only grow."""

    @classmethod
    def of(cls, path: Path) -> Before:
        """Look at a run folder; one that is not there is fine."""
        path = path.absolute()
        top = {file: file.stat().st_size for file in path.iterdir() if file.is_file()} if path.is_dir() else {}
        return cls(
            path=path,
            missing=tuple(folder for folder in (path, *path.parents) if not folder.exists()),
            names=frozenset(_walk(path)),
            contents={file: file.read_bytes() for file, size in top.items() if file.suffix != ".jsonl" and size <= _SMALL_BYTES},
            lengths={file: size for file, size in top.items() if file.suffix == ".jsonl"},
        )

    def restore(self) -> None:
        """Make the folder what it was. Nothing is touched that has not changed, and a checkpoint never: a start writes none, so a new
        one beside others is that of a run which is at work in the same folder."""
        checkpoints = self.path / "checkpoints"
        for path in _walk(self.path):
            if path not in self.names and not (checkpoints in self.names and path.is_relative_to(checkpoints)):
                _remove(path)
        for file, content in self.contents.items():
            if not file.is_file() or file.read_bytes() != content:
                write_atomically(file, content)
        for file, length in self.lengths.items():
            if file.stat().st_size > length:
                os.truncate(file, length)
        for folder in self.missing:
            with contextlib.suppress(OSError):  # a parent may hold what others have put there since
                folder.rmdir()


class Start:
    """What one rank has to undo should the start of a run fail; nothing until :meth:`before_writing`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.before: Before | None = None
        self.owner: Owner | None = None
        """Who owns the folder; a process that was taken for dead has nothing to undo in what is another's now."""
        self.scratch: Path | None = None
        """A folder that is of no use after the start. Every rank takes it away: rank 0 may hang in a collective with one that is gone."""

    def before_writing(self) -> None:
        """On rank 0, before anything is written: what is there now is what a failure leaves. Later calls change nothing."""
        self.before = self.before or Before.of(self.path)

    def undo(self) -> None:
        """Leave no trace."""
        if self.owner is not None:
            self.owner.check()
        if self.scratch is not None:
            shutil.rmtree(self.scratch, ignore_errors=True)
        if self.before is not None:
            self.before.restore()


@contextlib.contextmanager
def starting(path: Path) -> Iterator[Start]:
    """Context in which a run is set up in the folder ``path``; what leaves it with an error leaves the folder as it was.

    SIGTERM, by which a launcher ends the other ranks when one has failed, or SIGHUP ends a start with :data:`STOPPED_STATUS`: nothing is
    trained yet that would have to be saved.
    """
    start = Start(path)
    previous = {number: signal.signal(number, _end) for number in stop_signals()}
    try:
        yield start
    except BaseException as error:
        for number in previous:
            signal.signal(number, signal.SIG_IGN)  # SIGTERM comes as soon as another rank is gone, and must not cut this short
        try:
            start.undo()
        except (OSError, UserError) as second:  # what ended the start is what has to be said
            error.add_note(f"and {path} could not be made what it was before: {second}")
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(STOPPED_STATUS)


def _walk(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        yield from (Path(folder) / name for name in (*folders, *files))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
