"""Folders of language models and adapters that come with code of their own, or name some: nothing of it is run, nobody is asked."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from data_prep.contract.errors import UserError
from tests.helpers.tiny_text import write_tiny_text
from tests.unit.test_generate import export_model
from trainer.artifacts.text import load_text
from trainer.evaluate.text.models import sentence_embeddings
from trainer.models.language.base import BaseConfig, load_base, load_tokenizer, read_settings

PROGRAM = "from pathlib import Path\n(Path(__file__).parent / 'ran').touch()\nclass Mine: pass\n"
VALUES: tuple[Any, ...] = ("stranger", {"stranger": 1}, ["stranger"], 7, True)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("strangers")
    write_tiny_text(folder)
    export_model(folder, "model")
    return folder


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What somebody asks on stdin."""
    said: list[str] = []
    monkeypatch.setattr("builtins.input", lambda words="": said.append(words) or "y")  # whoever sits there says yes to anything
    return said


def with_code(base: Path, to: Path, file: str, **fields: Any) -> Path:
    """A copy of a base whose ``file`` names classes of ``mine.py`` in it."""
    copy = Path(shutil.copytree(base, to))
    (copy / "mine.py").write_text(PROGRAM)
    plain = json.loads((copy / file).read_text())
    (copy / file).write_text(json.dumps({**plain, **fields}))
    return copy


CONFIGS = {
    kind: {"model_type": "stranger", "architectures": ["Mine"], "auto_map": {kind: "mine.Mine"}}
    for kind in ("AutoConfig", "AutoModelForCausalLM", "AutoModel")
}
READERS: dict[str, Callable[[Path], Any]] = {
    "settings": lambda folder: read_settings(BaseConfig(name=str(folder))),
    "base": lambda folder: load_base(BaseConfig(name=str(folder), dtype="fp32"), torch.device("cpu"), training=False),
    "sentences": lambda folder: sentence_embeddings(["a cat"], model=str(folder)),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", CONFIGS)
def test_a_base_with_code_of_its_own_is_refused_and_nobody_is_asked(
    home: Path, tmp_path: Path, asked: list[str], kind: str, reader: str
) -> None:
    folder = with_code(home / "base", tmp_path / "base", "config.json", **CONFIGS[kind])
    with pytest.raises(UserError, match="base"):
        READERS[reader](folder)
    assert asked == []
    assert not (folder / "ran").exists()


def test_nor_is_a_tokenizers_code_run(home: Path, tmp_path: Path, asked: list[str]) -> None:
    fields = {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["mine.Mine", "mine.Mine"]}}
    folder = with_code(home / "base", tmp_path / "base", "tokenizer_config.json", **fields)
    try:
        load_tokenizer(BaseConfig(name=str(folder)))
    except UserError as error:
        assert str(folder) in str(error)  # noqa: PT017  # or it finds a tokenizer of its own for the model
    assert asked == []
    assert not (folder / "ran").exists()


def adapter_fields() -> list[str]:
    """Every field that PEFT has for LoRA."""
    from peft import LoraConfig

    return sorted(LoraConfig().to_dict())


OURS = {"r", "lora_alpha", "lora_dropout", "target_modules", "use_dora", "task_type"}
OURS |= {"peft_version", "base_model_name_or_path", "revision", "inference_mode"}


@pytest.mark.long
def test_an_adapter_says_nothing_that_ours_does_not(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export = Path(shutil.copytree(home / "model", tmp_path / "model"))
    file = export / "adapter/adapter_config.json"
    (tmp_path / "stranger.py").write_text(PROGRAM)
    monkeypatch.syspath_prepend(str(tmp_path))
    whole = json.loads(file.read_text())
    load_text(export)
    for number, name in enumerate([*sorted({*adapter_fields()} - OURS), "new_field"]):
        value = VALUES[number % len(VALUES)]
        file.write_text(json.dumps({**whole, name: value if value != whole.get(name) else "stranger"}))
        with pytest.raises(UserError, match="adapter_config"):
            load_text(export)
    file.write_text(json.dumps({**whole, "megatron_config": {"a": 1}, "megatron_core": "stranger"}))
    with pytest.raises(UserError, match="megatron"):
        load_text(export)
    assert "stranger" not in sys.modules
    assert not (tmp_path / "ran").exists()
