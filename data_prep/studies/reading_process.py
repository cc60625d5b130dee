"""Processes that read one file each, whatever becomes of them, without importing for each what reads it.

A process that starts for a file of a megabyte spends a second on imports. So the first one that is asked for stays, empty, with what
readers import; for every file it forks one that waits and one that reads, whose memory, crash and time are its own::

    this process -- request, a pipe -->  the one that stays  --fork-->  one that waits  --fork-->  reader: MODULE.main(*arguments)
         ^---------- what the reader said, how it ended ------------------------'

It ends when this process does. Where there is no such fork (other systems than Linux), a process of its own is started for every file.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import Any, NoReturn

from data_prep.contract.errors import exit_status

_MESSAGE_BYTES = 2**17
_END = b"\0"
_STARTER = "data_prep.studies.reading_process"
_SENDING = threading.Lock()
_STAYING: list[subprocess.Popen[bytes]] = []


def run_reader_process(module: str, arguments: Sequence[str], seconds: float, uses: Sequence[str] = ()) -> tuple[int | None, str]:
    """Exit status of ``module.main(*arguments)`` in a process of its own (None: it took longer), and what it said on stderr.

    ``uses`` are modules that it imports later on: they are imported once.
    """
    request = {"module": module, "arguments": list(arguments), "seconds": seconds, "uses": list(uses), "cwd": os.getcwd()}
    message = json.dumps({**request, "environment": dict(os.environ)}).encode()
    if sys.platform == "linux" and len(message) <= _MESSAGE_BYTES:
        for _ in range(2):  # the one that stays may have been ended, too
            with contextlib.suppress(OSError, ValueError):
                return _asked(message)
            _starter.cache_clear()
    return _started(module, arguments, seconds)


def _started(module: str, arguments: Sequence[str], seconds: float) -> tuple[int | None, str]:
    command = [sys.executable, "-m", module, *arguments]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False, env=_environment_of_python()
        )
    except subprocess.TimeoutExpired:
        return None, ""
    return done.returncode, done.stderr.decode("utf-8", "replace")


def _asked(message: bytes) -> tuple[int | None, str]:
    """See :func:`run_reader_process`; ValueError: there is no answer."""
    answer, theirs = os.pipe()
    with os.fdopen(answer, "rb") as said:
        try:
            with _SENDING:
                socket.send_fds(_starter(os.getpid()), [message], [theirs])
        finally:
            os.close(theirs)
        errors, _, end = said.read().rpartition(_END)
    return json.loads(end or "-")["status"], errors.decode("utf-8", "replace")


@functools.lru_cache(maxsize=1)
def _starter(pid: int) -> socket.socket:
    """Where process ``pid`` sends its requests: one that was forked from it has another starter."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        staying = subprocess.Popen(
            [sys.executable, "-m", _STARTER, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=_environment_of_python(),
            pass_fds=[theirs.fileno()],
            start_new_session=True,  # a signal to the group of this process is not meant for a file that is being read
        )
    _STAYING[:] = [staying]  # it is waited for by nobody: it ends with this process
    return ours


def _environment_of_python() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "PYTHONIOENCODING": "utf-8"}


# --------------------------------------------------------------------------------------------------- the one that stays


def _stay(requests: socket.socket) -> None:
    """Fork for each request until nobody is left who could send one."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # who waits for a reader is waited for by nobody
    while True:
        message, handles, _, _ = socket.recv_fds(requests, _MESSAGE_BYTES, 1)
        if not message:
            return
        request = json.loads(message)
        for name in (request["module"], *request["uses"]):
            with contextlib.suppress(Exception):  # the reader says it
                importlib.import_module(name)
        if os.fork() == 0:
            requests.close()
            _wait_for_reader(request, handles[0])
        for handle in handles:
            os.close(handle)


def _wait_for_reader(request: dict[str, Any], handle: int) -> NoReturn:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    reader = os.fork()
    if reader == 0:
        _read(request, handle)
    late: list[int] = []

    def end(number: int, _: FrameType | None) -> None:
        late.append(number)
        os.kill(reader, signal.SIGKILL)

    signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, request["seconds"])
    _, status = os.waitpid(reader, 0)
    signal.setitimer(signal.ITIMER_REAL, 0)
    ended = None if late else os.waitstatus_to_exitcode(status)
    os.write(handle, _END + json.dumps({"status": ended}).encode())
    os._exit(0)


def _read(request: dict[str, Any], handle: int) -> NoReturn:
    status = 1
    try:
        os.dup2(handle, 2)
        os.close(handle)
        os.environ.clear()
        os.environ.update(request["environment"])
        os.chdir(request["cwd"])
        status = importlib.import_module(request["module"]).main(*request["arguments"])
    except SystemExit as ended:
        status = exit_status(ended)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    _stay(socket.socket(fileno=int(sys.argv[1])))
