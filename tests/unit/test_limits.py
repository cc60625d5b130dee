"""What a file may cost: JSON and YAML beyond a limit are a sentence that names it, at once, and the limit can be raised."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from data_prep.contract import cli, limits
from data_prep.contract.config_file import check_config_file
from data_prep.contract.errors import ConfigError, StudyError
from data_prep.contract.files import read_json
from data_prep.contract.limits import Limits, use_limits


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    use_limits(Limits())


@dataclass(frozen=True, kw_only=True)
class Config:
    """A command's."""

    name: str = "x"
    """Any."""


def bomb(width: int, depth: int, leaf: str = "x") -> str:
    """YAML of ``width ** depth`` values in a few lines."""
    lines = [f"a0: &a0 [{', '.join([leaf] * width)}]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, depth)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(("width", "depth"), [(9, 9), (2, 40), (50, 6), (9, 90)])
@pytest.mark.parametrize("kind", ["lists", "mappings", "merged"])
def test_alias_bombs_are_counted_not_built(tmp_path: Path, width: int, depth: int, kind: str) -> None:
    text = bomb(width, depth)
    if kind == "mappings":
        lines = ["a0: &a0 {k: x}", *(f"a{i}: &a{i} {{{', '.join(f'k{n}: *a{i - 1}' for n in range(width))}}}" for i in range(1, depth))]
        text = "\n".join(lines)
    elif kind == "merged":
        text += f"name: {{<<: {{inner: *a{depth - 1}}}}}\n"
    (tmp_path / "b.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"b\.yaml: .*file_limits\.(yaml_items|depth)"):
        cli.parse(Config, ["--config", str(tmp_path / "b.yaml")])


def test_an_alias_that_repeats_little_is_read(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text("name: &n hello\n")
    assert cli.parse(Config, ["--config", str(tmp_path / "b.yaml")]).name == "hello"


def test_long_yaml_is_refused_before_it_is_parsed_and_the_limit_is_raised_on_the_line(tmp_path: Path) -> None:
    path = tmp_path / "b.yaml"
    path.write_text("name: hello\n" + "# remark\n" * 40_000)
    with pytest.raises(ConfigError, match=r"b\.yaml: more than 262,144 bytes of YAML.*file_limits\.yaml_bytes"):
        cli.parse(Config, ["--config", str(path)])
    for words in (["--file_limits.yaml_bytes", "1000000"], ["--file_limits.yaml_bytes=1000000"]):
        assert cli.parse(Config, ["--config", str(path), *words]).name == "hello"
        use_limits(Limits())


def test_limits_stand_in_a_config_and_reach_child_processes(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("name: y\nfile_limits: {json_items: 77, depth: 9}\n")
    assert cli.parse(Config, ["--config", str(tmp_path / "c.yaml"), "--file_limits.depth", "8"]).name == "y"
    assert (limits.limits().json_items, limits.limits().depth) == (77, 8)
    ask = "from data_prep.contract.limits import limits; print(limits().json_items, limits().depth)"
    assert subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, timeout=60).stdout.split() == ["77", "8"]
    environment = {**os.environ, limits.VARIABLE: "nothing=1"}
    assert cli.parse(Config, ["--name", "z"]).name == "z"
    assert limits.limits().json_items == 77  # a command of a command has them, too
    said = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, timeout=60, env=environment).stderr
    assert limits.VARIABLE in said


@pytest.mark.parametrize(
    "words",
    [
        ["--file_limits.json_bytes", "0"],
        ["--file_limits.json_bytes", "many"],
        ["--file_limits.nothing", "3"],
        ["--file_limits.depth", "4000"],
    ],
)
def test_a_limit_that_cannot_be_is_refused(words: list[str]) -> None:
    with pytest.raises(ConfigError, match="file_limits"):
        cli.parse(Config, words)


@pytest.mark.parametrize(("content", "said"), [
    ("[" * 3000, "c.json: not valid JSON"),
    ("[" * 300 + "]" * 300, "file_limits.depth"),
    ('{"a":' * 200 + "1" + "}" * 200, "file_limits.depth"),
    ('{"a": ["\\ud800"]}', "half a character"),
    ('{"\\uDFFF": 1}', "half a character"),
    ("[" + "9" * 60 + "]", "an integer of 60 digits"),
    ("[-" + "9" * 6000 + "]", "integer"),
    ("\ufeff{}", "not valid JSON"),
    ("", "not valid JSON"),
])  # fmt: skip
def test_json_that_cannot_be_is_one_sentence(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "c.json").write_text(content)
    with pytest.raises(StudyError, match=r"c\.json") as caught:
        read_json(tmp_path / "c.json")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_json_of_many_values_or_bytes_is_refused_unread(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text("[" + "[]," * 1000 + "[]]")
    use_limits(Limits(json_items=1000))
    with pytest.raises(StudyError, match=r"c\.json: JSON of up to 2,002 values.*file_limits\.json_items"):
        read_json(tmp_path / "c.json")
    use_limits(Limits(json_bytes=1000))
    with pytest.raises(StudyError, match=r"c\.json: 3,00. bytes of JSON.*file_limits\.json_bytes"):
        read_json(tmp_path / "c.json")
    use_limits(Limits())
    assert len(read_json(tmp_path / "c.json")) == 1001


@pytest.mark.parametrize("value", [{"a": [1, -(2**63), 2**63, 1.5e300, None, "é😀 \\ud800 \u2028"]}, [], "text", 3, {"": {"": {}}}])
def test_json_of_every_kind_is_read_as_it_is(tmp_path: Path, value: object) -> None:
    for ascii_only in (True, False):
        (tmp_path / "c.json").write_text(json.dumps(value, ensure_ascii=ascii_only), encoding="utf-8")
        assert read_json(tmp_path / "c.json") == value


def test_the_text_of_a_config_is_that_of_its_file(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("name: y\n")
    assert check_config_file(str(tmp_path / "c.yaml")) == "name: y\n"
