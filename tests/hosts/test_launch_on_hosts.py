"""``launch run`` on hosts as Debian installs them, undisturbed and with ranks, hosts and itself killed: it trains what one process does."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.distributed.training import events, saved_step
from tests.hosts.cluster import Cluster, why_not
from tests.hosts.launch_runs import (
    SLOW,
    ask,
    by_one_process,
    is_what_one_process_trains,
    launched,
    nothing_is_left,
    rank_on,
    same_on_any_hosts,
    trains_anew,
    wait_until,
    worlds,
)

pytestmark = pytest.mark.timeout(600)
STEPS = 300
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
    return same_on_any_hosts(home, STEPS)


@pytest.fixture(scope="module")
def alone(config: Path, home: Path) -> Path:
    """The same run by one process."""
    return by_one_process(config, home / "alone")


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
