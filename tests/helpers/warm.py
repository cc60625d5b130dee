"""Processes of tests that begin where their imports end: forks of one that has imported torch, DeepSpeed and the trainer.

A rank spends four seconds on imports and one on three steps, so a launch of two ranks and their launcher costs a quarter of what it did.
All else is a process's own: number, session, environment, output, signals, end. Ranks are started by DeepSpeed's launcher as ever; its
``Popen`` forks too. Tests of a start itself (``launch run``, the READMEs, the quickstart) start Python::

    tests  -- request, where its output goes -->  the one that stays  --fork-->  --fork-->  python -m MODULE ARGUMENTS, child of the tests

It ends when the tests do.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from data_prep.contract.errors import exit_status

_ROOT = Path(__file__).parents[2]
_MESSAGE_BYTES = 2**17
_PR_SET_CHILD_SUBREAPER = 36
_POPEN = subprocess.Popen
_FORKED = False


class Process:
    """A child of this process, with what tests and DeepSpeed's launcher ask of a ``subprocess.Popen``."""

    def __init__(self, pid: int, args: Sequence[str]) -> None:
        self.pid, self.args = pid, args
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if ended:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        end = time.monotonic() + timeout if timeout is not None else None
        while (status := self.poll()) is None:
            if end is not None and time.monotonic() > end:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            time.sleep(0.01)
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


Started = Process | subprocess.Popen[bytes]


def start(argv: Sequence[str], *, environment: Mapping[str, str], output: int, cwd: Path = _ROOT, forked: bool = True) -> Started:
    """``python -m MODULE ARGUMENTS`` in a session of its own; both its outputs go to the file descriptor ``output``.

    Not ``forked``, and where Linux's means to it lack, it is Python that is started.
    """
    if not forked or sys.platform != "linux":
        return subprocess.Popen(
            argv, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    request = {"argv": list(argv), "environment": dict(environment), "cwd": str(cwd)}
    requests = _staying(os.getpid())
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # who starts the process ends at once; it is our child then
    try:
        socket.send_fds(requests, [json.dumps(request).encode()], [output])
        pid = int(requests.recv(64))
    finally:
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
    return Process(pid, argv)


def run(argv: Sequence[str], *, environment: Mapping[str, str], timeout: float, cwd: Path = _ROOT) -> subprocess.CompletedProcess[str]:
    """:func:`start`, to its end, after which nothing of its session is left; both its outputs are in ``stdout``.

    Raises
    ------
    subprocess.TimeoutExpired
        It took longer, and was killed.
    """
    with tempfile.TemporaryFile("w+") as output:
        process = start(argv, environment=environment, output=output.fileno(), cwd=cwd)
        try:
            process.wait(timeout)
        finally:
            # A launcher forgets its ranks when it is killed itself; the group does not.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        return subprocess.CompletedProcess(argv, process.returncode or 0, output.read())


@functools.lru_cache(maxsize=1)
def _staying(pid: int) -> socket.socket:
    """Where process ``pid`` sends its requests."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    settings = {"DS_ACCELERATOR": "cpu", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with theirs:
        subprocess.Popen(  # waited for by nobody: it ends with this process
            [sys.executable, "-m", "tests.helpers.warm", str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            cwd=_ROOT,
            env={**os.environ, **settings},
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
    return ours


# --------------------------------------------------------------------------------------------------- the one that stays


def _stay(requests: socket.socket) -> None:
    from trainer.distributed.lean_deepspeed import import_deepspeed

    import_deepspeed()
    importlib.import_module("trainer.run")
    while True:
        message, handles, _, _ = socket.recv_fds(requests, _MESSAGE_BYTES, 1)
        if not message:
            return
        request = json.loads(message)
        _import_what_it_will(request["argv"])
        gc.freeze()
        told, tells = os.pipe()
        between = os.fork()
        if between == 0:
            if started := os.fork():
                os.write(tells, str(started).encode())
                os._exit(0)
            for end in (requests.detach(), told, tells):
                os.close(end)
            os.setsid()
            os.chdir(request["cwd"])
            sys.path[0] = request["cwd"]
            _become(request["argv"], request["environment"], handles[0])
        os.waitpid(between, 0)  # only now is what was started a child of who asked
        requests.send(os.read(told, 64))
        for end in (told, tells):
            os.close(end)
        for handle in handles:
            os.close(handle)


_LANGUAGE = ("text", "generate", "evaluate-text", "tests.distributed.text_worker")


def _import_what_it_will(argv: Sequence[str]) -> None:
    """Import what every process of a command would."""
    from trainer.__main__ import COMMANDS

    for name in {*argv} & {*COMMANDS}:
        for place in (COMMANDS[name].config, COMMANDS[name].run):
            importlib.import_module(place.split(":")[0])
    if {*argv} & {*_LANGUAGE}:
        importlib.import_module("peft")
        transformers = importlib.import_module("transformers")
        for lazy in ("AutoConfig", "AutoTokenizer", "LlamaForCausalLM", "Qwen2ForCausalLM"):
            getattr(transformers, lazy)


def _become(argv: Sequence[str], environment: Mapping[str, str], output: int | None) -> NoReturn:
    """Run ``python -m MODULE ARGUMENTS`` in this new process, which knows nothing of the one that it was forked from but its modules."""
    global _FORKED
    status, _FORKED = 1, True
    try:
        signal.set_wakeup_fd(-1)
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE, signal.SIGXFSZ}:
            with contextlib.suppress(OSError, ValueError):
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        if output is not None:
            for standard in (1, 2):
                os.dup2(output, standard)
            os.close(output)
        sys.stdout, sys.stderr = (open(standard, "w", buffering=1, closefd=False) for standard in (1, 2))  # noqa: SIM115  # this process's
        subprocess.Popen = _POPEN  # type: ignore[misc]
        os.environ.clear()
        os.environ.update(environment)
        np.random.seed()
        at = argv.index("-m")
        module = argv[at + 1]
        for imported in (module, f"{module}.__main__"):
            if not hasattr(sys.modules.get(imported), "__path__"):
                sys.modules.pop(imported, None)  # it is run anew
        sys.argv = [argv[at], *argv[at + 2 :]]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as ended:
        status = exit_status(ended)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        os._exit(status)


class Rank(Process):
    """What DeepSpeed's launcher starts, forked from the launcher: see :func:`ranks_are_forks`."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], **_: Any) -> None:
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            _become(argv, env, None)
        super().__init__(pid, argv)


def ranks_are_forks() -> None:
    """Let DeepSpeed's launcher, which this process becomes, fork its ranks where it is itself a fork: what they import is here already."""
    if _FORKED:
        subprocess.Popen = Rank  # type: ignore[misc, assignment]


if __name__ == "__main__":
    # Under the name by which others import it: its classes are to be the same ones.
    from tests.helpers import warm

    warm._stay(socket.socket(fileno=int(sys.argv[1])))
