"""The command line: overrides, one-line errors, configs that read back."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import yaml

from data_prep.contract import cli
from data_prep.contract.errors import ConfigError


@cli.polymorphic
@dataclass(frozen=True, kw_only=True)
class Shape:
    """Any shape."""


@dataclass(frozen=True, kw_only=True)
class Circle(Shape):
    """A circle."""

    radius: float = 1.0
    """Radius, metres."""


@dataclass(frozen=True, kw_only=True)
class Square(Shape):
    """A square."""

    side: int = 2
    """Side, metres."""


@dataclass(frozen=True, kw_only=True)
class Optim:
    """Optimiser."""

    lr: float = 1e-3
    """Learning rate."""

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"lr: {self.lr}, expected above 0")


@dataclass(frozen=True, kw_only=True)
class Config:
    """A config."""

    study: str
    """Folder."""
    mode: Literal["a", "b"] = "a"
    """Mode."""
    optim: Optim = field(default_factory=Optim)
    """Optimiser."""
    shape: Shape = field(default_factory=Circle)
    """Shape."""
    names: list[str] = field(default_factory=list)
    """Names."""


@pytest.fixture
def yaml_file(tmp_path: Path) -> str:
    path = tmp_path / "config.yaml"
    path.write_text("study: here\noptim: {lr: 0.5}\n")
    return str(path)


def test_overrides_win_on_both_sides_of_config(yaml_file: str) -> None:
    before = cli.parse(Config, ["--optim.lr", "0.1", "--config", yaml_file])
    after = cli.parse(Config, [f"--config={yaml_file}", "--optim.lr=0.1"])
    assert before == after
    assert before.optim.lr == 0.1
    assert before.study == "here"


def test_a_subclass_is_chosen_by_name_and_survives_saving(yaml_file: str) -> None:
    config = cli.parse(Config, ["--config", yaml_file, "--shape", "Square", "--shape.side", "5", "--names", "[x, y]"])
    assert config.shape == Square(side=5)
    assert cli.from_plain(Config, yaml.safe_load(cli.to_yaml(config))) == config


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--optim.lr", "fast"], "optim.lr"),
        (["--optim.lr", "-1"], "lr: -1.0, expected above 0"),
        (["--mode", "c"], "mode"),
        (["--optim.rate", "1"], "optim.rate"),
        (["--nothing", "1"], "nothing"),
        (["--shape", "Triangle"], "Triangle"),
        (["--shape", "Square", "--shape.side", "1.5"], "side"),
    ],
)
def test_a_bad_value_is_one_line_naming_the_field(yaml_file: str, arguments: list[str], says: str) -> None:
    with pytest.raises(ConfigError) as error:
        cli.parse(Config, ["--config", yaml_file, *arguments])
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_key_in_yaml_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "typo.yaml"
    path.write_text("study: here\noptin: {lr: 1}\n")
    with pytest.raises(ConfigError, match="optin"):
        cli.parse(Config, ["--config", str(path)])


def test_a_missing_config_file_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        cli.parse(Config, ["--config", "nowhere.yaml"])


@pytest.mark.parametrize("module", ["data_prep", "trainer", "launch"])
def test_every_command_line_lists_its_commands_and_fails_in_one_line(module: str) -> None:
    listing = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True, timeout=120, check=True)
    assert "--config" in listing.stdout
    failed = subprocess.run([sys.executable, "-m", module, "no-such-command"], capture_output=True, text=True, timeout=120, check=False)
    assert failed.returncode == 2
    assert failed.stderr.strip().splitlines()[-1].startswith("error: unknown command 'no-such-command'")
    assert "Traceback" not in failed.stderr
