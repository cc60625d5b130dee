"""Training on the hosts of a cluster by ``launch run``, as a user types it on ``head``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.distributed.launcher import ROOT
from tests.hosts.cluster import Cluster

_SETTINGS = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin:/usr/sbin:/sbin"}


def by_one_process(config: Path, run: Path) -> Path:
    """The run that hosts are held against, trained here without a launcher; returns its folder."""
    argv = [sys.executable, "-m", "trainer", "contrastive", "--config", str(config), "--run", str(run)]
    done = subprocess.run(argv, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return run


@contextmanager
def launched(
    cluster: Cluster, run: Path, *arguments: str, config: Path, options: tuple[str, ...] = (), hosts: tuple[str, ...] = (), by: str = "head"
) -> Iterator[subprocess.Popen[bytes]]:
    """``launch run --hostfile H ... -- contrastive --config C --run RUN ...``; what it says goes to RUN.log; ``by``: where it is typed."""
    argv = [sys.executable, "-m", "launch", "run", "--hostfile", str(cluster.hostfile(*hosts)), *options, "--"]
    command = ["contrastive", "--config", str(config), "--run", str(run), *arguments]
    process = cluster.start(by, [*argv, *command], run.with_suffix(".log"), **_SETTINGS)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def ask(cluster: Cluster, *words: str) -> subprocess.CompletedProcess[str]:
    """``launch WORDS`` on ``head``, to its end."""
    return cluster.run("head", sys.executable, "-m", "launch", *words, **_SETTINGS)
