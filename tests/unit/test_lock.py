"""Two writers of one study: both are kept, or the second is told who the first is; none is lost."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from data_prep.contract.audit import read_audit
from data_prep.contract.errors import StudyError
from data_prep.contract.lock import _HELD, alone, first_come
from data_prep.contract.manifest import read_manifest
from data_prep.contract.split import read_split
from data_prep.embed import command as embed_command
from data_prep.embed.command import EmbedConfig
from data_prep.embed.imported import ImportedConfig
from data_prep.shards.reindex import ReindexConfig
from data_prep.shards.reindex import run as reindex
from data_prep.splits import audit, transforms
from data_prep.splits.config import SplitConfig
from data_prep.splits.split import write_split
from tests.helpers.tiny_study import write_tiny_study


@pytest.fixture
def study(tmp_path: Path) -> Path:
    write_tiny_study(tmp_path / "study")
    return tmp_path / "study"


def embedding(study: Path, name: str, seed: int) -> EmbedConfig:
    table_NE = np.random.default_rng(seed).standard_normal((len(read_manifest(study).tables.stimuli), 3 + seed)).astype(np.float32)
    np.save(study.parent / f"{name}.npy", table_NE)
    return EmbedConfig(study=str(study), name=name, embedding=ImportedConfig(path=str(study.parent / f"{name}.npy")))


def test_embeddings_that_are_computed_at_the_same_time_are_all_there(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configs = [embedding(study, f"e{number}", number) for number in range(4)]
    together, compute = threading.Barrier(len(configs)), ImportedConfig.compute

    def slow(self: ImportedConfig, facts: object) -> object:
        together.wait(20)  # all have read the manifest before any writes it
        return compute(self, facts)  # type: ignore[arg-type]

    monkeypatch.setattr(ImportedConfig, "compute", slow)
    with ThreadPoolExecutor(len(configs)) as pool:
        list(pool.map(embed_command.run, configs))
    manifest = read_manifest(study)
    assert {config.name for config in configs} < set(manifest.embeddings)
    for config in configs:
        np.testing.assert_array_equal(np.load(study / "embeddings" / f"{config.name}.npy"), np.load(study.parent / f"{config.name}.npy"))


def test_of_two_embeddings_of_one_name_the_first_stays(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = embedding(study, "mine", 1), embedding(study, "other", 2)
    second = EmbedConfig(study=str(study), name="mine", embedding=second.embedding)
    compute = ImportedConfig.compute

    def overtaken(self: ImportedConfig, facts: object) -> object:
        monkeypatch.setattr(ImportedConfig, "compute", compute)
        embed_command.run(first)
        return compute(self, facts)  # type: ignore[arg-type]

    monkeypatch.setattr(ImportedConfig, "compute", overtaken)
    with pytest.raises(StudyError, match="already has an embedding 'mine'"):
        embed_command.run(second)
    np.testing.assert_array_equal(np.load(study / "embeddings" / "mine.npy"), np.load(study.parent / "mine.npy"))


def test_of_two_splits_of_one_name_the_first_stays(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def split(seed: int) -> SplitConfig:
        return SplitConfig(
            study=str(study), name="mine", policy="zero-shot", num_test_concepts=1, num_validation_concepts=0, seed=seed, transform="zscore"
        )

    fit = transforms.fit_transform

    def overtaken(*arguments: object) -> object:
        monkeypatch.setattr(transforms, "fit_transform", fit)
        write_split(split(1))
        return fit(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(transforms, "fit_transform", overtaken)
    with pytest.raises(StudyError, match="a different split of this name is there"):
        write_split(split(2))
    there = read_split(study, read_manifest(study), "mine")
    assert there.options["seed"] == 1
    assert read_audit(study, "mine").split_hash == there.hash


def test_an_audit_of_a_split_that_was_replaced_is_not_written(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from data_prep.shards.open import open_study

    config = SplitConfig(study=str(study), name="mine", policy="zero-shot", num_test_concepts=1, num_validation_concepts=0, seed=1)
    old, _ = write_split(config)
    write_split(
        SplitConfig(
            study=str(study), name="mine", policy="zero-shot", num_test_concepts=1, num_validation_concepts=0, seed=2, overwrite=True
        )
    )
    with pytest.raises(StudyError, match="split 'mine' was replaced"):
        audit.write_audit(open_study(str(study)), old)


HOLD = """
import sys, time
from pathlib import Path
from data_prep.contract.lock import alone
with alone(Path(sys.argv[1])):
    print("mine", flush=True)
    sys.stdin.read()
"""


def test_who_writes_already_is_named_and_holds_nothing_once_it_is_gone(study: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(study)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "mine\n"
        with pytest.raises(StudyError) as error, alone(study, wait_seconds=0.1):
            pass
        said = str(error.value)
        assert f"{study}: another process is writing here" in said
        if Path("/proc/locks").is_file():
            assert f"(process {other.pid}: python" in said
            assert str(study) not in said.removeprefix(str(study))  # its options are its own
        other.kill()
    with alone(study, wait_seconds=5):
        pass


FORKED = """
import multiprocessing, os, signal, sys, time
from pathlib import Path
from data_prep.contract.lock import alone, first_come
with (alone if sys.argv[2] == "alone" else first_come)(Path(sys.argv[1])):
    if sys.argv[3] == "fork" and os.fork() == 0:
        time.sleep(60)
    elif sys.argv[3] == "worker":
        multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,)).start()
    print("held", flush=True)
    time.sleep(60)
"""


def is_free(place: Path) -> bool:
    handle = os.open(place, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return True


@pytest.mark.parametrize("kind", ["alone", "first_come"])
@pytest.mark.parametrize("child", ["fork", "worker"])
def test_a_lock_goes_with_its_process_though_a_fork_lives_on(tmp_path: Path, kind: str, child: str) -> None:
    place = tmp_path if kind == "alone" else tmp_path / "lock"
    argv = [sys.executable, "-c", FORKED, str(place), kind, child]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, start_new_session=True) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "held\n"
            other.kill()
            os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
            end = time.monotonic() + 20  # the fork may not have come to let go
            while not is_free(place):
                assert time.monotonic() < end, "held by the fork of a process that is gone"
                time.sleep(0.01)
        finally:
            os.killpg(other.pid, signal.SIGKILL)


def test_a_fork_that_leaves_the_context_takes_nothing_away(tmp_path: Path) -> None:
    with alone(tmp_path):
        if (pid := os.fork()) == 0:
            os._exit(1 if _HELD else 0)
        assert os.waitpid(pid, 0)[1] == 0
        with pytest.raises(StudyError, match="another process is writing here"), alone(tmp_path, wait_seconds=0):
            pass
    with alone(tmp_path, wait_seconds=0):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EIO])
def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def none(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", none)
    says = f"its file system gives no lock .{os.strerror(number)}."
    with pytest.raises(StudyError, match=f"^{tmp_path}: {says}"), alone(tmp_path):
        pass
    with pytest.raises(StudyError, match=f"^{tmp_path / 'lock'}: {says}"), first_come(tmp_path / "lock"):
        pass
    assert not _HELD


def test_a_short_wait_for_another_writer_is_no_error(study: Path) -> None:
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with alone(study):
            held.set()
            done.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(20)
    threading.Timer(0.2, done.set).start()
    assert reindex(ReindexConfig(study=str(study))) == 0
    assert done.is_set()
    thread.join()
