"""``python -m launch.agent``: the one process that ``launch run`` has on a host. It starts the ranks there, watches them, and ends them.

It speaks JSON lines: orders come on standard input, reports go to standard output (:mod:`launch.link` is the other end, over ssh or a
pipe). No rank outlives it: the kernel kills them with it, and when whoever gave the orders is gone (the input ends, or nothing was heard
for :data:`LOST_SECONDS`) it stops them, so that they save, waits the grace, and kills what is left. It ends only what it started itself,
and only while it has not been told of their end; another agent is known by number and start time. So no number can mean another process.

::

    orders   {"do": "port", "port": 0}       hold a port where ranks meet           -> {"say": "port", "port": 20123}, or "refused"
             {"do": "start", "argv": [...], "environment": {...}, "by_rank": [{"RANK": "2", ...}, ...], "cwd": "...", "grace": 60,
              "run": "RUN" or null}          start the ranks                        -> {"say": "started", "rank": 2, "pid": 4711}, ...
             {"do": "stop"}  {"do": "kill"}  SIGTERM to the ranks; SIGKILL          -> {"say": "ended", "rank": 2, "status": 0}, ...
             {"do": "end", "pid": 4710, "started": 1.7e9, "grace": 10}              -> {"say": "gone", "pid": 4710}
                                             an earlier agent of this host: wait until it has ended, then kill it, and its ranks with it
             {"do": "clock"}                                                        -> {"say": "clock", "at": 1.7e9}
             {"do": "beat"}                  whoever gives orders is there
    reports  {"say": "hello", ...} at first, {"say": "beat"}, {"say": "output", "rank": 2, "stream": 1, "text": "..."}
"""

from __future__ import annotations

import codecs
import contextlib
import functools
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import psutil

from data_prep.contract.child import die_with
from data_prep.contract.machine import this_machine

BEAT_SECONDS = 2.0
LOST_SECONDS = 20.0
"""Without a word for so long the other end is taken for gone."""
_LOOK_SECONDS = 0.2
_MOST_KEPT_BYTES = 2**20
"""Of a rank's output until there is a run folder that takes it, and of what waits to be read by a supervisor that is slow."""
_MOST_WAITING_BYTES = 2**22
_FIRST_PORT, _LAST_PORT = 20_000, 29_999
"""Below those from which systems serve who asks for any port: nobody is given one by chance."""


class Rank:
    """A rank of this host: its process, and what it says."""

    def __init__(self, number: int, process: subprocess.Popen[bytes], signs: Sequence[Path], log: Path | None) -> None:
        self.number, self.process = number, process
        self.status: int | None = None
        self.pipes = {pipe.fileno(): stream for stream, pipe in ((1, process.stdout), (2, process.stderr)) if pipe is not None}
        self.text = {stream: codecs.getincrementaldecoder("utf-8")("backslashreplace") for stream in (1, 2)}
        self._signs = {sign: _stamp(sign) for sign in signs}
        self._log: IO[bytes] | None = None
        self._log_path, self._kept = log, bytearray()

    @property
    def began(self) -> bool:
        """Whether the run writes into its folder: a start that is refused leaves no trace there, and neither may a log."""
        return any(_stamp(sign) != before for sign, before in self._signs.items())

    def write(self, said: bytes) -> None:
        """Into the rank's log, or kept until there is one. A disk that takes nothing ends nothing."""
        self._kept += said
        del self._kept[:-_MOST_KEPT_BYTES]
        with contextlib.suppress(OSError):
            if self._log is None and self._log_path is not None and self.began:
                self._log_path.parent.mkdir(exist_ok=True)
                self._log = open(self._log_path, "ab", buffering=0, opener=_private)  # noqa: SIM115  # as long as the rank lives
            if self._log is not None and self._kept:
                self._log.write(self._kept)
                self._kept.clear()

    def look(self) -> bool:
        """Whether it has ended since the last look; what its own children are is ended with it."""
        if self.status is not None or os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return False
        self.send(signal.SIGKILL, whole=True)  # before its number is given back
        self.status = self.process.wait()
        return True

    def send(self, number: int, *, whole: bool = False) -> None:
        """A signal to the rank, or to all of its group."""
        if self.status is None:
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if whole else os.kill)(self.process.pid, number)


class Agent:
    """One attempt of one run on this host.

    Parameters
    ----------
    outputs
        File descriptors to which ranks write instead of to this process; none: it reads what they say, reports it, and keeps it in
        ``RUN/logs/HOST-rank-N.log``.
    """

    def __init__(self, outputs: tuple[int, int] | None) -> None:
        self.outputs = outputs
        self.ranks: list[Rank] = []
        self.held: socket.socket | None = None
        self.heard, self.said = time.monotonic(), time.monotonic()
        self.grace_seconds = 60.0
        self.alone, self.stopped_at = False, 0.0
        self.earlier: tuple[psutil.Process, float] | None = None
        """Another agent that must have ended by a time."""
        self._orders, self._waiting = bytearray(), bytearray()

    # ------------------------------------------------------------------------------------------------------------------ the other end

    def say(self, what: str, **facts: Any) -> None:
        """Report; output is dropped while nobody reads."""
        if not self.alone and (what != "output" or len(self._waiting) < _MOST_WAITING_BYTES):
            self._waiting += json.dumps({"say": what, **facts}).encode() + b"\n"

    def listen(self, said: bytes) -> None:
        """Obey the orders that are whole; an empty read is the end of them."""
        if not said:
            self.leave()
        self.heard = time.monotonic()
        self._orders += said
        *lines, rest = self._orders.split(b"\n")
        self._orders = bytearray(rest)
        for line in lines:
            order = json.loads(line)
            do = order.pop("do")
            if do != "beat":
                getattr(self, f"do_{do}")(**order)

    def leave(self) -> None:
        """Nobody gives orders any more."""
        if not self.alone:
            self.alone = True
            self._waiting.clear()
            self.do_stop()

    # ------------------------------------------------------------------------------------------------------------------------- orders

    def do_port(self, port: int) -> None:
        """Hold a port for rank 0: bound and not listened at, it is given to nobody but who asks for it by name and may share it."""
        if self.held is not None:
            self.held.close()
        numbers, why = [port] if port else random.Random().sample(range(_FIRST_PORT, _LAST_PORT + 1), 50), ""
        for number in numbers:
            held = socket.socket()
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                held.bind(("", number))
            except OSError as error:
                held.close()
                why = str(error)
                continue
            self.held = held
            self.say("port", port=number)
            return
        self.say("refused", port=port, why=why)

    def do_start(
        self,
        argv: Sequence[str],
        environment: Mapping[str, str],
        by_rank: Sequence[Mapping[str, str]],
        cwd: str,
        grace: float,
        run: str | None,
    ) -> None:
        """Start the ranks."""
        self.grace_seconds, self.stopped_at = grace, 0.0
        self.ranks = []
        out, err = self.outputs or (subprocess.PIPE, subprocess.PIPE)
        for own in by_rank:
            number = int(own["RANK"])
            try:
                process = subprocess.Popen(
                    list(argv),
                    cwd=cwd,
                    env={**os.environ, **environment, **own},
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    start_new_session=True,
                    preexec_fn=functools.partial(die_with, os.getpid()),
                )
            except OSError as error:
                self.say("refused", rank=number, why=str(error))
                continue
            folder = None if run is None else Path(cwd, run)
            signs = [] if folder is None else [folder / "logs" / f"rank-{number}.log", folder / "heartbeat" / str(number)]
            log = None if folder is None or self.outputs else folder / "logs" / f"{socket.gethostname()}-rank-{number}.log"
            self.ranks.append(Rank(number, process, signs, log))
            self.say("started", rank=number, pid=process.pid)

    def do_stop(self) -> None:
        """Ask the ranks to save and to end."""
        self.stopped_at = self.stopped_at or time.monotonic()
        for rank in self.ranks:
            rank.send(signal.SIGTERM)

    def do_kill(self) -> None:
        """End the ranks, and all that is of them."""
        for rank in self.ranks:
            rank.send(signal.SIGKILL, whole=True)

    def do_clock(self) -> None:
        """Seconds since 1970 by this host's clock."""
        self.say("clock", at=time.time())

    def do_end(self, pid: int, started: float, grace: float) -> None:
        """An earlier agent of this host ends, and what it started with it."""
        try:
            earlier = psutil.Process(pid)
            if earlier.create_time() == started and earlier.status() != psutil.STATUS_ZOMBIE:
                self.earlier = earlier, time.monotonic() + grace
                return
        except psutil.NoSuchProcess:
            pass
        self.say("gone", pid=pid)

    def _look_at_the_earlier(self) -> None:
        if self.earlier is None:
            return
        process, end = self.earlier
        if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > end:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()  # psutil looks at the start time first
            return
        self.earlier = None
        self.say("gone", pid=process.pid)

    # ----------------------------------------------------------------------------------------------------------------------- the loop

    def run(self) -> None:
        """Until the other end is gone and every rank has ended."""
        for standard in (0, 1):
            os.set_blocking(standard, False)
        signal.signal(signal.SIGTERM, lambda *_: self.do_stop())
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
        address = os.environ.get("SSH_CONNECTION", "").split()[2:3]
        interface = _interface_of(address[0]) if address else ""
        me = {"host": socket.gethostname(), "pid": os.getpid(), "started": psutil.Process().create_time(), "machine": this_machine()}
        self.say("hello", **me, address="".join(address), interface=interface)
        while not self.alone or any(rank.status is None for rank in self.ranks):
            self._wait()
            now = time.monotonic()
            if now - self.heard > LOST_SECONDS:
                self.leave()
            if now - self.said > BEAT_SECONDS:
                self.said = now
                self.say("beat")
            if self.alone and now - self.stopped_at > self.grace_seconds:
                self.do_kill()
            self._look_at_the_earlier()
            for rank in self.ranks:
                rank.write(b"")
                if rank.look():
                    self._drain(rank)
                    self.say("ended", rank=rank.number, status=rank.status)
        self._flush()

    def _wait(self) -> None:
        pipes = {pipe: rank for rank in self.ranks for pipe in rank.pipes}
        reads = [*([] if self.alone else [0]), *pipes]
        readable, writable, _ = select.select(reads, [1] if self._waiting else [], [], _LOOK_SECONDS)
        if writable:
            self._flush()
        for handle in readable:
            if handle in pipes:
                self._read(pipes[handle], handle)
            else:
                with contextlib.suppress(BlockingIOError):
                    self.listen(os.read(0, 2**16))

    def _flush(self) -> None:
        try:
            while self._waiting:
                del self._waiting[: os.write(1, self._waiting)]
        except BlockingIOError:
            pass
        except OSError:  # nobody reads any more
            self.leave()

    def _read(self, rank: Rank, handle: int) -> bool:
        said = os.read(handle, 2**16)
        if said:
            rank.write(said)
            self.say("output", rank=rank.number, stream=rank.pipes[handle], text=rank.text[rank.pipes[handle]].decode(said))
        else:
            del rank.pipes[handle]
        return bool(said)

    def _drain(self, rank: Rank) -> None:
        """What a rank said last, before its end is told."""
        for handle in list(rank.pipes):
            while select.select([handle], [], [], 0)[0] and self._read(rank, handle):
                pass


def _interface_of(address: str) -> str:
    """Name of the network interface that has an address; empty: none has."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(found.address.partition("%")[0] == address.partition("%")[0] for found in addresses):
            return str(name)
    return ""


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _stamp(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


if __name__ == "__main__":
    Agent((int(sys.argv[1]), int(sys.argv[2])) if len(sys.argv) > 2 else None).run()
