"""What ``--config`` names is read once by ourselves, first: what is wrong with the file is said in a sentence that names it."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import yaml

from data_prep.contract.errors import ConfigError, sentence_of
from data_prep.contract.limits import limits, too_much
from data_prep.contract.words import listed, short

_TEXT = "tag:yaml.org,2002:str"


def read_fields(path: Path) -> dict[str, Any]:
    """The fields of a config as plain values; see :func:`check_config_file`."""
    return _read(str(path))[1]


def check_config_file(name: str) -> str:
    """The text of a config: refused is what is none, a mapping of fields in YAML, each field once.

    Raises
    ------
    ConfigError
        One sentence naming the file; where there is none, also the configs near it.
    """
    return _read(name)[0]


def _read(name: str) -> tuple[str, dict[str, Any]]:
    """Text and fields."""
    if not name.strip():
        raise ConfigError(f"--config: {name!r}, expected the name of a YAML file")
    path = Path(name)
    text = _text(path)
    root = _parsed(path, text)
    if root is None:
        raise ConfigError(f"{path}: is empty, expected the fields of a config, one a line (field: value)")
    if not isinstance(root, yaml.MappingNode):
        kind = "a list" if isinstance(root, yaml.SequenceNode) else f"the text {short(root.value)!r}"
        raise ConfigError(f"{path}: holds {kind}, expected the fields of a config, one a line (field: value)")
    _check_nodes(path, root)
    for key, _ in root.value:
        if key.tag != _TEXT:
            raise ConfigError(f"{path}: line {_line(key)} begins with {short(key.value)!r}, expected the name of a field")
    if root.value and all(isinstance(value, yaml.ScalarNode) and not value.value and not value.style for _, value in root.value):
        raise ConfigError(f"{path}: gives no field a value, expected the fields of a config, one a line (field: value)")
    return text, _values(path, text)


def _text(path: Path) -> str:
    try:
        if path.is_dir():
            raise ConfigError(f"{path}: is a folder, expected a YAML file{_others(path)}")
        if not path.exists():
            raise ConfigError(f"{path}: no such file, expected a YAML file{_others(path)}")
        if not path.is_file():
            raise ConfigError(f"{path}: is no ordinary file, expected a YAML file")
        with path.open("rb") as file:
            raw = file.read(limits().yaml_bytes + 1)
        if len(raw) > limits().yaml_bytes:
            raise ConfigError(str(too_much(path, f"more than {limits().yaml_bytes:,} bytes of YAML", "yaml_bytes")))
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = f"byte {error.object[error.start]:#04x} at {error.start}"
        raise ConfigError(f"{path}: not UTF-8 text ({byte}), expected a YAML file") from error
    except OSError as error:
        raise ConfigError(f"{short(path, 200)}: {sentence_of(OSError(error.errno, error.strerror))}, expected a YAML file") from error


def _others(path: Path) -> str:
    """The configs that may have been meant, by likeness of their names: those of the folder or, where it has none, of ``configs``."""
    folder = path if path.is_dir() else path.parent
    near = [*folder.glob("*.yaml")] or [*Path("configs").glob("*/*.yaml")]
    alike = sorted(map(str, near), key=lambda other: (-difflib.SequenceMatcher(None, Path(other).name, path.name).ratio(), other))
    return f"; there are {listed(alike, 8)}" if alike else ""


def _parsed(path: Path, text: str) -> yaml.Node | None:
    try:
        root: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        where = f" at line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}: not valid YAML{where}: {short(error.problem or error.context, 120)}") from error
    except yaml.YAMLError as error:  # characters that no text has
        raise ConfigError(f"{path}: not valid YAML: {short(str(error).splitlines()[0], 120)}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: not a config: nested too deep") from error
    return None if isinstance(root, yaml.ScalarNode) and not root.value and not root.style else root


def _values(path: Path, text: str) -> dict[str, Any]:
    """Of nodes that are well formed some are still no values: a lone ``<<``, the 13th month, ``!!int x``."""
    try:
        found: dict[str, Any] = yaml.safe_load(text)
        return found
    except yaml.MarkedYAMLError as error:
        where = f" at line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}: no plain value{where}: {short(error.problem or error.context, 120)}") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:  # of the types that values are made of
        raise ConfigError(f"{path}: holds what is no plain value ({short(error, 120)}), expected text in quotes") from error


def _check_nodes(path: Path, root: yaml.Node) -> None:
    """Each field once, plain values only, nothing inside itself; and not many values, those that an alias repeats counted each time."""
    open_nodes: set[int] = {id(root)}
    sizes: dict[int, int] = {}

    def check(node: yaml.Node, depth: int) -> int:
        if id(node) in sizes:
            return sizes[id(node)]
        if depth > limits().depth:
            raise ConfigError(str(too_much(path, f"values nested more than {limits().depth} deep", "depth")))
        if not node.tag.startswith("tag:yaml.org,2002:") or "python" in node.tag:
            raise ConfigError(f"{path}: line {_line(node)} has the tag {short(node.tag)}, expected plain values")
        children = [child for pair in node.value for child in pair] if isinstance(node, yaml.MappingNode) else node.value
        if isinstance(node, yaml.MappingNode):
            _check_keys(path, node)
        size = 1
        for child in children if isinstance(node, yaml.CollectionNode) else ():
            if id(child) in open_nodes:
                raise ConfigError(f"{path}: what begins at line {_line(child)} holds itself, expected plain values")
            open_nodes.add(id(child))
            size += check(child, depth + 1)
            open_nodes.discard(id(child))
        sizes[id(node)] = size
        return size

    found = check(root, 0)
    if found > limits().yaml_items:
        raise ConfigError(str(too_much(path, f"{found:,} values, as its aliases repeat them", "yaml_items")))


def _check_keys(path: Path, mapping: yaml.MappingNode) -> None:
    first: dict[str, int] = {}
    for key, _ in mapping.value:
        if not isinstance(key, yaml.ScalarNode):
            raise ConfigError(f"{path}: line {_line(key)} has a list or fields where the name of a field is expected")
        if key.value in first and key.value != "<<":
            raise ConfigError(f"{path}: {key.value!r} stands on line {first[key.value]} and again on line {_line(key)}, expected once")
        first.setdefault(key.value, _line(key))


def _line(node: yaml.Node) -> int:
    line: int = node.start_mark.line
    return line + 1
