"""Training on the hosts of a cluster by ``launch run``, as a user types it on ``head``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.distributed.launcher import ROOT
from tests.distributed.training import by_step, events, last_step, make_study
from tests.hosts.cluster import Cluster

SLOW = ("--callbacks", "[{class_path: tests.hosts.slow.Slow}]")
"""Arguments of a run whose steps take their time."""
_SETTINGS = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin:/usr/sbin:/sbin"}


def same_on_any_hosts(home: Path, steps: int) -> Path:
    """Config of a run of so many steps that is the same on 1, 2 and 3 hosts; it and its study are made in ``home``."""
    make_study(home)
    file = home / "config.yaml"
    text = file.read_text().replace("validate_every_steps: 20", f"validate_every_steps: {steps // 2}")
    changes = {"global_batch_size: 8": "global_batch_size: 12", "dropout: 0.2": "dropout: 0.0", "steps: 60": f"steps: {steps}"}
    for before, after in changes.items():
        text = text.replace(before, after)
    file.write_text(text)
    return file


def by_one_process(config: Path, run: Path) -> Path:
    """The run that hosts are held against, trained here without a launcher; returns its folder."""
    argv = [sys.executable, "-m", "trainer", "contrastive", "--config", str(config), "--run", str(run)]
    done = subprocess.run(argv, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return run


def typed(
    cluster: Cluster, run: Path, *arguments: str, config: Path, options: tuple[str, ...] = (), hosts: tuple[str, ...] = (), by: str = "head"
) -> subprocess.Popen[bytes]:
    """``launch run --hostfile H ... -- contrastive --config C --run RUN ...``; what it says goes to RUN.log; ``by``: where it is typed."""
    argv = [sys.executable, "-m", "launch", "run", "--hostfile", str(cluster.hostfile(*hosts)), *options, "--"]
    command = ["contrastive", "--config", str(config), "--run", str(run), *arguments]
    return cluster.start(by, [*argv, *command], run.with_suffix(".log"), **_SETTINGS)


def killed(process: subprocess.Popen[bytes]) -> None:
    """It is gone afterwards, and its group with it."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextmanager
def launched(cluster: Cluster, run: Path, *arguments: str, config: Path, **how: Any) -> Iterator[subprocess.Popen[bytes]]:
    """:func:`typed`, and gone when the context ends."""
    process = typed(cluster, run, *arguments, config=config, **how)
    try:
        yield process
    finally:
        killed(process)


def ask(cluster: Cluster, *words: str) -> subprocess.CompletedProcess[str]:
    """``launch WORDS`` on ``head``, to its end."""
    return cluster.run("head", sys.executable, "-m", "launch", *words, **_SETTINGS)


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[bytes] | None, run: Path, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        said = f"{events(run, 'restart')} {worlds(run)} {run.with_suffix('.log').read_text()[-2000:]}"
        assert process is None or process.poll() is None, f"it ended with {process.returncode if process else ''}: {said}"
        assert time.monotonic() < end, f"waited too long: {said}"
        time.sleep(0.1)


def worlds(run: Path) -> list[int]:
    """World sizes of the attempts so far."""
    return [event["world_size"] for kind in ("start", "resume") for event in events(run, kind)]


def trains_anew(run: Path, attempts: int, world: int) -> Callable[[], bool]:
    """Whether that many attempts have begun, and the last, of so many ranks, has made a step."""

    def look() -> bool:
        last = events(run, "resume")[-1:]
        return len(worlds(run)) == attempts and worlds(run)[-1] == world and last_step(run) > last[0]["resumed_at"]

    return look


def is_what_one_process_trains(run: Path, alone: Path, steps: int) -> None:
    """Every step once, of the same items, with the same loss."""
    items, losses = by_step(run, "items.jsonl", "items"), by_step(run, "metrics.jsonl", "loss")
    assert list(items) == list(range(1, steps + 1))
    expected = by_step(alone, "items.jsonl", "items")
    assert all(items[step] == expected[step] for step in items)
    reference = by_step(alone, "metrics.jsonl", "loss")
    assert all(abs(losses[step] - reference[step]) < 1e-3 for step in range(1, steps + 1))


def nothing_is_left(cluster: Cluster) -> bool:
    return not any(cluster.processes(host) for host in cluster.names)


def rank_on(cluster: Cluster, host: str) -> str:
    """Process number, on a host, of the one rank there."""
    (line,) = [line for line in cluster.processes(host) if " -m trainer " in line]
    return line.split()[0]
