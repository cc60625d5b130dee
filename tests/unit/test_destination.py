"""A study is written to a URL as to a folder: same bytes, resumed, refused under the same rules, and never all of it on this machine."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from data_prep.__main__ import COMMANDS
from data_prep.contract import cli
from data_prep.contract.errors import StudyError
from data_prep.contract.manifest import read_manifest
from data_prep.shards import remote
from data_prep.shards.verify import verify
from data_prep.shards.write import ShardConfig, write_study
from data_prep.studies.things import ThingsReaderConfig
from tests.helpers.tiny_study import TinyEmbedding, TinyReader

SHARDS = 5
OF_ITS_OWN = ("config.yaml", "files.sha256")
"""Files in which the name of the output stands, or the hash of one in which it does."""


def config(output: str, tmp_path: Path, **changes: object) -> ShardConfig:
    fields = {"reader": TinyReader(), "embeddings": {"tiny": TinyEmbedding()}, "samples_per_shard": 5, "staging": str(tmp_path / "staging")}
    return ShardConfig(output=output, **{**fields, **changes})  # type: ignore[arg-type]


def contents(url: str) -> dict[str, bytes]:
    fs, path = fsspec.core.url_to_fs(url)
    return {name.removeprefix(path).lstrip("/"): fs.cat_file(name) for name in fs.find(path)}


@pytest.fixture(params=["memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    yield f"memory://bucket/{tmp_path.name}" if request.param == "memory" else f"file://{tmp_path}/there/study"
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.fixture
def local(tmp_path: Path) -> dict[str, bytes]:
    write_study(config(str(tmp_path / "local"), tmp_path, staging=None))
    return contents(f"file://{tmp_path}/local")


def same(found: dict[str, bytes], expected: dict[str, bytes]) -> bool:
    but = {name for name in expected if name not in OF_ITS_OWN}
    return found.keys() == expected.keys() and all(found[name] == expected[name] for name in but)


def test_a_url_gets_the_bytes_of_a_folder_and_the_staging_folder_goes(url: str, tmp_path: Path, local: dict[str, bytes]) -> None:
    manifest = write_study(config(url, tmp_path))
    assert len(manifest.shards) == SHARDS
    assert same(contents(url), local)
    assert not (tmp_path / "staging").exists()
    for name, content in contents(url).items():
        path = tmp_path / "brought" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    assert verify(tmp_path / "brought") == []
    again = contents(url)
    assert write_study(config(url, tmp_path)) == manifest  # a finished study is found finished
    assert contents(url) == again


class Killed(BaseException):
    pass


def stop_after(monkeypatch: pytest.MonkeyPatch, count: int) -> list[str]:
    """The process dies when ``count`` files were sent; the names of those that are."""
    sent: list[str] = []
    put = remote.RemoteFolder.send

    def send(self: remote.RemoteFolder, file: Path, name: str, *, read_back: bool) -> None:
        if len(sent) == count:
            raise Killed
        put(self, file, name, read_back=read_back)
        sent.append(name)

    monkeypatch.setattr(remote.RemoteFolder, "send", send)
    return sent


@pytest.mark.long
@pytest.mark.parametrize(
    ("count", "same_machine"), [(0, True), (1, False), (4, True), (6, True), (8, False), (27, True), (32, False), (33, True)]
)
def test_a_run_that_was_killed_is_gone_on_with(
    tmp_path: Path, local: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, count: int, same_machine: bool
) -> None:
    url = f"memory://bucket/{tmp_path.name}"
    with monkeypatch.context() as patch:
        stop_after(patch, count)
        with pytest.raises(Killed):
            write_study(config(url, tmp_path))
    found = contents(url)
    assert "manifest.sha256" not in found
    marks = {name.split(".")[0] for name in found if name.endswith(".done.json")}
    assert all(found[f"{name}.tar"] == local[f"{name}.tar"] for name in marks)
    assert len(list((tmp_path / "staging").glob("*.tar"))) <= 2
    puts: list[str] = []
    put = MemoryFileSystem.put_file
    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "put_file", lambda self, one, other, **k: (puts.append(other), put(self, one, other, **k))[1])
        write_study(config(url, tmp_path, **({} if same_machine else {"staging": str(tmp_path / "other")})))
    assert same(contents(url), local)
    assert not [each for each in puts if Path(each).name.split(".")[0] in marks]  # not again
    if same_machine:
        assert not {Path(each).name for each in puts} & ({Path(name).name for name in found} - {"files.sha256"})


def test_another_plan_and_somebody_elses_files_are_refused_untouched(url: str, tmp_path: Path) -> None:
    write_study(config(url, tmp_path))
    before = contents(url)
    with pytest.raises(StudyError, match=r"another plan .*samples_per_shard"):
        write_study(config(url, tmp_path, samples_per_shard=3))
    assert contents(url) == before
    fs, path = fsspec.core.url_to_fs(f"{url}-2")
    fs.makedirs(path, exist_ok=True)
    fs.pipe_file(f"{path}/notes.txt", b"theirs")
    with pytest.raises(StudyError, match=r"notes\.txt but no plan\.json"):
        write_study(config(f"{url}-2", tmp_path, staging=str(tmp_path / "staging-2")))
    assert contents(f"{url}-2") == {"notes.txt": b"theirs"}


def test_a_staging_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "staging").mkdir()
    (tmp_path / "staging" / "thesis.txt").write_text("mine")
    with pytest.raises(StudyError, match=r"holds thesis\.txt, expected an empty staging folder"):
        write_study(config("memory://bucket/a", tmp_path))
    assert (tmp_path / "staging" / "thesis.txt").read_text() == "mine"


def test_a_full_staging_disk_is_said_before_a_shard_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("", (), {"free": 1000}))
    with pytest.raises(StudyError, match=r"0\.0 GB of disk are free, expected room for at most 3 shards"):
        write_study(config("memory://bucket/full", tmp_path))
    assert contents("memory://bucket/full") == {}


@pytest.mark.parametrize("read_back", [True, False])
def test_what_arrives_as_something_else_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_back: bool) -> None:
    monkeypatch.setattr(remote, "_WAIT_SECONDS", (0.0,))
    put = MemoryFileSystem.put_file

    def cut(self: MemoryFileSystem, one: str, other: str, **fields: object) -> None:
        put(self, one, other, **fields)
        if other.endswith("000002.tar"):
            whole = self.cat_file(other)
            self.pipe_file(other, b"x" + whole[1:] if read_back else whole[:-1])

    monkeypatch.setattr(MemoryFileSystem, "put_file", cut)
    with pytest.raises(StudyError, match=r"000002\.tar: holds other bytes than were sent"):
        write_study(config("memory://bucket/cut", tmp_path, read_back=read_back))
    assert "000002.done.json" not in contents("memory://bucket/cut")


def test_a_store_that_fails_for_a_moment_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_WAIT_SECONDS", (0.0, 0.0))
    put, turns = MemoryFileSystem.put_file, itertools.count()

    def busy(self: MemoryFileSystem, one: str, other: str, **fields: object) -> None:
        if next(turns) % 3:
            raise OSError("SlowDown: please reduce your request rate")
        put(self, one, other, **fields)

    monkeypatch.setattr(MemoryFileSystem, "put_file", busy)
    assert len(write_study(config("memory://bucket/busy", tmp_path)).shards) == SHARDS


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://KEY:hunter2secret@bucket/study", "holds a password or token"),
        ("sftp://me:hunter2secret@host/study", "holds a password or token"),
        ("https://host/study", "can be read alone"),
        ("nosuch://host/study", "nosuch"),
        ("simplecache::memory://study", "expected a URL of one scheme"),
        ("gs://bucket/study", "no installed package knows gs://: .*gcsfs"),
    ],
)
def test_what_cannot_be_written_to_is_said_in_one_sentence(url: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=said) as caught:
        write_study(config(url, tmp_path))
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "staging").exists()


@pytest.mark.parametrize("command", ["verify", "inspect", "index", "split", "embed"])
def test_who_reads_a_study_is_told_that_a_url_is_no_folder(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    more = {"split": ["--policy", "session"], "embed": ["--name", "x", "--embedding", "ClassesConfig"]}.get(command, [])
    assert cli.main("data_prep", "", COMMANDS, [command, "--study", "s3://bucket/study", *more]) != 0
    error = capsys.readouterr().err
    assert "s3://bucket/study: is a URL, expected a folder of this machine" in error, error


def test_recordings_behind_a_url_are_not_looked_for_in_a_folder(tmp_path: Path) -> None:
    reader = ThingsReaderConfig(root="s3://bucket/things")
    with pytest.raises(StudyError, match=r"^s3://bucket/things: is a URL, expected a folder of this machine"):
        write_study(ShardConfig(reader=reader, output=str(tmp_path / "study")))


def test_the_manifest_of_a_url_says_what_that_of_a_folder_does(tmp_path: Path, local: dict[str, bytes]) -> None:
    write_study(config("memory://bucket/m", tmp_path))
    found = json.loads(contents("memory://bucket/m")["manifest.json"])
    assert found["fingerprint"] == read_manifest(tmp_path / "local").fingerprint
