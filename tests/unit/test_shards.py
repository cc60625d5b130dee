"""The writer: what stock readers read back, the same bytes whatever happens, and one sentence for every bad input."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from data_prep.contract import cli
from data_prep.contract.errors import StudyError, UserError
from data_prep.contract.lock import alone
from data_prep.contract.manifest import read_manifest
from data_prep.contract.repetitions import read_shard_tables
from data_prep.contract.seal import SEALS
from data_prep.shards import shard as one_shard
from data_prep.shards.verify import verify
from data_prep.shards.write import ShardConfig, write_study
from tests.helpers.tiny_study import TinyEmbedding, TinyReader, TinySource, write_tiny_study

REPOSITORY = Path(__file__).parents[2]


def contents(root: Path) -> dict[str, bytes]:
    # config.yaml names the output folder, and files.sha256 has a line of it and one of all its lines.
    files = [path for path in root.rglob("*") if path.is_file() and path.name != "config.yaml"]
    found = {path.relative_to(root).as_posix(): path.read_bytes() for path in files}
    if SEALS in found:
        lines = found[SEALS].splitlines(keepends=True)
        found[SEALS] = b"".join(line for line in lines if not line.endswith(b"  config.yaml\n") and not line.startswith(b"# "))
    return found


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_study(tmp_path_factory.mktemp("studies") / "tiny", vary_reps=True)


# ------------------------------------------------------------------------------------------------- what is written


def test_stock_webdataset_reads_the_tars_back(study: Path) -> None:
    wds = pytest.importorskip("webdataset")
    tars = sorted(str(path) for path in study.glob("*.tar"))
    source, table = TinySource(TinyReader(vary_reps=True)), np.load(study / "embeddings" / "tiny.npy")
    read = list(wds.WebDataset(tars, shardshuffle=False).decode())
    assert [sample["__key__"] for sample in read] == [plan.key for plan in source.samples]
    for i, (sample, plan) in enumerate(zip(read, source.samples, strict=True)):
        assert sample["eeg.npy"].dtype == np.float16
        assert np.array_equal(sample["eeg.npy"], source.eeg(i).astype(np.float16))
        assert np.array_equal(sample["tiny.npy"], table[plan.stimulus].astype(np.float16))
        assert sample["txt"].splitlines() == source.facts.captions[plan.stimulus]
        described = sample["json"]
        assert described["subject"] == source.facts.subjects[plan.subject]
        assert described["stimulus"] == source.facts.stimuli[plan.stimulus].id
        assert described["concept_name"] == source.facts.concepts[described["concept"]]
        assert described["recording"] == [source.facts.recordings[r] for r in plan.recording]
        assert described["onset_seconds"] == ["unknown"] * plan.n_reps


def test_stimuli_without_captions_are_counted_and_have_an_empty_member(tmp_path: Path) -> None:
    study = write_tiny_study(tmp_path / "study", n_stimuli=6, n_test=2, n_subjects=1, uncaptioned=(1, 4))
    manifest = read_manifest(study)
    assert (manifest.captions, manifest.captions_missing) == (True, 2)
    lengths = {}
    for shard in manifest.shards:
        index, _ = read_shard_tables(study, manifest, shard)
        tar = (study / f"{shard.name}.tar").read_bytes()
        for row in index:
            text = tar[int(row["txt_offset"]) : int(row["txt_offset"]) + int(row["txt_bytes"])].decode()
            lengths[int(row["stimulus"])] = len(text.splitlines())
    assert lengths == {0: 2, 1: 0, 2: 2, 3: 2, 4: 0, 5: 2}
    assert verify(study) == []


def test_index_offsets_point_at_the_arrays(study: Path) -> None:
    manifest, source = read_manifest(study), TinySource(TinyReader(vary_reps=True))
    number = 0
    for shard in manifest.shards:
        index, _ = read_shard_tables(study, manifest, shard)
        tar = (study / f"{shard.name}.tar").read_bytes()
        for row in index:
            eeg = np.frombuffer(tar, "<f2", int(row["eeg_bytes"]) // 2, int(row["eeg_offset"]))
            assert np.array_equal(eeg.reshape(row["n_reps"], 4, 20), source.eeg(number).astype(np.float16))
            text = tar[int(row["json_offset"]) : int(row["json_offset"] + row["json_bytes"])]
            assert json.loads(text)["stimulus"] == source.facts.stimuli[row["stimulus"]].id
            number += 1
    assert number == len(source.samples)


def test_tars_are_plain_ustar_without_names_or_times(study: Path) -> None:
    import tarfile

    with tarfile.open(study / "000000.tar") as tar:
        members = tar.getmembers()
        assert not tar.pax_headers
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode, m.isreg()) for m in members} == {(0, 0, 0, "", "", 0o644, True)}
    if shutil.which("tar"):
        listed = subprocess.run(["tar", "tf", str(study / "000000.tar")], capture_output=True, text=True, check=True, timeout=20)
        assert listed.stdout.split() == [m.name for m in members]
        assert not listed.stderr


def test_the_manifest_tells_the_facts(study: Path) -> None:
    manifest = read_manifest(study)
    assert asdict(manifest.signal) == {
        "unit": "microvolts",
        "sfreq": 100.0,
        "tmin": -0.05,
        "n_times": 20,
        "n_chans": 4,
        "positions": None,
        "dtype": "float16",
        "ch_names": ["TP9", "AF7", "AF8", "TP10"],
    }
    assert manifest.stimulus_level == "image"
    assert [shard.rows for shard in manifest.shards] == [5, 5, 5, 5, 4]
    assert manifest.embedding("tiny").dim == 8
    assert manifest.quality.trials == 88


def test_railed_trials_are_counted(tmp_path: Path) -> None:
    root = write_tiny_study(tmp_path / "s", stimulus_level="class")
    quality = read_manifest(root).quality
    assert asdict(quality) == {"trials": 48, "railed_trials": 6, "by_label": {"good": 42, "railed": 6}}


def test_float32_on_request(tmp_path: Path) -> None:
    root = write_tiny_study(tmp_path / "s", eeg_dtype="float32", n_subjects=1)
    manifest = read_manifest(root)
    index, _ = read_shard_tables(root, manifest, manifest.shards[0])
    eeg = np.fromfile(root / "000000.tar", "<f4", int(index[0]["eeg_bytes"]) // 4, offset=int(index[0]["eeg_offset"]))
    assert np.array_equal(eeg, TinySource(TinyReader(n_subjects=1)).eeg(0).ravel())


def test_the_saved_config_writes_the_same_study(study: Path, tmp_path: Path) -> None:
    config = yaml.safe_load((study / "config.yaml").read_text())
    assert config["embeddings"]["tiny"]["class_path"] == "tests.helpers.tiny_study.TinyEmbedding"
    write_study(dataclasses.replace(cli.from_plain(ShardConfig, config), output=str(tmp_path / "again")))
    assert contents(tmp_path / "again") == contents(study)


# --------------------------------------------------------------------------------------------- killed, full, again

KILL = """
import os, sys
from pathlib import Path
from typing import Any
from tests.helpers.tiny_study import write_tiny_study
from tests.unit.test_shards import contents

folder = Path(sys.argv[1])
os.fsync = lambda _: None  # a killed process loses nothing that it had written; only a power cut does
fields = dict(n_stimuli=6, n_test=2, n_subjects=1, samples_per_shard=2)
replace = os.replace
calls = []
os.replace = lambda *a: (calls.append(a), replace(*a))
whole = contents(write_tiny_study(folder / "whole", **fields))
os.replace = replace
print("renames", len(calls), flush=True)
for deadly in range(len(calls)):  # before a rename is after the one before it
    root, count = folder / str(deadly), [0]
    pid = os.fork()
    if pid == 0:
        def die(*a):
            if count[0] == deadly:
                os._exit(9)
            count[0] += 1
            replace(*a)
        os.replace = die
        write_tiny_study(root, **fields)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 9, (deadly, status)
    kept = {p.name: p.stat().st_mtime_ns for d in root.glob("*.done.json") for p in root.glob(d.name[:6] + ".*")}
    again = contents(write_tiny_study(root, **fields))
    assert again == whole, (deadly, sorted(set(again) ^ set(whole)))
    assert all((root / name).stat().st_mtime_ns == time for name, time in kept.items()), "a finished shard was written again"
print("same bytes", flush=True)
"""


def test_killed_at_any_rename_and_run_again_gives_the_same_bytes(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILL, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        check=False,
    )
    assert done.stdout.split()[-2:] == ["same", "bytes"], done.stderr[-2000:]


def test_the_same_input_gives_the_same_bytes(study: Path, tmp_path: Path) -> None:
    assert contents(write_tiny_study(tmp_path / "elsewhere", vary_reps=True)) == contents(study)


@pytest.mark.parametrize("together_bytes", [0, 5_000, 2**30])
def test_bytes_do_not_depend_on_what_is_measured_together(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together_bytes: int
) -> None:
    monkeypatch.setattr(one_shard, "_TOGETHER_BYTES", together_bytes)
    assert contents(write_tiny_study(tmp_path / "elsewhere", vary_reps=True)) == contents(study)


def test_a_damaged_shard_is_written_again_and_embeddings_are_kept(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "s"
    shutil.copytree(study, root)
    (root / "000001.tar").write_bytes((root / "000001.tar").read_bytes()[:-100])
    (root / "manifest.json").unlink()
    monkeypatch.setattr(TinyEmbedding, "compute", lambda *_: pytest.fail("the embedding was computed again"))
    write_tiny_study(root, vary_reps=True)
    assert contents(root) == contents(study)


FULL = """
import resource, sys
from tests.helpers.tiny_study import TinyReader, TinyEmbedding
from data_prep.shards.write import ShardConfig, run
from data_prep.contract.cli import Command, main
if sys.argv[2] != "0":
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
command = {"shard": Command(config="data_prep.shards.write:ShardConfig", run="data_prep.shards.write:run", help="")}
sys.exit(main("x", "", command, ["shard", "--config", sys.argv[1]]))
"""


def _shard_in_a_process(config: Path, limit: int) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", FULL, str(config), str(limit)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=REPOSITORY, check=False)


def test_a_full_disk_is_one_sentence_and_loses_nothing(tmp_path: Path) -> None:
    """On a small tmpfs where one may be mounted, else under a limit on the size of a file."""
    root, whole = tmp_path / "mount" / "s", write_tiny_study(tmp_path / "whole", n_subjects=6, n_times=200, n_reps=8)
    root.parent.mkdir()
    config = ShardConfig(
        reader=TinyReader(n_subjects=6, n_times=200, n_reps=8), output=str(root), embeddings={"tiny": TinyEmbedding()}, samples_per_shard=5
    )
    (tmp_path / "config.yaml").write_text(cli.to_yaml(config))
    mounted = False
    try:
        if shutil.which("mount"):
            tmpfs = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(root.parent)]
            mounted = subprocess.run(tmpfs, capture_output=True, timeout=20, check=False).returncode == 0
        first = _shard_in_a_process(tmp_path / "config.yaml", 0 if mounted else 60_000)
        assert first.returncode == 1
        (line,) = [line for line in first.stderr.splitlines() if line.startswith("error:")]
        assert "no space left on the disk" in line
        assert "run the same command again" in line
        assert not list(root.glob(".*.partial"))
        assert not (root / "manifest.json").exists()
        finished = {path.name[:6] for path in root.glob("*.done.json")}
        assert finished or not mounted
        assert len(list(root.glob("*.tar"))) - len(finished) <= 1
        if mounted:
            subprocess.run(["mount", "-o", "remount,size=50m", str(root.parent)], check=True, timeout=20)
        write_study(config)
        assert contents(root) == contents(whole)
    finally:
        if mounted:
            subprocess.run(["umount", str(root.parent)], check=True, timeout=20)


@pytest.mark.parametrize("change", [{"rows": "all"}, {"files": {}}, {"files": {"tar": {"bytes": 1}}}, {"quality": None}, {"plan_hash": 3}])
def test_a_damaged_mark_is_named(tmp_path: Path, change: dict[str, Any]) -> None:
    write_tiny_study(tmp_path / "study", n_stimuli=6)
    mark = tmp_path / "study" / "000000.done.json"
    mark.write_text(json.dumps(json.loads(mark.read_text()) | change))
    with pytest.raises(UserError, match=r"000000\.done\.json: .*expected") as caught:
        write_tiny_study(tmp_path / "study", n_stimuli=6)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------------------------------------- one sentence


@dataclass(frozen=True, kw_only=True)
class SpoiltReader(TinyReader):
    """A reader whose EEG has one fault."""

    fault: str = ""
    """Which."""

    def open(self) -> TinySource:
        source = TinySource(self)
        sound, fault = source.eeg, self.fault

        def eeg(i: int) -> np.ndarray:
            eeg_RCT = sound(i)
            if i == 3:
                eeg_RCT = {
                    "nan": np.where(np.arange(20) == 7, np.nan, eeg_RCT),
                    "huge": eeg_RCT * 1e6,
                    "constant": eeg_RCT * (np.arange(4) != 2)[:, None],
                    "offset": eeg_RCT + 1000 * (np.arange(4) == 1)[:, None],
                    "shape": eeg_RCT[:, :, :-1],
                }[fault]
            return eeg_RCT

        source.eeg = eeg  # type: ignore[method-assign]
        return source


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("nan", ("stim-000003", "TP9", "not finite")),
        ("huge", ("stim-000003", "beyond the range of float16")),
        ("constant", ("stim-000003", "AF8", "constant")),
        ("offset", ("stim-000003", "AF7", "high-pass first")),
        ("shape", ("stim-000003", "(4, 4, 19)", "(4, 4, 20)")),
    ],
)
def test_bad_eeg_is_refused_by_name_and_nothing_is_half_written(tmp_path: Path, fault: str, words: tuple[str, ...]) -> None:
    config = ShardConfig(reader=SpoiltReader(fault=fault), output=str(tmp_path / "s"), samples_per_shard=2)
    with pytest.raises(StudyError) as caught:
        write_study(config)
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in (tmp_path / "s").glob("*.tar")) == ["000000.tar"]
    assert not list((tmp_path / "s").glob(".*"))


def test_an_offset_fits_in_float32(tmp_path: Path) -> None:
    write_study(ShardConfig(reader=SpoiltReader(fault="offset"), output=str(tmp_path / "s"), eeg_dtype="float32"))


def test_a_folder_of_another_plan_is_refused_untouched(tmp_path: Path) -> None:
    root = write_tiny_study(tmp_path / "s", n_subjects=1)
    before = contents(root)
    for change, what in (
        ({"seed": 1}, "source files"),
        ({"samples_per_shard": 3}, "samples_per_shard"),
        ({"eeg_dtype": "float32"}, "eeg_dtype"),
    ):
        with pytest.raises(StudyError, match=f"another plan .*{what}"):
            write_tiny_study(root, n_subjects=1, **change)
    with pytest.raises(StudyError, match=r"another plan .*embeddings"):
        write_tiny_study(root, n_subjects=1, embeddings={"tiny": TinyEmbedding(seed=5)})
    assert contents(root) == before


def test_somebody_elses_tars_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "000000.tar").write_bytes(b"mine")
    with pytest.raises(StudyError, match=r"000000\.tar but no plan\.json"):
        write_tiny_study(tmp_path / "s")
    assert (tmp_path / "s" / "000000.tar").read_bytes() == b"mine"


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    with alone(tmp_path), pytest.raises(StudyError, match="another process is writing"):
        write_tiny_study(tmp_path)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (np.ones((5, 3)), r"shape \(5, 3\), expected \(12, dim\)"),
        (np.full((12, 3), np.nan), "row 0 is zero or not finite as float16"),
        (np.full((12, 3), 1e9), "not finite"),
    ],
)
def test_bad_embeddings_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: np.ndarray, message: str) -> None:
    monkeypatch.setattr(TinyEmbedding, "compute", lambda *_: (table, {}))
    with pytest.raises(StudyError, match=message):
        write_tiny_study(tmp_path / "s")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"samples_per_shard": 0}, "samples_per_shard is 0"),
        ({"eeg_dtype": "int16"}, "eeg_dtype is 'int16'"),
        ({"output": ""}, "output is empty"),
        ({"embeddings": {"EEG": TinyEmbedding()}}, "embedding name"),
    ],
)
def test_contradictory_configs_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ShardConfig(**{"reader": TinyReader(), "output": "x", **fields})


@pytest.mark.parametrize("foreign", ["notes.txt", "identity.json", "images/a.jpg", "000000.tar", "manifest.json"])
def test_a_study_is_not_written_among_other_files(tmp_path: Path, foreign: str) -> None:
    file = tmp_path / "study" / foreign
    file.parent.mkdir(parents=True)
    file.write_text("theirs")
    with pytest.raises(StudyError, match=r"but no plan\.json: expected an empty folder"):
        write_tiny_study(tmp_path / "study")
    assert [path for path in (tmp_path / "study").rglob("*") if path.is_file()] == [file]
