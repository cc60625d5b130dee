"""What feature files of other projects hold, brought to rows and, where the file has them, their names.

::

    array (n, dim), (n, 1, dim) or (1, n, dim)            rows in an order that only its maker knows (NICE)
    array (concepts, images, dim)                         concept by concept (NeuroBridge)
    {img_features: array, text_features: array}           one of them, by ``key`` (ATM)
    {img_features: {path: vector}}, {path: vector}        rows by name (UBP)
    {concept: {file: vector}}, {concept: (images, dim)}   rows by name; images of a concept in the study's order
    {0: vector, 1: vector, ...}, [vector, vector, ...]    rows by number
    {train: any of these, test: any of these}             two parts, training images first
    any of them beside names, files or paths              rows by name

Shapes in names: N rows, C concepts, K images a concept, E embedding dimension.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.contract import safe_load
from data_prep.contract.errors import StudyError
from data_prep.contract.files import read_json
from data_prep.contract.words import listed, short

NAME_LABELS = ("names", "files", "paths", "filenames", "image_paths", "img_files")
"""Under which names of rows stand beside features."""
_IMAGES = ("img_features", "image_features")
"""Taken where a file also has features of texts."""


@dataclass(frozen=True, kw_only=True)
class Features:
    """Rows of one file."""

    rows_NE: np.ndarray
    grid: tuple[int, int] | None = None
    """(C, K) where the file has an axis of concepts: row ``c * K + k`` is image k of concept c."""
    names: list[str] | None = None
    """One a row, or None."""
    concepts: list[str] | None = None
    """Names of the grid's concepts, where the file has them."""
    keyed: bool = False
    """Whether the names are keys of the file's own dict: an order is then not what it is about."""


def read_features(file: Path, key: str | None) -> Features:
    """The features of ``file``; ``key`` names one of several arrays, a dot between levels.

    Raises
    ------
    StudyError
        One sentence: the file, what it holds and what was expected.
    """
    value = safe_load.load(file)
    names: list[str] | None = None
    if isinstance(value, dict):
        names = _names_beside(value, file)
        value = _chosen({k: v for k, v in value.items() if k not in NAME_LABELS or isinstance(v, dict)}, key, file)
        if isinstance(value, dict) and names is None:
            names = _names_beside(value, file)
    elif key is not None:
        raise StudyError(f"{file}: holds {_describe(value)}, expected a dict of arrays of which key {key!r} names one")
    found = _of_mapping(value, file) if isinstance(value, dict) else _of_array(_as_array(value, file), file)
    names = names or _names_in_side_file(file)
    if names is None or found.names is not None:
        return found
    return Features(rows_NE=found.rows_NE, grid=found.grid, names=names)


def read_parts(file: Path, key: str | None) -> list[Features]:
    """:func:`read_features` of a file that may hold training and test features apart: one or two."""
    value = safe_load.load(file) if key is None else None
    if isinstance(value, dict):
        arrays = [name for name, each in value.items() if _is_table(each)]
        parts = [[name for name in arrays if word in str(name).casefold()] for word in ("train", "test")]
        if len(arrays) == 2 and [len(found) for found in parts] == [1, 1] and parts[0] != parts[1]:
            return [read_features(file, found[0]) for found in parts]
    return [read_features(file, key)]


def _names_beside(value: Mapping[Any, Any], file: Path) -> list[str] | None:
    for label in NAME_LABELS:
        if label in value and not isinstance(value[label], dict):
            return safe_load.texts(value[label], file, label)
    return None


def _names_in_side_file(file: Path) -> list[str] | None:
    side = read_json(file.with_suffix(".json")) if file.with_suffix(".json").is_file() else {}
    names = side.get("names") if isinstance(side, dict) else None
    return [str(name) for name in names] if isinstance(names, list) else None


def _chosen(value: Mapping[Any, Any], key: str | None, file: Path) -> Any:
    """The array, or the mapping from names to vectors, that ``key`` names; without one, the only one there is."""
    if key is not None:
        found: Any = value
        for word in [key] if key in value else key.split("."):
            if not isinstance(found, dict) or word not in found:
                raise StudyError(
                    f"{file}: key {key!r} names no array of features; it has {listed(found if isinstance(found, dict) else ())}"
                )
            found = found[word]
        return found
    tables = [name for name, each in value.items() if _is_table(each)]
    images = [name for name in _IMAGES if name in value]
    if len(images) == 1:
        return value[images[0]]
    if len(tables) == 1 and not (isinstance(value[tables[0]], dict) and len(value) > 1):
        return value[tables[0]]
    if value and (all(_is_vector(each) for each in value.values()) or _are_concepts(value)):
        return dict(value)
    raise StudyError(f"{file}: key {key!r} names no array of features; it has {listed(value)}")


def _is_table(value: Any) -> bool:
    if isinstance(value, dict):
        return bool(value)
    return (
        isinstance(value, np.ndarray) and value.ndim in (2, 3) and value.dtype.kind in "fiu" and not (value.ndim == 2 and len(value) == 1)
    )


def _is_vector(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(isinstance(each, (int, float)) for each in value)
    return isinstance(value, np.ndarray) and value.dtype.kind in "fiu" and (value.ndim == 1 or (value.ndim == 2 and len(value) == 1))


def _are_concepts(value: Mapping[Any, Any]) -> bool:
    """Whether a dict has concepts with their images in each: at least three, all of one kind, and none called features."""
    if len(value) < 3 or any("feature" in str(name).casefold() or "embed" in str(name).casefold() for name in value):
        return False
    if all(isinstance(each, dict) for each in value.values()):
        return True
    shapes = {each.shape for each in value.values() if isinstance(each, np.ndarray) and each.ndim == 2 and each.dtype.kind in "fiu"}
    return len(shapes) == 1 and all(isinstance(each, np.ndarray) for each in value.values())


def _of_mapping(value: Mapping[Any, Any], file: Path) -> Features:
    if not value:
        raise StudyError(f"{file}: an empty dict, expected features")
    if all(isinstance(each, dict) for each in value.values()):
        flat = {f"{concept}/{name}": vector for concept, images in value.items() for name, vector in images.items()}
        return _of_mapping(flat, file)
    if not all(_is_vector(each) for each in value.values()):
        if _are_concepts(value):
            found = _of_array(np.stack(list(value.values())), file)
            return Features(
                rows_NE=found.rows_NE, grid=(len(value), len(found.rows_NE) // len(value)), concepts=[str(name) for name in value]
            )
        odd = next(name for name, each in value.items() if not _is_vector(each))
        raise StudyError(f"{file}: {short(odd)!r} holds {_describe(value[odd])}, expected a vector for every name")
    names, vectors = list(value), [np.asarray(each).ravel() for each in value.values()]
    longer = next((i for i, vector in enumerate(vectors) if len(vector) != len(vectors[0])), None)
    if longer is not None:
        sizes = f"{len(vectors[longer])} dimensions, {short(names[0])!r} has {len(vectors[0])}"
        raise StudyError(f"{file}: {short(names[longer])!r} has {sizes}: expected the same")
    table = np.stack(vectors)
    if all(isinstance(name, int) for name in names):
        order = np.argsort(np.array(names))
        if [names[i] for i in order] != list(range(names[order[0]], names[order[0]] + len(names))) or names[order[0]] not in (0, 1):
            raise StudyError(f"{file}: its rows are numbered {listed(sorted(names), 5)}, expected 0 to {len(names) - 1} without a gap")
        return Features(rows_NE=table[order])
    return Features(rows_NE=table, names=[str(name) for name in names], keyed=True)


def _as_array(value: Any, file: Path) -> np.ndarray:
    if isinstance(value, (list, tuple)) and value and all(_is_vector(each) for each in value):
        shapes = {np.shape(each) for each in value}
        if len(shapes) > 1:
            raise StudyError(f"{file}: a list of vectors of shapes {listed(sorted(shapes), 3)}, expected one length")
        return np.stack([np.asarray(each).ravel() for each in value])
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
        raise StudyError(f"{file}: holds no array of numbers but {_describe(value)}, expected features (n, dim)")
    return value


def _of_array(value: np.ndarray, file: Path) -> Features:
    if value.ndim == 3 and 1 in value.shape[:2]:
        return Features(rows_NE=value.reshape(-1, value.shape[2]))
    if value.ndim == 3:
        return Features(rows_NE=value.reshape(-1, value.shape[2]), grid=(value.shape[0], value.shape[1]))
    if value.ndim != 2:
        raise StudyError(f"{file}: shape {value.shape}, expected (n, dim), (n, 1, dim) or (concepts, images, dim)")
    return Features(rows_NE=value)


def _describe(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape} of {value.dtype}"
    return f"a {type(value).__name__}"
