"""Start a worker module under the real ``deepspeed`` launcher, in a process group of its own, and leave nothing behind."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from tests.helpers import warm

ROOT = Path(__file__).parents[2]
_RESERVED: list[IO[str]] = []


def free_port() -> int:
    """A TCP port of the loopback interface that nobody gets before the server under test binds it.

    Below the range from which the kernel serves those that ask for any port, and reserved by a lock file until this process
    ends, so that tests which run at the same time never share one.
    """
    for port in range(21_000, 30_000):
        reserved = open(Path(tempfile.gettempdir()) / f"eegvision-test-port-{port}", "w")  # noqa: SIM115  # held open on purpose
        try:
            fcntl.flock(reserved, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as listener:
                listener.bind(("127.0.0.1", port))
        except OSError:
            reserved.close()
            continue
        _RESERVED.append(reserved)
        return port
    raise RuntimeError("no port from 21000 to 29999 is free")


def started_by_deepspeed(module: str, arguments: Sequence[str], *, ranks: int, runner: bool = False) -> list[str]:
    """Command line of ``deepspeed --num_gpus RANKS --module MODULE ARGUMENTS`` (``runner``), or of the launcher that this would start,
    by a process that imports a third as much."""
    if runner:
        started = ["deepspeed.launcher.runner", "--num_gpus", str(ranks), "--master_port", str(free_port()), "--module", module]
    else:
        started = ["tests.distributed.ranks", str(ranks), str(free_port()), module]
    return [sys.executable, "-m", *started, *arguments]


def launch(
    module: str, arguments: Sequence[str], *, ranks: int, timeout_seconds: float, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``MODULE ARGUMENTS`` on so many ranks on the CPU (:func:`started_by_deepspeed`); output is in ``stdout``.

    Raises
    ------
    subprocess.TimeoutExpired
        After the whole process group was killed.
    """
    settings = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **(environment or {})}
    argv = started_by_deepspeed(module, arguments, ranks=ranks)
    return warm.run(argv, environment={**os.environ, **settings}, timeout=timeout_seconds)
