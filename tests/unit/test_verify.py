"""verify names the shard and what is wrong with it; index proves or restores the tables; inspect shows them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_prep.__main__ import COMMANDS
from data_prep.contract.cli import main
from data_prep.contract.errors import StudyError
from data_prep.contract.files import read_json, sha256_file, write_json
from data_prep.contract.manifest import read_manifest, write_manifest
from data_prep.shards import reindex, ustar
from data_prep.shards.verify import verify
from data_prep.splits.config import SplitConfig
from data_prep.splits.split import write_split
from tests.helpers.tiny_study import write_tiny_study


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_tiny_study(tmp_path_factory.mktemp("studies") / "tiny", vary_reps=True)
    write_split(SplitConfig(study=str(root), policy="zero-shot", transform="mvnn"))
    return root


@pytest.fixture
def study(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "s"))


def command(*arguments: str) -> int:
    return main("data_prep", "", COMMANDS, arguments)


def test_a_whole_study_has_no_faults(study: Path, capsys: pytest.CaptureFixture) -> None:
    assert verify(study) == []
    assert command("verify", "--study", str(study)) == 0
    assert "whole, 5 shards" in capsys.readouterr().err


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x40
    path.write_bytes(data)


def test_a_truncated_tar_is_named(study: Path) -> None:
    tar = study / "000002.tar"
    tar.write_bytes(tar.read_bytes()[:-3000])
    (fault,) = verify(study)
    assert "000002.tar" in fault
    assert "truncated" in fault


def test_an_altered_value_is_found(study: Path) -> None:
    flip(study / "000001.tar", 1000)
    (fault,) = verify(study)
    assert "000001.tar" in fault
    assert "altered" in fault


def test_an_altered_header_is_found(study: Path) -> None:
    flip(study / "000001.tar", 3)
    (fault,) = verify(study)
    assert "000001.tar" in fault
    assert "altered" in fault


def test_an_index_of_another_tar_is_found(study: Path) -> None:
    shutil.copy(study / "000000.index.npy", study / "000003.index.npy")
    (fault,) = verify(study)
    assert "000003.index.npy" in fault
    assert "belongs to another tar" in fault


def test_an_index_that_lies_consistently_is_still_found(study: Path) -> None:
    """Whoever rewrote the manifest as well is caught by the headers."""
    path = study / "000000.index.npy"
    index = np.load(path)
    index["tiny_offset"][2] += 2
    path.write_bytes(ustar.npy_bytes(index))
    manifest = read_manifest(study)
    first, *others = manifest.shards
    write_manifest(study, replace(manifest, shards=[replace(first, index_sha256=sha256_file(path)), *others]))
    faults = verify(study)
    assert "row 2 does not agree with 000000.tar" in faults[0]


def test_all_bad_shards_are_listed_and_the_exit_is_not_zero(study: Path, capsys: pytest.CaptureFixture) -> None:
    flip(study / "000000.tar", 700)
    (study / "000002.trials.npy").unlink()
    (study / "000004.tar").unlink()
    faults = verify(study)
    assert [fault[:12] for fault in faults] == ["shard 000000", "shard 000002", "shard 000004"]
    assert command("verify", "--study", str(study)) == 1
    err = capsys.readouterr().err
    assert all(name in err for name in ("000000.tar", "000002.trials.npy", "000004.tar"))
    assert err.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("embeddings/tiny.npy", "tiny.npy: no such file"),
        ("splits/zero-shot.audit.json", "missing or of another split"),
        ("000001.done.json", "000001.done.json: no such file"),
    ],
)
def test_a_missing_file_is_named(study: Path, file: str, words: str) -> None:
    (study / file).unlink()
    (fault,) = verify(study)
    assert words in fault


def test_altered_embeddings_and_splits_are_found(study: Path) -> None:
    flip(study / "embeddings" / "tiny.npy", 200)
    split = read_json(study / "splits" / "zero-shot.json")
    split["parts"]["test"][0]["stimulus"].pop()
    write_json(study / "splits" / "zero-shot.json", split)
    faults = verify(study)
    assert "tiny.npy" in faults[0]
    assert "zero-shot.json" in faults[1]


def test_a_tar_that_is_not_of_the_study_is_found(study: Path) -> None:
    shutil.copy(study / "000000.tar", study / "000009.tar")
    (fault,) = verify(study)
    assert "000009.tar: not listed in the manifest" in fault


def test_another_schema_version_is_one_sentence(study: Path, capsys: pytest.CaptureFixture) -> None:
    write_manifest(study, replace(read_manifest(study), schema_version=99))
    assert command("verify", "--study", str(study)) == 1
    assert capsys.readouterr().err.splitlines()[-1].endswith("shard the study again with this version")


def test_index_restores_lost_and_damaged_tables(study: Path, pristine: Path) -> None:
    (study / "000001.index.npy").unlink()
    flip(study / "000003.trials.npy", 200)
    assert command("index", "--study", str(study), "--write", "false") == 1
    assert not (study / "000001.index.npy").exists()
    assert command("index", "--study", str(study)) == 0
    for name in ("000001.index.npy", "000003.trials.npy"):
        assert (study / name).read_bytes() == (pristine / name).read_bytes()
    assert verify(study) == []


def test_index_refuses_a_tar_that_was_not_written(study: Path) -> None:
    manifest = read_manifest(study)
    shutil.copy(study / "000000.tar", study / "000001.tar")
    with pytest.raises(StudyError, match="not the tar that was written"):
        reindex.reindex_shard(study, manifest, manifest.shards[1], write=True)


def test_tables_of_a_class_study_are_rebuilt(tmp_path: Path) -> None:
    root = write_tiny_study(tmp_path / "c", stimulus_level="class", embeddings={})
    assert verify(root) == []
    assert command("index", "--study", str(root)) == 0


def test_inspect_shows_the_study(study: Path, capsys: pytest.CaptureFixture) -> None:
    assert command("inspect", "--study", str(study), "--sample", "3", "--page", "none") == 0
    out = capsys.readouterr().out
    for word in ("TP9 AF7 AF8 TP10", "zero-shot", "tiny", read_manifest(study).fingerprint, "train/0003"):
        assert word in out
    assert command("inspect", "--study", str(study), "--sample", "24") == 1
    assert "expected 0 to 23" in capsys.readouterr().err
