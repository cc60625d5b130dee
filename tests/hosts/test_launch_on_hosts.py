"""``launch run`` on hosts as Debian installs them, undisturbed and with ranks, hosts and itself killed: it trains what one process does."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.distributed.training import by_step, events, last_step, make_study, saved_step
from tests.hosts.cluster import Cluster, why_not
from tests.hosts.launch_runs import ask, by_one_process, launched

pytestmark = pytest.mark.timeout(600)
STEPS = 300
SLOW = ("--callbacks", "[{class_path: tests.hosts.slow.Slow}]")
RESTARTED = ("--max_restarts", "3", "--backoff_seconds", "1", "--grace_seconds", "60")


@pytest.fixture(scope="module")
def cluster(home: Path) -> Iterator[Cluster]:
    """Three hosts whose own names are 127.0.1.1 to themselves."""
    if reason := why_not():
        pytest.skip(reason)
    with Cluster(home / "cluster", 3, debian=True) as hosts:
        yield hosts


@pytest.fixture(scope="module")
def config(home: Path) -> Path:
    make_study(home)
    file = home / "config.yaml"
    same_on_any_topology = {"global_batch_size: 8": "global_batch_size: 12", "dropout: 0.2": "dropout: 0.0", "steps: 60": f"steps: {STEPS}"}
    text = file.read_text().replace("validate_every_steps: 20", "validate_every_steps: 150")
    for before, after in same_on_any_topology.items():
        text = text.replace(before, after)
    file.write_text(text)
    return file


@pytest.fixture(scope="module")
def alone(config: Path, home: Path) -> Path:
    """The same run by one process."""
    return by_one_process(config, home / "alone")


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


def test_undisturbed(cluster: Cluster, config: Path, alone: Path, home: Path) -> None:
    run = home / "two"
    with launched(cluster, run, config=config, hosts=("node0", "node1")) as process:
        assert process.wait(300) == 0, run.with_suffix(".log").read_text()[-2000:]
    is_what_one_process_trains(run, alone, STEPS)
    assert nothing_is_left(cluster)
    said = run.with_suffix(".log").read_text()
    assert "2 ranks on node0, node1" in said
    assert f"step {STEPS}/{STEPS}" in said
    assert f"finished at step {STEPS}" in (run / "logs" / "node0-rank-0.log").read_text()
    assert (run / "logs" / "node1-rank-1.log").exists()
    assert ask(cluster, "status", str(run)).stdout.startswith("state       completed")
    again = ask(cluster, "run", "--hostfile", str(cluster.hostfile()), "--", "contrastive", "--config", str(config), "--run", str(run))
    assert (
        again.stderr.splitlines()[-1]
        == f"error: run: {run} already holds a run; continue it with --resume latest, or choose another folder"
    )


def test_a_run_outlives_a_rank_a_host_and_its_supervisor(cluster: Cluster, config: Path, alone: Path, home: Path) -> None:
    run = home / "three"
    with launched(cluster, run, *SLOW, config=config, options=RESTARTED) as process:
        wait_until(lambda: saved_step(run) >= 5, process, run)
        assert cluster.run("node1", "kill", "-9", rank_on(cluster, "node1")).returncode == 0
        wait_until(trains_anew(run, 2, 3), process, run)
        cluster.power_off("node2")
        wait_until(trains_anew(run, 3, 2), process, run)
        assert "silent      node2: " in ask(cluster, "status", str(run)).stdout
        cluster.power_on("node2")
        wait_until(trains_anew(run, 4, 3), process, run)
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(100) == 75
    assert nothing_is_left(cluster)
    assert worlds(run) == [3, 3, 2, 3]
    causes = [event["because"] for event in events(run, "restart")]
    assert causes[0] == "rank 1 on node1 was ended by SIGKILL" or causes[0].startswith("rank "), causes
    assert causes[1].startswith(("node2 was lost: ", "rank "))
    assert causes[2] == "node2 answers again"
    stopped_at = saved_step(run)
    is_what_one_process_trains(run, alone, stopped_at)

    with launched(cluster, run, *SLOW, config=config, options=RESTARTED, hosts=("node0", "node1")) as process:
        wait_until(trains_anew(run, 5, 2), process, run)
        process.kill()
        process.wait()
        wait_until(lambda: nothing_is_left(cluster), None, run, seconds=40)
    with launched(cluster, run, *SLOW, config=config, options=RESTARTED) as process:
        assert process.wait(200) == 0, run.with_suffix(".log").read_text()[-2000:]
    assert nothing_is_left(cluster)
    is_what_one_process_trains(run, alone, STEPS)
