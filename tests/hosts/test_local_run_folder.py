"""``run_folder: local``: hosts without a file system in common train one run, go on after a loss, and on another number of hosts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.distributed.training import by_step, events, make_study, saved_step
from tests.hosts.cluster import Cluster, why_not
from tests.hosts.launch_runs import by_one_process, launched
from tests.hosts.test_launch_on_hosts import SLOW, is_what_one_process_trains, rank_on, wait_until
from trainer.training.run_folder import RunFolder
from trainer.training.seal import check_files, read_checkpoint

pytestmark = pytest.mark.timeout(900)
STEPS = 60
LOCAL = ("--run_folder", "local")


@pytest.fixture(scope="module")
def cluster(home: Path) -> Iterator[Cluster]:
    if reason := why_not():
        pytest.skip(reason)
    with Cluster(home / "cluster", 2) as hosts:
        yield hosts


@pytest.fixture(scope="module")
def config(home: Path) -> Path:
    make_study(home)
    file = home / "config.yaml"
    file.write_text(file.read_text().replace("dropout: 0.2", "dropout: 0.0"))
    return file


@pytest.fixture(scope="module")
def alone(config: Path, home: Path) -> Path:
    """The same run by one process."""
    return by_one_process(config, home / "alone")


def said(run: Path) -> str:
    return run.with_suffix(".log").read_text()


def test_one_run_of_hosts_that_share_no_folder(cluster: Cluster, config: Path, alone: Path) -> None:
    run = cluster.local / "run"
    first, other = (cluster.home / "disks" / host / "run" for host in cluster.names)
    options = ("--max_restarts", "3", "--backoff_seconds", "1")
    with launched(cluster, run, *LOCAL, *SLOW, config=config, options=options, by="node0") as process:
        wait_until(lambda: saved_step(first) >= 5, process, run)
        assert cluster.run("node1", "kill", "-9", rank_on(cluster, "node1")).returncode == 0
        assert process.wait(300) == 0, said(run)[-2000:]
    is_what_one_process_trains(first, alone, STEPS)
    assert len(events(first, "restart")) == 1
    for pointed in ("latest", "best"):
        found = RunFolder(first).pointed(pointed)
        assert found is not None
        sealed = read_checkpoint(found)
        check_files(sealed)
        assert (sealed.world_size, len([name for name in sealed.files if "optim_states" in name])) == (2, 2)
    assert not list(other.glob("checkpoints/*")), "what another host wrote is not there any more"
    assert not list(other.glob(".*"))

    more = ("--train.steps", "70", "--resume", "latest")  # on one host, then on both: converted, and brought
    with launched(cluster, run, *LOCAL, *more, config=config, hosts=("node0",), by="node0") as process:
        assert process.wait(200) == 0, said(run)[-2000:]
    with launched(cluster, run, *LOCAL, "--train.steps", "80", "--resume", "latest", config=config, by="node0") as process:
        assert process.wait(200) == 0, said(run)[-2000:]
    assert list(by_step(first, "metrics.jsonl", "loss")) == list(range(1, 81))
    assert [event["world_size"] for event in events(first, "resume")] == [2, 1, 2]
    assert not list(other.glob("checkpoints/*"))
    assert not list(other.glob(".*"))


def test_it_is_started_where_the_folder_will_be_and_nowhere_is_a_shared_one_taken_for_local(
    cluster: Cluster, config: Path, home: Path
) -> None:
    with launched(cluster, cluster.local / "other", *LOCAL, "--train.steps", "4", config=config, hosts=("node1",), by="node1") as process:
        assert process.wait(100) == 0
    with launched(cluster, cluster.local / "other", *LOCAL, config=config, by="node0") as process:
        assert process.wait(100) == 1
    assert f"{cluster.local / 'other'} on node1 (rank 1) holds a run of its own: expected one on the first host alone" in said(
        cluster.local / "other"
    )
    with launched(cluster, cluster.local / "elsewhere", *LOCAL, config=config) as process:
        assert process.wait(100) == 1
    assert "run_folder: local, and rank 0 would be on node0: start it there" in said(cluster.local / "elsewhere")
    run = home / "shared"
    with launched(cluster, run, *LOCAL, config=config, by="node0") as process:
        assert process.wait(100) == 1
    assert f"run_folder: local, but node1 (rank 1) sees {run} of node0: expected shared" in said(run)
    assert not run.exists()
