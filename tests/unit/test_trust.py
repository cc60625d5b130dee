"""No class is imported because a file that came with data names it; a user's own config, an import or ``--trust`` allows it."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from data_prep.contract.cli import from_plain, parse, to_plain
from data_prep.contract.errors import ConfigError, UserError
from data_prep.contract.trust import VARIABLE, allow_classes, trusted
from tests.distributed.training import write_split
from tests.helpers.tiny_study import write_tiny_study
from tests.unit.test_export import ENCODER, export
from trainer.artifacts.encoder import load_encoder
from trainer.models.contrastive import ContrastiveModelConfig
from trainer.models.encoders import TSConv
from trainer.tasks.contrastive.config import ContrastiveConfig

ROOT = Path(__file__).parents[2]
STRANGER = """
from pathlib import Path
(Path(__file__).parent / "ran").touch()
from dataclasses import dataclass
from trainer.models.encoders import EncoderConfig, TSConv

@dataclass(frozen=True, kw_only=True)
class Mine(TSConv):
    pass
"""
PATHS = ("{}.Mine", "{}.Mine.nested", "{}.deeper.Mine", "{}.Path", "{}")
FORMS: tuple[Any, ...] = (
    lambda path: path,
    lambda path: {"class_path": path},
    lambda path: {"class_path": path, "init_args": {"dropout": 0.1}},
    lambda path: {"class_path": "TSConv", "init_args": {"dropout": {"class_path": path}}},
    lambda path: {"class_path": "trainer.models.encoders.TSConv", "dict_kwargs": {"other": {"class_path": path}}},
    lambda path: json.dumps({"class_path": path}),
    lambda path: [{"class_path": path}],
)


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """A module that can be imported, which leaves a file ``ran`` where it is."""
    name = f"stranger{abs(hash(request.node.name)) % 10**8}"
    (tmp_path / f"{name}.py").write_text(STRANGER)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    return tmp_path / f"{name}.py"


def config(encoder: Any) -> dict[str, Any]:
    return {**to_plain(ContrastiveModelConfig(encoder=ENCODER)), "encoder": encoder}


@pytest.mark.parametrize(("path", "form"), itertools.product(PATHS, FORMS))
def test_what_a_file_names_is_not_imported(stranger: Path, path: str, form: Any) -> None:
    with pytest.raises(ConfigError, match=r"encoder|other"):
        from_plain(ContrastiveModelConfig, config(form(path.format(stranger.stem))))
    assert stranger.stem not in sys.modules
    assert not stranger.with_name("ran").exists()


@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "trainer.artifacts.encoder.os.system", "trainer.run.Path", "pathlib.Path"])
def test_nor_is_anything_of_pythons_or_ours_that_is_no_encoder(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(ConfigError, match="encoder"):
        from_plain(ContrastiveModelConfig, config({"class_path": name}))


def test_the_refusal_says_how_to_trust_it(stranger: Path) -> None:
    with pytest.raises(ConfigError, match=rf"--trust {stranger.stem} .*trust=\('{stranger.stem}',\)"):
        from_plain(ContrastiveModelConfig, config({"class_path": f"{stranger.stem}.Mine"}))


def test_trusted_it_is_imported(stranger: Path) -> None:
    allow_classes([stranger.stem])
    found = from_plain(ContrastiveModelConfig, config({"class_path": f"{stranger.stem}.Mine"}))
    assert type(found.encoder).__name__ == "Mine"


def test_imported_already_it_is_known(stranger: Path) -> None:
    module = __import__(stranger.stem)
    found = from_plain(ContrastiveModelConfig, config({"class_path": f"{stranger.stem}.Mine", "init_args": {"dropout": 0.25}}))
    assert found.encoder == module.Mine(dropout=0.25)


def test_a_users_own_config_names_what_it_likes(stranger: Path, tmp_path: Path) -> None:
    lines = ["--run", str(tmp_path / "run"), "--data.study", "s", "--data.split", "p", "--data.embedding", "e", "--train.steps", "1"]
    found = parse(ContrastiveConfig, [*lines, "--model.encoder", f"{stranger.stem}.Mine"])
    assert isinstance(found.model.encoder, TSConv)
    assert type(found.model.encoder).__module__ == stranger.stem


def test_trust_is_for_later_processes_too_and_adds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "one")
    allow_classes(["two.rooms", "one"])
    assert trusted() == ["one", "two.rooms"]
    assert os.environ[VARIABLE] == "one,two.rooms"


@pytest.mark.parametrize(
    "path", ["my lab", "../my_lab", "my_lab/", "*", "my_lab.", "my-lab", "jsonargparse", "jsonargparse._common", " my lab"]
)
def test_what_is_no_import_path_is_not_trusted(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(UserError, match="trust"):
        allow_classes([path])
    assert trusted() == []


def test_blanks_around_commas_are_no_part_of_a_path(monkeypatch: pytest.MonkeyPatch, stranger: Path) -> None:
    monkeypatch.setenv(VARIABLE, f" one , {stranger.stem}, jsonargparse")
    assert type(from_plain(ContrastiveModelConfig, config({"class_path": f"{stranger.stem}.Mine"})).encoder).__name__ == "Mine"
    allow_classes([" two"])
    assert trusted() == ["one", stranger.stem, "jsonargparse", "two"]


BASES = ("trainer.models.encoders.EncoderConfig", "trainer.models.encoders.base.EncoderConfig")


@pytest.mark.parametrize(
    "form", [*({"class_path": path} for path in BASES), *BASES, {"class_path": BASES[0], "init_args": {}}, None], ids=str
)
def test_a_base_class_and_null_are_no_choice(tmp_path: Path, form: Any) -> None:
    with pytest.raises(ConfigError, match=r"encoder: (null|EncoderConfig is the base).*expected one of ChannelNet, .*TSConv"):
        from_plain(ContrastiveModelConfig, config(form))
    if form is not None:
        lines = ["--run", str(tmp_path / "run"), "--data.study", "s", "--data.split", "p", "--data.embedding", "e", "--train.steps", "1"]
        with pytest.raises(ConfigError, match=r"model\.encoder: EncoderConfig is the base"):
            parse(ContrastiveConfig, [*lines, "--model.encoder", form if isinstance(form, str) else json.dumps(form)])


@pytest.mark.parametrize("field", ["loss.terms", "callbacks"])
def test_nor_is_a_base_class_in_a_list(tmp_path: Path, field: str) -> None:
    path = {"loss.terms": "trainer.losses.LossTerm", "callbacks": "trainer.training.callback.CallbackConfig"}[field]
    lines = ["--run", str(tmp_path / "run"), "--data.study", "s", "--data.split", "p", "--data.embedding", "e", "--train.steps", "1"]
    with pytest.raises(ConfigError, match=rf"{field}: \w+ is the base of what can stand here"):
        parse(ContrastiveConfig, [*lines, f"--{field}", json.dumps([{"class_path": path}])])


@pytest.mark.parametrize("path", ["a" * 10**6, "a." * 500_000 + "b", "trainer." * 10**5, "x" * 5000 + ".Mine"])
@pytest.mark.parametrize("form", FORMS)
def test_a_path_without_end_is_refused_at_once_and_in_few_words(path: str, form: Any) -> None:
    begin = time.process_time()
    with pytest.raises(ConfigError) as error:
        from_plain(ContrastiveModelConfig, config(form(path)))
    assert len(str(error.value)) < 300
    assert "characters, expected at most" in str(error.value)
    assert time.process_time() - begin < 1


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export whose encoder is a stranger's class, which lies in the same folder."""
    home = tmp_path_factory.mktemp("stranger")
    root = write_tiny_study(home / "study", n_stimuli=12, n_test=4, n_subjects=3)
    write_split(root, "tiny", train={"stimulus": list(range(8))}, test={"stimulus": [8, 9, 10, 11]})
    export(root, home / "export", ContrastiveModelConfig(encoder=ENCODER))
    path = home / "export/config.json"
    plain = json.loads(path.read_text())
    plain["model"]["encoder"]["class_path"] = "enc.Mine"
    path.write_text(json.dumps(plain))
    (home / "export/enc.py").write_text(STRANGER)
    return home / "export"


def test_an_export_does_not_run_the_file_beside_it(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(exported)
    monkeypatch.syspath_prepend(str(exported))
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(UserError, match=r"config\.json.*enc\.Mine.*not ours"):
        load_encoder(exported)
    assert not (exported / "ran").exists()


@pytest.mark.long
@pytest.mark.parametrize("module", ["trainer", "trainer --trust"])
def test_nor_does_a_command_that_stands_in_its_folder(exported: Path, module: str) -> None:
    line = ["export-embeddings", "--export", ".", "--study", "../study", "--split", "tiny", "--output", "../embeds.npz", "--part", "test"]
    trust = ["--trust", "enc"] if module.endswith("--trust") else []
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    environment |= {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "trainer", *line, *trust],
        cwd=exported, env=environment, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert (exported / "ran").exists() == bool(trust), done.stderr
    if not trust:
        assert done.returncode != 0
        assert "not ours" in done.stderr.splitlines()[-1]
    else:
        assert "not ours" not in done.stderr
