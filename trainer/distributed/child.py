"""A command run as a child in a process group of its own: signals are forwarded to all of it, and nothing of it is left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from types import FrameType

import psutil

from trainer.distributed.stop_signals import stop_signals

_LAUNCHER_VARIABLES = (
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    "TORCHELASTIC_USE_AGENT_STORE",
)


def environment_of_its_own() -> dict[str, str]:
    """This process's environment without what would make the child a rank of the same job."""
    return {name: value for name, value in os.environ.items() if name not in _LAUNCHER_VARIABLES}


def run_in_group(
    argv: Sequence[str],
    environment: Mapping[str, str],
    *,
    grace_seconds: float,
    timeout_seconds: float = float("inf"),
    pass_fds: Sequence[int] = (),
) -> tuple[int | None, int | None]:
    """Run ``argv`` to its end.

    SIGINT and SIGTERM of this process go to the child's whole group, SIGHUP and SIGUSR1 as SIGTERM (launchers do not know them and would
    leave their ranks without a word), as does SIGTERM after ``timeout_seconds``; what then still runs after ``grace_seconds`` is killed.
    Only the main thread may call this. ``pass_fds`` stay open in the child.

    Returns
    -------
    (status, number)
        Exit status, None if it had to be killed; number of the first signal that was forwarded (SIGALRM: the time was up), None if none.
    """
    asked: list[int] = []
    process: subprocess.Popen[bytes] | None = None

    def forward(number: int, _: FrameType | None) -> None:
        number = signal.SIGTERM if number in (signal.SIGHUP, signal.SIGUSR1) else number
        asked.append(number)
        if process is not None:
            _signal_group(process, number)

    previous = {number: signal.signal(number, forward) for number in stop_signals(signal.SIGINT)}
    try:
        process = subprocess.Popen(argv, env=dict(environment), start_new_session=True, pass_fds=pass_fds)
        if asked:  # a signal came before there was anyone to forward it to
            _signal_group(process, asked[-1])
        status, started, stopped = None, time.monotonic(), float("inf")
        while status is None and time.monotonic() < stopped + grace_seconds:
            with contextlib.suppress(subprocess.TimeoutExpired):
                status = process.wait(0.5)
            if status is None and not asked and time.monotonic() > started + timeout_seconds:
                asked.append(signal.SIGALRM)
                _signal_group(process, signal.SIGTERM)
            if asked:
                stopped = min(stopped, time.monotonic())
    finally:
        if process is not None:
            _signal_group(process, signal.SIGKILL)  # a launcher may end before its ranks do
            process.wait()
        for number, handler in previous.items():
            signal.signal(number, handler)
    return status, asked[0] if asked else None


def run_while_it_works(
    argv: Sequence[str], environment: Mapping[str, str], progress: Callable[[], int], *, stuck_seconds: float
) -> tuple[int | None, str]:
    """Run ``argv`` to its end, whatever time it takes, unless it is stuck: neither its processor time nor ``progress()`` has changed for so
    long.

    Returns
    -------
    (status, last)
        Exit status, None if it was stuck and killed; the last line that it wrote to standard error.
    """
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(argv, env=dict(environment), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said)
        try:
            moved, before, status = time.monotonic(), None, None
            while status is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    status = process.wait(0.5)
                now = progress(), _processor_seconds(process.pid)
                if now != before:
                    moved, before = time.monotonic(), now
                if time.monotonic() > moved + stuck_seconds:
                    break
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        said.seek(0)
        lines = said.read().decode(errors="replace").strip().splitlines()
    return status, lines[-1] if lines else "no message"


def _processor_seconds(pid: int) -> float:
    with contextlib.suppress(psutil.NoSuchProcess):
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system)
    return 0.0


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
