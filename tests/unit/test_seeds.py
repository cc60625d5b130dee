"""A seed that no generator would take is refused by every config that has one, wherever it stands in it."""

from __future__ import annotations

import dataclasses
import pydoc
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml

from data_prep.contract import cli
from data_prep.contract.errors import ConfigError
from launch.console import commands

COMMANDS = commands()
CONFIGS = {path: yaml.safe_load(path.read_text()) for path in sorted((Path(__file__).parents[2] / "configs").rglob("*.yaml"))}
REQUIRED = {
    "generate": {"export": "a", "output": "b"},
    "evaluate-text": {"generations": ["a"], "output": "b"},
    "evaluate-retrieval": {"export": "a", "output": "b"},
    "evaluate-classes": {"export": "a", "output": "b"},
}


def seeds(kind: Any, where: str = "") -> Iterator[str]:
    """Dotted names of the fields called ``seed`` in a config and in those that it holds."""
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        name = f"{where}.{field.name}" if where else field.name
        if field.name == "seed":
            yield name
        elif dataclasses.is_dataclass(hints[field.name]):
            yield from seeds(hints[field.name], name)


SEEDS = [(name, seed) for name, command in COMMANDS.items() for seed in seeds(pydoc.locate(command.config.replace(":", ".")))]


def test_commands_with_seeds_are_found() -> None:
    assert {"simulate", "split", "contrastive", "text", "generate", "evaluate-retrieval", "evaluate-classes", "evaluate-text"} <= {
        name for name, _ in SEEDS
    }


@pytest.mark.parametrize(("command", "seed"), SEEDS, ids=[f"{name}-{seed}" for name, seed in SEEDS])
def test_a_seed_that_nothing_takes_is_refused(command: str, seed: str) -> None:
    kind = pydoc.locate(COMMANDS[command].config.replace(":", "."))
    arguments = base(kind, command)
    assert cli.parse(kind, [*arguments, f"--{seed}", str(2**63 - 1)]) is not None
    # What is no number at all is the parser's to refuse, the same for every command.
    for value in ("-1", str(2**63), *((str(2**64), "1.5", "true", "one", "") if command == "split" else ("1.5",))):
        with pytest.raises(ConfigError, match="seed") as caught:
            cli.parse(kind, [*arguments, f"--{seed}", value])
        assert "\n" not in str(caught.value)


def base(kind: Any, command: str) -> list[str]:
    """Arguments that make a valid config: a shipped one, or those that it cannot be without."""
    if command in REQUIRED:
        return [word for name, value in REQUIRED[command].items() for word in (f"--{name}", yaml.safe_dump(value).split("\n")[0])]
    fields = {field.name for field in dataclasses.fields(kind)}
    for path, config in CONFIGS.items():
        if not set(config) <= fields:
            continue
        try:
            cli.parse(kind, ["--config", str(path)])
        except ConfigError:
            continue
        return ["--config", str(path)]
    raise AssertionError(f"no shipped config is one of {command}")
