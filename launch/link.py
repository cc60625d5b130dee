"""The end of a host's agent that is here: started over ssh, or as a child; orders go in, reports come out, nothing waits."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from launch.agent import BEAT_SECONDS, LOST_SECONDS

SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3")
_SAID_LAST_BYTES = 4000


def over_ssh(host: str, *, python: str, folder: str, root: str) -> tuple[str, ...]:
    """Command line that starts an agent on a host; variables of ranks go through its input, where no ``ps`` shows them."""
    path = f"PYTHONPATH={shlex.quote(root)} " if root else ""
    # Files of the user's own in that folder take the place of none of ours.
    return (*SSH, host, f"cd {shlex.quote(folder)} && {path}PYTHONSAFEPATH=1 exec {shlex.quote(python)} -m launch.agent")


class Link:
    """One agent.

    Parameters
    ----------
    argv
        Starts it.
    environment
        Of that process.
    outputs
        File descriptors of this process to which ranks write by themselves; none: what they say is reported.
    """

    def __init__(self, argv: Sequence[str], environment: Mapping[str, str], outputs: Sequence[int] = ()) -> None:
        self.process = subprocess.Popen(
            [*argv, *map(str, outputs)],
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # a key on the terminal is for the one who gives orders
            pass_fds=tuple(outputs),
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._in, self.out, self.err = self.process.stdin.fileno(), self.process.stdout.fileno(), self.process.stderr.fileno()
        for handle in (self._in, self.out, self.err):
            os.set_blocking(handle, False)
        self.hello: dict[str, Any] | None = None
        """What it said first."""
        self.closed = ""
        """Why nothing comes any more; empty: it may."""
        self._heard = self._beaten = time.monotonic()
        self._orders, self._reports, self._last = bytearray(), bytearray(), bytearray()

    def order(self, do: str, **facts: Any) -> None:
        """Send an order; what the other end does not take yet follows."""
        self._orders += json.dumps({"do": do, **facts}).encode() + b"\n"
        self._flush()

    def read(self) -> list[dict[str, Any]]:
        """Reports since the last call; :attr:`closed` is set behind the last one."""
        reports = []
        if not self.closed:
            self._read_errors()
            with contextlib.suppress(BlockingIOError):
                while said := os.read(self.out, 2**16):
                    self._reports += said
                    self._heard = time.monotonic()
                self.closed = self._said_last()
            *lines, rest = self._reports.split(b"\n")
            self._reports = bytearray(rest)
            for line in lines:
                with contextlib.suppress(ValueError):  # a login script's greeting
                    report = json.loads(line)
                    if isinstance(report, dict) and "say" in report:
                        reports.append(report)
        for report in reports:
            if report["say"] == "hello":
                self.hello = report
        return reports

    def beat(self) -> None:
        """To be called often: tells the other end that somebody is here, and notices when it is silent."""
        now = time.monotonic()
        if now - self._beaten > BEAT_SECONDS:
            self._beaten = now
            self.order("beat")
        self._flush()
        if not self.closed and now - self._heard > LOST_SECONDS:
            self.closed = f"nothing was heard for {LOST_SECONDS:g} seconds"

    def close(self, *, now: bool = False) -> None:
        """No more orders: the agent stops its ranks and ends; ``now``: it is not waited for, and ssh ends."""
        with contextlib.suppress(OSError):
            assert self.process.stdin is not None
            self.process.stdin.close()
        if now:
            self.process.kill()
        else:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()
        self.closed = self.closed or "it was told to end"

    def _flush(self) -> None:
        with contextlib.suppress(BlockingIOError, BrokenPipeError, ValueError):
            while self._orders and not self.process.stdin.closed:  # type: ignore[union-attr]
                del self._orders[: os.write(self._in, self._orders)]

    def _read_errors(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while said := os.read(self.err, 2**16):
                self._last = (self._last + said)[-_SAID_LAST_BYTES:]

    def _said_last(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(1)  # what it says of its end may come behind the end of its output
        self._read_errors()
        lines = self._last.decode("utf-8", "backslashreplace").strip().splitlines()
        return lines[-1].strip() if lines else "the connection was closed"


def close_all(links: Iterable[Link]) -> None:
    """End the agents of some hosts and what they run: all are told at once, then each is waited for."""
    links = list(links)
    for link in links:
        with contextlib.suppress(OSError):
            assert link.process.stdin is not None
            link.process.stdin.close()
    for link in links:
        link.close()
