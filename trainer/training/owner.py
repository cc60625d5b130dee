"""A run folder has one owner at a time, on whichever host, and one that was declared dead writes nothing more.

``RUN/owner/NNNNNNNN.json`` says who owns the run: host, process, a token of its own; ``NNNNNNNN.alive`` counts up as long as it lives. The
newest number is the owner. To become the owner is to make the next number, which is a hard link to a file written before: of any number
of processes on any number of hosts one succeeds, on file systems, too, where ``flock`` is known to one host alone (NFS). Nobody takes what
another one holds, unless that one left, its process is gone (seen from its own host), or it has not counted up for :data:`DEAD_SECONDS`.

Before whatever is written the owner looks whether it still is (:meth:`Owner.check`). A process that was stopped, or a host that was cut
off, and wakes up after another one took over, ends with a sentence instead.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import psutil

from data_prep.contract.errors import CommandError, StudyError
from data_prep.contract.machine import this_machine
from data_prep.contract.records import read_record, write_record

OWNER_FOLDER = "owner"
BEAT_SECONDS = 2.0
DEAD_SECONDS = 20.0
"""A process on another host that has not shown itself for so long is dead; it may be cut off, and is fenced should it come back."""
SHARED_SECONDS = 20.0
"""How long a host may take to see what another one has written into a folder that both share."""
_SAME_START_SECONDS = 5.0
_DIGITS = 8
_MARK = re.compile(r"\d{8}\.json")


class LostOwnershipError(CommandError):
    """Another process owns the run folder now: this one must write nothing more, and tell nobody that the run failed."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """``owner/NNNNNNNN.json``: who owns a run."""

    host: str
    pid: int
    started: float
    """When the process started, seconds since 1970 by its host's clock: process numbers are used again."""
    machine: str
    """What tells two kernels, and two containers on one, apart, whatever they call themselves."""
    token: str
    since: str
    """UTC, ISO 8601."""
    left: str = ""
    """When the owner left; empty: it has not said so."""
    number: int = 0
    """As in the file's name."""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"

    @classmethod
    def of_this_process(cls) -> Claim:
        """A claim that nobody else can make."""
        return cls(
            host=socket.gethostname(),
            pid=os.getpid(),
            started=psutil.Process().create_time(),
            machine=this_machine(),
            token=secrets.token_hex(16),
            since=_now(),
        )


class Owner:
    """The right to write into a run folder.

    Parameters
    ----------
    run
        The run folder.
    claim
        As the process made it that owns the run; its other ranks look, too.
    """

    def __init__(self, run: Path, claim: Claim) -> None:
        self.run, self.claim = run, claim
        self.began = False
        """The run has started: what follows is written into its folder."""
        self.elsewhere = False
        """The folder is another host's, where its processes look; here nobody could take it."""
        self._seen = -math.inf
        self._lost: LostOwnershipError | None = None

    def check(self, *, now: bool = True) -> None:
        """Refuse to write where another process has taken over; ``now`` false: a look within the last beat counts.

        Raises
        ------
        LostOwnershipError
            One sentence with who owns the run.
        """
        if self.elsewhere:
            return
        if self._lost is not None:
            raise self._lost
        if not now and _clock() - self._seen < BEAT_SECONDS:
            return
        clock, newest = _clock(), newest_claim(self.run)
        if newest is None or newest.token != self.claim.token:
            by = f"was taken over by {newest}" if newest else f"no longer holds the mark of {self.claim}"
            self._lost = LostOwnershipError(
                f"{self.run}: {by}; this process had not been seen there for {DEAD_SECONDS:g} seconds: it ends and writes nothing more"
            )
            raise self._lost
        self._seen = clock

    def sees_itself(self, *, wait_seconds: float) -> bool:
        """Whether the folder, seen from this rank, is the one that the owner marked; a network's file system may take its time."""
        end = time.monotonic() + wait_seconds
        while True:
            newest = newest_claim(self.run)
            if newest is not None and newest.token == self.claim.token:
                return True
            if time.monotonic() >= end:
                return False
            time.sleep(0.2)

    def begin(self) -> None:
        """The run has started: from now on the mark stays, and earlier ones go."""
        self.began = True
        for number in _numbers(self.run):
            if number < self.claim.number:
                for file in (_mark(self.run, number), _alive(self.run, number)):
                    file.unlink(missing_ok=True)


def newest_claim(run: Path) -> Claim | None:
    """Who owns a run, or was the last to; None: nobody yet.

    Raises
    ------
    CommandError, StudyError
        The mark is damaged.
    """
    for number in reversed(_numbers(run)):
        try:
            return replace(read_record(_mark(run, number), Claim, written_by="a training"), number=number)
        except StudyError:
            if _mark(run, number).exists():  # else it was taken away meanwhile
                raise
    return None


def refuse_if_alive(run: Path) -> None:
    """Refuse a run that a process of this very machine owns: what a start finds out without waiting.

    Raises
    ------
    CommandError
    """
    claim = newest_claim(run)
    if claim is not None and _known_to_live(claim):
        raise _in_use(run, claim)


def is_alive(run: Path, claim: Claim) -> bool:
    """Whether an owner lives: at once where that can be told, else its beats are waited for, at most :data:`DEAD_SECONDS`."""
    if (known := _known_to_live(claim)) is not None:
        return known
    before, wait_seconds = _read(_alive(run, claim.number)), DEAD_SECONDS
    if _age(run, claim) > DEAD_SECONDS:  # by the file system's own clock, which some take from their clients: so it is looked at, too
        wait_seconds = 2 * BEAT_SECONDS
    end = time.monotonic() + wait_seconds
    while time.monotonic() < end:
        time.sleep(BEAT_SECONDS / 8)
        if _read(_alive(run, claim.number)) != before:
            return True
        now = newest_claim(run)
        if now is None or now.token != claim.token or now.left:
            return False
    return False


@contextlib.contextmanager
def owned(run: Path, *, gone: Callable[[Claim], bool] = lambda _: False) -> Iterator[Owner]:
    """Context in which this process owns the run folder, which is made if missing.

    Without :meth:`Owner.begin` it leaves no trace. ``gone``: what the caller knows of the end of an owner on another host, which else is
    waited for.

    Raises
    ------
    CommandError
        A live process owns it; the sentence says which, on which host, since when.
    """
    made = [folder for folder in (run / OWNER_FOLDER, run, *run.parents) if not folder.exists()]
    mine, owner = Claim.of_this_process(), None
    try:
        (run / OWNER_FOLDER).mkdir(parents=True, exist_ok=True)
        owner = Owner(run, _take(run, mine, gone))
        with _beating(owner):
            yield owner
    finally:
        _leave(run, owner, mine)
        for folder in made:
            with contextlib.suppress(OSError):  # something has come into it
                folder.rmdir()


def _take(run: Path, mine: Claim, gone: Callable[[Claim], bool]) -> Claim:
    prepared = run / OWNER_FOLDER / f".{mine.token}.partial"
    while True:
        there = newest_claim(run)
        if there is not None and not gone(there) and is_alive(run, there):
            raise _in_use(run, there)
        mine = replace(mine, number=1 + (there.number if there else 0))
        write_record(prepared, mine)
        try:
            os.link(prepared, _mark(run, mine.number))
        except FileExistsError:  # another one was quicker
            continue
        except OSError as error:
            raise CommandError(
                f"{run}: hard links fail there ({error.strerror}), by which a run finds its one owner: expected a file system that has them"
            ) from error
        prepared.unlink()
        known = {mine.number, there.number if there else 0}
        if all(number in known or number < min(known) for number in _numbers(run)):
            return mine
        _mark(run, mine.number).unlink()  # others have come and gone since, and one of them may be there


def _leave(run: Path, owner: Owner | None, mine: Claim) -> None:
    """Say that the run began and was left, or take away every trace of one that did not; who was fenced leaves all as it is."""
    (run / OWNER_FOLDER / f".{mine.token}.partial").unlink(missing_ok=True)
    with contextlib.suppress(CommandError, StudyError, OSError):  # nothing may hide why a run ended
        newest = newest_claim(run)
        if newest is not None and newest.token == mine.token:
            if owner is not None and owner.began:
                write_record(_mark(run, newest.number), replace(newest, left=_now()))
            else:
                _mark(run, newest.number).unlink()
            _alive(run, newest.number).unlink(missing_ok=True)


@contextlib.contextmanager
def _beating(owner: Owner) -> Iterator[None]:
    over = threading.Event()
    handle = os.open(_alive(owner.run, owner.claim.number), os.O_WRONLY | os.O_CREAT, 0o644)
    beats = threading.Thread(target=_beat, args=(owner, handle, over), name="owner of the run folder", daemon=True)
    beats.start()
    try:
        yield
    finally:
        over.set()
        beats.join()
        os.close(handle)


def _beat(owner: Owner, handle: int, over: threading.Event) -> None:
    for count in itertools.count():
        with contextlib.suppress(OSError):  # the next beat may succeed
            os.pwrite(handle, f"{count:016}\n".encode(), 0)  # in its place: a full disk has room for it
            os.close(os.dup(handle))  # on NFS a close sends it to the server; an fsync could wait long behind a checkpoint's bytes
        if over.wait(BEAT_SECONDS):
            return
        with contextlib.suppress(StudyError, OSError):
            try:
                owner.check()
            except CommandError:  # it is said where something would be written
                return


def _age(run: Path, claim: Claim) -> float:
    """Seconds since the last beat, by the clock of the file system."""
    probe = run / OWNER_FOLDER / f".{secrets.token_hex(8)}.partial"
    try:
        probe.write_bytes(b"now")
        return probe.stat().st_mtime - _alive(run, claim.number).stat().st_mtime
    except FileNotFoundError:
        return 0.0
    finally:
        probe.unlink(missing_ok=True)


def _in_use(run: Path, claim: Claim) -> CommandError:
    return CommandError(f"run: {run} is in use by {claim}: wait until it has ended, or stop it, before it is started or resumed here")


def _known_to_live(claim: Claim) -> bool | None:
    """Whether an owner lives, where that can be told at once; None: its beats alone tell."""
    if claim.left:
        return False
    return _runs_here(claim) if claim.machine == this_machine() else None


def _runs_here(claim: Claim) -> bool:
    try:
        process = psutil.Process(claim.pid)
        started, zombie = process.create_time(), process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    return not zombie and abs(started - claim.started) < _SAME_START_SECONDS


def _numbers(run: Path) -> list[int]:
    names = os.listdir(run / OWNER_FOLDER) if (run / OWNER_FOLDER).is_dir() else []
    return sorted(int(name[:_DIGITS]) for name in names if _MARK.fullmatch(name))


def _mark(run: Path, number: int) -> Path:
    return run / OWNER_FOLDER / f"{number:0{_DIGITS}}.json"


def _alive(run: Path, number: int) -> Path:
    return run / OWNER_FOLDER / f"{number:0{_DIGITS}}.alive"


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _clock() -> float:
    """Seconds, those of a machine's sleep included."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
