"""``launch doctor --hostfile`` on hosts of which one is wrong in several ways, and one is not there; then on the same, mended."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.distributed.launcher import ROOT
from tests.distributed.training import make_study
from tests.hosts.cluster import Cluster, why_not

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def cluster(home: Path) -> Iterator[Cluster]:
    """Two hosts whose own names are 127.0.1.1 to themselves."""
    if reason := why_not():
        pytest.skip(reason)
    with Cluster(home / "cluster", 2, debian=True) as hosts:
        yield hosts


def doctor(cluster: Cluster, config: Path, run: Path, *hosts: str) -> tuple[int, list[dict[str, Any]]]:
    """Exit status and findings."""
    settings = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin:/usr/sbin:/sbin"}
    words = ["doctor", "--hostfile", str(cluster.hostfile(*hosts)), "--min_free_bytes", "1000", "--json"]
    command = ["contrastive", "--config", str(config), "--run", str(run)]
    done = cluster.run("head", sys.executable, "-m", "launch", *words, "--", *command, timeout=500, **settings)
    return done.returncode, json.loads(done.stdout)


def bind(cluster: Cluster, host: str, file: Path, content: bytes) -> None:
    """Give one host another content of a file that all share."""
    other = cluster.home / f"other-{file.name}"
    other.write_bytes(content)
    done = cluster.run(host, "mount", "--bind", str(other), str(file))
    assert done.returncode == 0, done.stderr


def of(found: list[dict[str, Any]], check: str, host: str) -> dict[str, Any]:
    """The worst finding of a check about a host."""
    levels = ["bad", "warn", "ok"]
    return min((one for one in found if one["check"] == check and host in one["hosts"]), key=lambda one: levels.index(one["level"]))


def test_a_host_that_is_wrong_in_several_ways_is_named_with_each(cluster: Cluster, home: Path) -> None:
    study = make_study(home)
    losses, config, shard = ROOT / "trainer" / "losses.py", home / "config.yaml", study / "000001.tar"
    config.write_text(config.read_text().replace("global_batch_size: 8", "global_batch_size: 12"))
    altered = bytearray(shard.read_bytes())
    altered[len(altered) // 2] ^= 1
    bind(cluster, "node1", losses, losses.read_bytes() + b"\n")
    bind(cluster, "node1", shard, bytes(altered))
    bind(cluster, "node1", config, config.read_bytes().replace(b"lr: 0.003", b"lr: 0.004"))
    status, found = doctor(cluster, config, cluster.local / "run", "node0", "node9", "node1")
    assert status == 1
    assert of(found, "ssh", "node9")["found"].startswith("ssh: Could not resolve hostname node9")
    assert "code trainer/losses.py is " in of(found, "code", "node1")["found"]
    assert "optimizer.lr is 0.004, on node0 0.003" in of(found, "config", "node1")["found"]
    assert f"{shard}: SHA-256" in of(found, "shards", "node1")["found"]
    assert of(found, "run folder", "node1")["found"] == "does not see what node0 writes there"
    assert of(found, "own name", "node1")["found"] == "node1 is 127.0.1.1 to itself, which others cannot reach"
    wrong = {(one["check"], host) for one in found for host in one["hosts"] if one["level"] == "bad"}
    expected = {("ssh", "node9"), ("run folder", "node0")} | {
        (check, "node1") for check in ("code", "config", "shards", "study", "run folder")
    }
    assert wrong == expected
    assert all(one["do"] for one in found if one["level"] != "ok")
    assert "2 ranks" in of(found, "bandwidth", "all")["found"]

    for file in (losses, shard, config):
        cluster.run("node1", "umount", str(file))
    status, found = doctor(cluster, config, home / "run", "node0", "node1")
    bad = [one for one in found if one["level"] == "bad"]
    assert not bad, bad
    assert status == 0
    assert of(found, "run folder", "node1")["hosts"] == ["node0", "node1"]
    assert of(found, "interface", "node1")["found"].startswith("eth0")
    assert not (home / "run").exists()
    for host in cluster.names:
        assert cluster.run(host, "ls", "-A", str(cluster.local)).stdout == ""
        assert not cluster.processes(host)
    assert not list(home.glob(".eegvision-*"))
