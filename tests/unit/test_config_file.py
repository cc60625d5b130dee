"""What can be wrong with the file that ``--config`` names, each in one sentence."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep.contract import cli
from data_prep.contract.errors import ConfigError
from trainer.__main__ import COMMANDS


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part."""

    steps: int = 1
    """Steps."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """A config."""

    study: str
    """Folder."""
    train: Part = field(default_factory=Part)
    """Part."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Anything."""


def refusal(path: Path | str, *arguments: str) -> str:
    with pytest.raises(ConfigError) as caught:
        cli.parse(Config, ["--config", str(path), *arguments])
    said = str(caught.value)
    assert "\n" not in said
    for foreign in ("jsonargparse", "Unexpected config", "Problems parsing", "codec", "<unicode string>", "Node("):
        own = isinstance(path, Path) and path.is_file() and foreign.encode() in path.read_bytes()  # the sentence quotes the file
        assert own or foreign not in said
    return said


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty, expected the fields of a config"),
        (b"# nothing but a remark\n", "is empty, expected the fields of a config"),
        (b"---\n", "is empty, expected the fields of a config"),
        (b"study:", "gives no field a value, expected the fields of a config"),
        (b"::", "gives no field a value, expected the fields of a config"),
        (b"{study, train}", "gives no field a value, expected the fields of a config"),
        (b"study:\n# here\n", "gives no field a value, expected the fields of a config"),
        (b"- study\n- train\n", "holds a list, expected the fields of a config"),
        (b"study\n", "holds the text 'study', expected the fields of a config"),
        (b"study: caf\xe9\n", "not UTF-8 text (byte 0xe9 at 10)"),
        ("study: here\n".encode("utf-16"), "not UTF-8 text (byte 0xff at 0)"),
        (bytes(range(256)), "not UTF-8 text"),
        (b"study: a\0b\n", "not valid YAML: unacceptable character"),
        (b"study: here\ntrain: {steps: [1}\n", "not valid YAML at line 2"),
        (b"study: here\ntrain:\n\tsteps: 1\n", "not valid YAML at line 3"),
        (b"study: here\ntrain: <<\n", "no plain value at line 2: could not determine a constructor"),
        (b"study: =\n", "no plain value at line 1: could not determine a constructor"),
        (b"<<: 5\nstudy: here\n", "line 1 begins with '<<', expected the name of a field"),
        (b"study: {<<: [1]}\n", "no plain value at line 1: expected a mapping for merging"),
        (b"study: 2020-13-45\n", "holds what is no plain value (month must be in 1..12)"),
        (b"study: !!int x\n", "holds what is no plain value (invalid literal for int()"),
        (b"study: !!bool x\n", "holds what is no plain value"),
        (b"study: !!timestamp x\n", "holds what is no plain value"),
        (b"study: !!binary x\n", "no plain value at line 1: failed to decode base64"),
        (b"study: *nowhere\n", "not valid YAML at line 1: found undefined alias"),
        (b"study: here\n---\nstudy: there\n", "not valid YAML at line 2"),
        (b"study: here\nstudy: there\n", "'study' stands on line 1 and again on line 2, expected once"),
        (b"study: here\ntrain:\n  steps: 1\n  steps: 2\n", "'steps' stands on line 3 and again on line 4, expected once"),
        (b"study: here\nextra: {a: [{b: 1, b: 2}]}\n", "'b' stands on line 2 and again on line 2, expected once"),
        (b"study: !!python/object/apply:os.system [ls]\n", "line 1 has the tag"),
        (b"study: here\nextra: {a: !mine 3}\n", "line 2 has the tag !mine, expected plain values"),
        (b"study: here\nextra: &a {b: *a}\n", "what begins at line 2 holds itself"),
        (b"study: here\n3: 4\n", "line 2 begins with '3', expected the name of a field"),
        (b"? [study]\n: here\n", "line 1 has a list or fields where the name of a field is expected"),
        (b"study: " + b"[" * 20_000, "nested too deep"),
    ],
)
def test_a_file_that_is_no_config_is_named_in_one_sentence(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    said = refusal(path)
    assert said.startswith(f"{path}: ")
    assert says in said


def test_a_missing_file_lists_the_configs_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert refusal("mine.yaml") == "mine.yaml: no such file, expected a YAML file"
    (tmp_path / "configs" / "text").mkdir(parents=True)
    for name in ("llama", "things", "mistral"):
        (tmp_path / "configs" / "text" / f"{name}.yaml").write_text("study: here\n")
    everywhere = "configs/text/things.yaml, configs/text/mistral.yaml, configs/text/llama.yaml"
    for missing in ("thing.yaml", "text/thing.yaml", "configs/texts/thing.yaml", "configs/text/thing.yaml"):
        assert refusal(missing) == f"{missing}: no such file, expected a YAML file; there are {everywhere}"
    assert "is a folder, expected a YAML file; there are configs/text/" in refusal("configs/text")
    for number in range(30):
        (tmp_path / "configs" / "text" / f"base-{number}.yaml").write_text("study: here\n")
    assert refusal("configs/text/thing.yaml").endswith(" and 25 more")


def test_what_is_no_name_of_a_file_is_refused(tmp_path: Path) -> None:
    assert refusal("") == "--config: '', expected the name of a YAML file"
    assert refusal("study: here").startswith("study: here: no such file"), "a config is a file, never a text on the line"
    assert "the name is too long, expected a YAML file" in refusal("a" * 5000)
    os.mkfifo(tmp_path / "pipe")
    assert "is no ordinary file" in refusal(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="--config: '', expected the name of a YAML file"):
        cli.parse(Config, ["--config"])
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such file"):
        cli.parse(Config, ["--config=nowhere.yaml", "--study", "x"])


def test_a_command_says_it_as_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main("trainer", "", COMMANDS, ["contrastive", "--config", "configs/contrastive/nothing.yaml"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: configs/contrastive/nothing.yaml: no such file, expected a YAML file; there are configs/contrastive/")


WORDS = st.text("abcdefghij", min_size=1)
NUMBERS = st.just(0.0) | st.floats(2e-38, 3e38) | st.floats(-3e38, -2e-38)  # that 32 bits hold: others are refused
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | NUMBERS | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.long
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # of a machine at work, not of what is drawn
@given(extra=st.dictionaries(WORDS, PLAIN, max_size=3))
def test_every_plain_config_passes(tmp_path_factory: pytest.TempPathFactory, extra: dict[str, Any]) -> None:
    path = tmp_path_factory.mktemp("plain") / "config.yaml"
    path.write_text(yaml.safe_dump({"study": "here", "extra": extra}, allow_unicode=True), encoding="utf-8")
    assert cli.parse(Config, ["--config", str(path)]).study == "here"


@pytest.mark.long
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(content=st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_a_config_or_one_sentence(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("any") / "config.yaml"
    path.write_bytes(content)
    refusal(path)
