"""Hosts that differ, folders that are not shared, and two runs that want one folder, under ``deepspeed --hostfile``."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.distributed.launcher import ROOT
from tests.distributed.training import make_study, wait_for, write_split
from tests.hosts.cluster import Cluster
from tests.hosts.deepspeed_runs import begin, train
from trainer.training.run_folder import read_lines

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def config(home: Path) -> Path:
    make_study(home)
    return home / "config.yaml"


def other_on(cluster: Cluster, host: str, file: Path, content: str) -> None:
    """Give one host another content of a shared file."""
    other = cluster.home / f"other-{file.name}"
    other.write_text(content)
    done = cluster.run(host, "mount", "--bind", str(other), str(file))
    assert done.returncode == 0, done.stderr


def same_on(cluster: Cluster, host: str, *files: Path) -> None:
    for file in files:
        cluster.run(host, "umount", str(file))


def test_a_host_that_would_train_something_else_is_named_with_what_differs(cluster: Cluster, config: Path, home: Path) -> None:
    losses, split = ROOT / "trainer" / "losses.py", home / "study" / "splits" / "tiny.json"
    other_on(cluster, "node1", config, config.read_text().replace("lr: 0.003", "lr: 0.004"))
    other_on(cluster, "node1", losses, losses.read_text() + "\n")
    said = train(cluster, home / "other", config=config)
    assert "error: node1 (rank 1) would not train what node0 (rank 0) does: " in said
    assert "code trainer/losses.py is " in said
    assert "optimizer.lr is 0.004 there and 0.003 here" in said
    assert not (home / "other").exists()
    same_on(cluster, "node1", config, losses)

    before = split.read_text()
    write_split(home / "study", "tiny", train={"stimulus": list(range(10))}, validation={"stimulus": [14, 15, 16, 17, 18]})
    changed = split.read_text()
    split.write_text(before)
    other_on(cluster, "node1", split, changed)
    said = train(cluster, home / "other", config=config)
    assert "error: node1 (rank 1) would not train what node0 (rank 0) does: data.split_hash is " in said
    assert not (home / "other").exists()
    same_on(cluster, "node1", split)


def test_a_folder_that_is_not_shared_is_refused(cluster: Cluster, config: Path, home: Path) -> None:
    said = train(cluster, cluster.local / "run", config=config)
    assert f"run: {cluster.local / 'run'} on node1 (rank 1) is not the folder that node0 (rank 0) writes" in said
    for host in cluster.names:
        assert cluster.run(host, "ls", str(cluster.local)).stdout == ""


def test_one_of_two_runs_that_want_a_folder_trains_there(cluster: Cluster, config: Path, home: Path) -> None:
    """Started at the same instant, each on a host of its own; then one that would resume what is alive."""
    run = home / "one"
    both = [begin(cluster, run, "--train.steps", "2000", config=config, hosts=(host,)) for host in cluster.names]
    log = run.with_suffix(".log")
    wait_for(lambda: "in use by process" in log.read_text() and (run / "latest").exists(), next(p for p in both if p.poll() is None))
    said = train(cluster, run, "--resume", "latest", "--train.steps", "2000", config=config, hosts=("node1",))
    assert said.count(f"error: run: {run} is in use by process") == 2
    for process in both:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)  # head shares its processes with this machine
            process.wait(120)
    starts = [event for event in read_lines(run / "events.jsonl") if event["event"] == "start"]
    assert len(starts) == 1
    steps = [line["step"] for line in read_lines(run / "items.jsonl")]
    assert steps == list(range(1, len(steps) + 1))
    shutil.rmtree(run)
