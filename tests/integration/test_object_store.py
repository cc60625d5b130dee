"""``shard`` into an S3 of this machine (moto's server), as a user's command: killed, gone on with by another machine, refused in words."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import yaml

from data_prep.shards.verify import verify
from tests.distributed.launcher import free_port

KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
N_CHANS, N_TIMES, NUM_TRIALS = 8, 100, 60


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    address = f"http://127.0.0.1:{(port := free_port())}"
    log = (tmp_path_factory.mktemp("s3") / "log").open("w")
    server = subprocess.Popen(
        [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log
    )
    end = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(f"{address}/moto-api/", timeout=5).close()
            break
        except OSError:
            assert time.monotonic() < end, "no server"
            time.sleep(0.1)
    store(address).mkdir("bucket")
    yield address
    server.terminate()
    server.wait(30)


def store(address: str) -> Any:
    return fsspec.filesystem("s3", key="testing", secret="testing", endpoint_url=address, skip_instance_cache=True)


def shard(folder: Path, output: str, environment: dict[str, str]) -> subprocess.Popen[str]:
    """The command of a user, begun in ``folder``."""
    events = {"column": "image"}
    reader = {
        "root": str(folder.parent / "arrays"),
        "files": "sub-{subject}.npy",
        "table": "sub-{subject}.csv",
        "sfreq": 100.0,
        "tmin": -0.2,
    }
    reader |= {"unit": "microvolts", "ch_names": [f"E{c}" for c in range(N_CHANS)], "stimulus_level": "image", "concepts": "image"}
    config = {"reader": {"class_path": "ArraysReaderConfig", "init_args": {**reader, "events": events}}, "output": output}
    folder.mkdir(exist_ok=True)
    (folder / "shard.yaml").write_text(yaml.safe_dump(config | {"samples_per_shard": 10}))
    own = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    argv = [sys.executable, "-m", "data_prep", "shard", "--config", "shard.yaml"]
    env = {**own, "AWS_EC2_METADATA_DISABLED": "true", "HOME": str(folder), "PYTHONPATH": str(Path(__file__).parents[2]), **environment}
    return subprocess.Popen(argv, cwd=folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("laboratory")
    (root / "arrays").mkdir()
    random = np.random.default_rng(0)
    for subject in ("01", "02"):
        np.save(root / "arrays" / f"sub-{subject}.npy", random.normal(0, 10, (NUM_TRIALS, N_CHANS, N_TIMES)).astype(np.float32))
        (root / "arrays" / f"sub-{subject}.csv").write_text("image\n" + "".join(f"image{i}.jpg\n" for i in range(NUM_TRIALS)))
    return root


def brought(s3: Any, name: str, target: Path) -> Path:
    s3.invalidate_cache()
    s3.get(f"bucket/{name}", str(target), recursive=True)
    return target


@pytest.mark.long
def test_a_study_in_an_object_store_is_that_of_a_folder_though_it_was_killed(home: Path, endpoint: str) -> None:
    environment = {**KEYS, "AWS_ENDPOINT_URL": endpoint}
    local = shard(home / "local", "study", {})
    first = shard(home / "first", "s3://bucket/lab/study", environment)
    s3, end = store(endpoint), time.monotonic() + 120
    while len(found := s3.glob("bucket/lab/study/*.done.json")) < 2:
        assert first.poll() is None or found, first.communicate()
        assert time.monotonic() < end
        s3.invalidate_cache()
    first.send_signal(signal.SIGKILL)
    first.communicate()
    s3.invalidate_cache()
    assert not s3.exists("bucket/lab/study/manifest.json")
    kept = {path: s3.info(path)["LastModified"] for path in s3.glob("bucket/lab/study/*") if path[: -len(".tar")] + ".done.json" in found}
    other = shard(home / "another machine", "s3://bucket/lab/study", environment)  # nothing but the URL is common to the two
    _, said = other.communicate(timeout=120)
    assert other.returncode == 0, said
    assert "holds shards until they are sent, at most 3 shards at a time" in said
    assert local.communicate(timeout=120)
    study = brought(s3, "lab/study", home / "brought")
    files = {path.relative_to(study).as_posix() for path in study.rglob("*") if path.is_file()}
    assert files == {path.relative_to(home / "local/study").as_posix() for path in (home / "local/study").rglob("*") if path.is_file()}
    differing = {name for name in files if (study / name).read_bytes() != (home / "local/study" / name).read_bytes()}
    assert differing == {"config.yaml", "files.sha256"}  # the output's name stands in one
    assert verify(study) == []
    assert kept
    assert {path: s3.info(path)["LastModified"] for path in kept} == kept
    assert not list((home / "another machine").glob("*.staging"))


@pytest.mark.parametrize(
    ("output", "keys", "said"),
    [
        ("s3://nobucket/study", KEYS, "s3://nobucket/study.*no such bucket"),
        ("s3://bucket/nokeys", {}, "s3://bucket/nokeys.*no credentials"),
        ("s3://KEYID:hunter2secret@bucket/study", KEYS, "output: holds a password or token"),
    ],
)
def test_what_keeps_a_study_out_of_a_store_is_one_sentence(home: Path, endpoint: str, output: str, keys: dict[str, str], said: str) -> None:
    process = shard(home / "refused", output, {**keys, "AWS_ENDPOINT_URL": endpoint})
    _, printed = process.communicate(timeout=120)
    last = printed.strip().splitlines()[-1]
    assert process.returncode != 0
    assert last.startswith("error: ")
    assert re.search(said, last), printed
    assert "hunter2" not in printed
