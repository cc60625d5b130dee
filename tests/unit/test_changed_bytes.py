"""Tars that are not what was written: nothing computed from them is kept, whoever reads them, and none ends a process unsaid."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_prep.__main__ import COMMANDS as DATA_COMMANDS
from data_prep.contract.cli import main
from data_prep.contract.errors import StudyError
from data_prep.contract.tars import Tars
from data_prep.shards.open import open_study
from data_prep.splits.config import SplitConfig
from data_prep.splits.split import write_split
from tests.helpers.tiny_study import write_tiny_study
from tests.unit.test_evaluate import write_ridge_export
from trainer.__main__ import COMMANDS
from trainer.data.captions import StudyCaptions
from trainer.data.config import DataConfig
from trainer.data.hashes import ShardHashes
from trainer.data.index import StudyIndex
from trainer.data.loader import Loader


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("changed")
    study = write_tiny_study(home / "study", n_stimuli=24, n_test=8, n_reps=3, samples_per_shard=8)
    write_split(SplitConfig(study=str(study), policy="zero-shot", num_validation_concepts=2))
    write_ridge_export(study, "zero-shot", home / "export")
    return home


@pytest.fixture
def study(home: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(home / "study", tmp_path / "study"))


def loader(study: Path, part: str = "train", **fields: object) -> Loader:
    config = DataConfig(study=str(study), split="zero-shot", embedding="tiny", **fields)  # type: ignore[arg-type]
    return Loader(StudyIndex.open(study, verify=config.verify), config, part, seed=1)


def tars(study: Path) -> list[Path]:
    return sorted(study.glob("*.tar"))


def zero_all(study: Path, rng: np.random.Generator) -> None:
    for tar in tars(study):
        tar.write_bytes(bytes(tar.stat().st_size))


def zero_a_piece(study: Path, rng: np.random.Generator) -> None:
    tar = tars(study)[rng.integers(len(tars(study)))]
    start = int(rng.integers(tar.stat().st_size - 600))
    data = tar.read_bytes()
    tar.write_bytes(data[:start] + bytes(512) + data[start + 512 :])


def flip_a_bit(study: Path, rng: np.random.Generator) -> None:
    tar = tars(study)[rng.integers(len(tars(study)))]
    data = bytearray(tar.read_bytes())
    data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    tar.write_bytes(data)


def swap_two(study: Path, rng: np.random.Generator) -> None:
    one, other = (tars(study)[i] for i in rng.choice(len(tars(study)), 2, replace=False))
    first, second = one.read_bytes(), other.read_bytes()
    size = min(len(first), len(second))
    one.write_bytes(second[:size] + first[size:])
    other.write_bytes(first[:size] + second[size:])


CHANGES = [zero_all, *[zero_a_piece] * 3, *[flip_a_bit] * 8, *[swap_two] * 2]


@pytest.mark.parametrize(("number", "change"), list(enumerate(CHANGES)))
def test_what_was_read_from_a_changed_tar_cannot_be_kept(study: Path, number: int, change: Callable) -> None:
    rng = np.random.default_rng(number)
    whole = {tar: tar.read_bytes() for tar in tars(study)}
    change(study, rng)
    changed = [tar.name for tar, data in whole.items() if tar.read_bytes() != data]
    found = []
    for part in ("train", "validation", "test"):
        try:
            list(loader(study, part).sequential(5))
        except StudyError as error:
            found.append(str(error))
    assert found
    assert all(any(name in message for name in changed) for message in found)
    with pytest.raises(StudyError, match=r"\.tar: .*expected|\.tar: SHA-256"):
        loader(study, verify="all")
    with pytest.raises(StudyError, match=r"\.tar: SHA-256 .* nothing computed from it"):
        read_everything(study)
    list(loader(study, verify="sizes").sequential(5))


def read_everything(study: Path) -> None:
    index = loader(study).index
    for part in ("train", "validation", "test"):
        part_loader = Loader(index, loader(study).config, part, seed=1)
        part_loader.batch(0, part_loader.num_items)
    index.settle()


def read_for_long(train: Loader) -> None:
    with train.batches(0, global_batch_size=8) as stream:
        for _ in range(2000):
            next(stream)


def test_a_fault_ends_the_stream_by_itself(study: Path) -> None:
    train = loader(study)
    zero_all(study, np.random.default_rng(0))
    with pytest.raises(StudyError, match="SHA-256"):
        read_for_long(train)


def test_each_shard_is_hashed_once_and_one_that_changes_later_again(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[int] = []
    check = Tars.check
    monkeypatch.setattr(Tars, "check", lambda self, shard, *rest: (hashed.append(shard), check(self, shard, *rest))[1])
    train = loader(study)
    for _ in range(3):
        train.batch(0, 2 * train.num_items)
        train.index.settle()
    touched = sorted(np.unique(train.index.samples["shard"][train._samples.sample_N]).tolist())
    assert sorted(hashed) == touched
    tar = tars(study)[touched[0]]
    os.utime(tar)
    train.index.settle()
    assert sorted(hashed) == sorted([*touched, touched[0]])
    with tar.open("r+b") as file:
        file.seek(2000)
        file.write(b"\x00\x01" * 40)
    with pytest.raises(StudyError, match=tar.name):
        train.index.settle()


def test_threads_that_touch_a_shard_at_once_have_it_hashed_once(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = loader(study).index
    hashed: list[int] = []
    monkeypatch.setattr(Tars, "check", lambda self, shard, *rest: hashed.append(shard))
    monkeypatch.setattr(Tars, "state", lambda self, shard: 0)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(30):
            hashes, start = ShardHashes(index._tars), threading.Barrier(6)
            threads = [threading.Thread(target=lambda: (start.wait(), hashes.touch(range(200)))) for _ in range(6)]  # noqa: B023
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(30)
            hashes.settle()
            assert sorted(hashed) == [*range(200)]
            hashed.clear()
    finally:
        sys.setswitchinterval(before)


@pytest.mark.parametrize("seed", range(12))
def test_a_tar_that_shrinks_is_named_by_the_batch_that_needs_it(study: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    train = loader(study)
    train.batch(0, train.num_items)
    cut = tars(study)[int(rng.choice(np.unique(train.index.samples["shard"][train._samples.sample_N])))]
    os.truncate(cut, int(rng.integers(0, 3000)))
    with pytest.raises(StudyError, match=rf"{cut.name}: \d+ bytes, expected \d+"):
        train.batch(0, train.num_items)


@pytest.mark.parametrize("put", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("nowhere"), lambda path: None])
def test_a_tar_that_is_taken_away_or_cannot_be_read_is_named(study: Path, put: Callable[[Path], None]) -> None:
    train, tar = loader(study), tars(study)[0]
    tar.unlink()
    put(tar)
    with pytest.raises(StudyError, match=r"000000\.tar: cannot be"):
        train.batch(0, train.num_items)


@pytest.mark.parametrize("read", [
    lambda study: open_study(study).eeg(0), lambda study: open_study(study).description(0),
    lambda study: StudyIndex.open(study).settle() or settled(StudyIndex.open(study)),
])  # fmt: skip
@pytest.mark.parametrize("change", [zero_all])
def test_every_reader_of_a_tar_checks_it(study: Path, change: Callable, read: Callable) -> None:
    read(study)
    change(study, np.random.default_rng(0))
    with pytest.raises(StudyError, match=r"000000\.tar: SHA-256"):
        read(study)


def settled(index: StudyIndex) -> None:
    StudyCaptions.open(index)
    index.settle()


@pytest.mark.parametrize("command", [
    "evaluate-retrieval --export {home}/export --study {study} --output {out}/r --num_resamples 50 --num_permutations 20",
    "export-embeddings --export {home}/export --study {study} --output {out}/r.npz",
])  # fmt: skip
def test_no_score_and_no_file_comes_of_zeroed_tars(
    home: Path, study: Path, tmp_path: Path, capsys: pytest.CaptureFixture, command: str
) -> None:
    words = command.format(home=home, study=study, out=tmp_path).split()
    for tar in tars(study):  # the level stays plausible
        data = np.frombuffer(tar.read_bytes(), np.uint8).copy()
        data[1500 : len(data) : 97] = 0
        tar.write_bytes(data.tobytes())
    assert main("trainer", "", COMMANDS, words) == 1
    assert ".tar: SHA-256" in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.glob("r*"))


def test_nothing_is_fitted_on_zeroed_tars(study: Path, capsys: pytest.CaptureFixture) -> None:
    zero_all(study, np.random.default_rng(0))
    command = ["split", "--policy", "zero-shot", "--name", "other", "--transform", "zscore", "--study", str(study)]
    assert main("data_prep", "", DATA_COMMANDS, command) == 1
    assert ".tar: SHA-256" in capsys.readouterr().err.splitlines()[-1]
    assert not (study / "transforms" / "other.npz").exists()


SHRINKS = """
import os, sys
from pathlib import Path
from data_prep.contract.errors import StudyError
from trainer.data.index import StudyIndex
from trainer.data.config import DataConfig
from trainer.data.loader import Loader
root = Path(sys.argv[1])
train = Loader(StudyIndex.open(root), DataConfig(study=str(root), split="zero-shot", embedding="tiny"), "train", 1)
train.batch(0, train.num_items)
for tar in root.glob("*.tar"):
    os.truncate(tar, 0)
try:
    train.batch(0, train.num_items)
except StudyError as error:
    print("said:", error)
"""


def test_a_process_whose_tars_shrink_ends_with_a_sentence_and_not_by_a_signal(study: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SHRINKS, str(study)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0
    assert "said:" in done.stdout
    assert ".tar: 0 bytes, expected" in done.stdout


def test_no_thread_is_left_when_nobody_reads_any_more(study: Path) -> None:
    before = {*threading.enumerate()}
    train = loader(study)
    train.batch(0, 4)
    train.index.settle()
    (worker,) = [t for t in threading.enumerate() if t.name == "shard hashes" and t not in before]
    del train
    import gc

    gc.collect()
    worker.join(5)
    assert not worker.is_alive()
