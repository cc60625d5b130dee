"""Hosts for the tests of this room, made once a file; where they cannot be made the tests say why."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts.cluster import Cluster, why_not


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A folder that all hosts share: not under ``/tmp``, of which each has its own."""
    folder = Path(tempfile.mkdtemp(prefix="eegvision-hosts-", dir="/var/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def cluster(home: Path) -> Iterator[Cluster]:
    """``head``, ``node0`` and ``node1``."""
    if reason := why_not():
        pytest.skip(reason)
    with Cluster(home / "cluster", 2) as hosts:
        yield hosts
