"""Pipes, devices, folders and links where a file is expected, and numbers that are none: one sentence; nothing is awaited or copied."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from data_prep.contract import safe_load
from data_prep.contract.arrays import read_archive, read_array
from data_prep.contract.config_file import read_fields
from data_prep.contract.errors import UserError
from data_prep.contract.files import copy_durably, read_json, sha256_file
from data_prep.contract.images import open_image
from data_prep.studies.muse_files import read_csv
from tests.distributed.training import write_split
from tests.helpers.tiny_study import write_tiny_study
from tests.helpers.tiny_text import write_tiny_encoder
from trainer.artifacts.command import ExportConfig
from trainer.artifacts.command import run as export
from trainer.artifacts.encoder import load_encoder

READERS: dict[str, Callable[[Path], Any]] = {
    "json": read_json, "image": open_image, "yaml": read_fields, "npy": read_array, "npz": read_archive, "pickle": safe_load.load,
    "csv": lambda path: read_csv(path, ("TP9",)), "hash": sha256_file,
}  # fmt: skip


@pytest.fixture
def in_time() -> Iterator[None]:
    """Whoever waits for a pipe is woken."""

    def late(*_: object) -> None:
        raise AssertionError("waits without end")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "link to a device"])
@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_file_of_bytes_is_refused_unread(tmp_path: Path, in_time: None, reader: str, kind: str) -> None:
    path = tmp_path / "given"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    if kind == "device":
        path = Path("/dev/zero")
    with pytest.raises(UserError, match=str(path)):
        READERS[reader](path)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with nothing but an export."""
    home = tmp_path_factory.mktemp("special")
    study = write_tiny_study(home / "study", n_subjects=2, n_stimuli=24, n_test=4, n_reps=2)
    write_split(study, "tiny", train={"stimulus": list(range(14))})
    (home / "run").mkdir()
    write_tiny_encoder(home / "run" / "export", study)
    return home / "run"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("field", ["level", "signal", "build"])
def test_a_number_that_is_none_is_refused_wherever_an_export_holds_it(exported: Path, tmp_path: Path, number: str, field: str) -> None:
    folder = Path(shutil.copytree(exported / "export", tmp_path / "export"))
    plain = json.loads((folder / "config.json").read_text())

    def spoiled(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: spoiled(inner) for name, inner in value.items()}
        return "NUMBER" if isinstance(value, float) else value

    plain[field] = spoiled(plain[field])
    text = json.dumps(plain)
    assert '"NUMBER"' in text
    (folder / "config.json").write_text(text.replace('"NUMBER"', number))
    with pytest.raises(UserError, match=r"config\.json: holds a number that is not finite"):
        load_encoder(folder)


@pytest.mark.parametrize("name", ["notes.txt", "inner/notes.txt", "folder"])
def test_a_link_that_leads_out_is_not_followed_into_a_copy(exported: Path, tmp_path: Path, name: str) -> None:
    run = Path(shutil.copytree(exported, tmp_path / "run"))
    secret = tmp_path / "secrets" / "key"
    secret.parent.mkdir()
    secret.write_text("mine")
    link = run / "export" / name
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(secret.parent if name == "folder" else secret)
    for copy in (
        lambda: copy_durably(run / "export", tmp_path / "copy"),
        lambda: export(ExportConfig(run=str(run), output=str(tmp_path / "copy"))),
    ):
        with pytest.raises(UserError, match=rf"{link.name}: a link to .*, expected none that leads out"):
            copy()
        assert not (tmp_path / "copy").exists()
    link.unlink()
    link.symlink_to(run / "export" / "config.json")  # inside, it is a file like any other
    copy_durably(run / "export", tmp_path / "copy")
