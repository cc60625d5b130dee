"""Features that somebody else made, aligned with the study's stimuli by order or by name.

Shapes in names: N stimuli, E embedding dimension.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from data_prep.contract import safe_load
from data_prep.contract.arrays import not_readable
from data_prep.contract.errors import StudyError
from data_prep.contract.files import read_json, sha256_file
from data_prep.contract.words import listed
from data_prep.embed.base import EmbeddingConfig, Provenance
from data_prep.embed.table import check_table
from data_prep.studies.base import StudyFacts
from data_prep.studies.image_names import image_key, same_image


@dataclass(frozen=True, kw_only=True)
class ImportedConfig(EmbeddingConfig):
    """A feature file of your own: ``.npy``, ``.npz`` or ``.pt``; the images themselves are not needed."""

    path: str
    """Feature file: an array (n, dim) or (n, 1, dim), or a dict of arrays of which ``key`` names one."""
    order: Literal["image_metadata", "names"] = "image_metadata"
    """``image_metadata``: row i belongs to stimulus i (training images, then test images, in the order of ``image_metadata.npy``).
    ``names``: rows are looked up by name; needs ``names`` or names inside the file."""
    key: str | None = None
    """Which array of a dict or ``.npz``; None: the only two- or three-dimensional one."""
    test_path: str | None = None
    """A second file whose rows follow, where training and test features lie apart."""
    names: str | None = None
    """Text (one a line), JSON or ``.npy`` list of image names, one a row. Names inside the feature file (``names`` or ``files``) count
    as well, and so does ``FILE.json`` beside it with ``names``. Whenever there are names they are checked, in either order."""
    model: str = "imported"
    """What made the features, for the record."""

    def __post_init__(self) -> None:
        if not self.path:
            raise ValueError("path is empty, expected a feature file (.npy, .npz or .pt)")

    def compute(self, facts: StudyFacts) -> tuple[np.ndarray, Provenance]:
        files = [Path(file) for file in (self.path, self.test_path) if file]
        parts, named = zip(*(self._read(file) for file in files), strict=True)
        if len({part.shape[1] for part in parts}) != 1:
            raise StudyError(f"{files[1]}: {parts[1].shape[1]} dimensions, {files[0]} has {parts[0].shape[1]}: expected the same")
        table = np.concatenate(parts)
        names = _read_names(Path(self.names)) if self.names else [n for part in named for n in part] if all(named) else None
        where = str(files[0])
        if names is not None and len(names) != len(table):
            raise StudyError(f"{self.names or where}: {len(names)} names for {len(table)} rows: expected as many")
        if self.order == "names":
            if names is None:
                raise StudyError(f"{where}: has no names and none were given: order 'names' needs a names file")
            table = table[_find_rows(names, facts, where)]
        else:
            if len(table) != len(facts.stimuli):
                raise StudyError(f"{where}: {len(table)} rows, the study has {len(facts.stimuli)} stimuli: expected one row a stimulus")
            for row, (name, stimulus) in enumerate(zip(names or (), facts.stimuli, strict=False)):
                if not same_image(name, stimulus):
                    raise StudyError(
                        f"{where}: row {row} is named {name!r}, stimulus {row} is {stimulus.image or stimulus.id!r}: "
                        "not in the order of image_metadata (use order: names)"
                    )
        known = _side_file(files[0]) if len(files) == 1 else None
        if known is not None:
            return check_table(table, where, len(facts.stimuli)), known
        digest = hashlib.sha256("".join(sha256_file(file) for file in files).encode()).hexdigest()
        return check_table(table, where, len(facts.stimuli)), {
            "model": self.model,
            "layer": f"imported from {' + '.join(file.name for file in files)}",
            "weights_sha256": None,
            "transform": None,
            "source_sha256": digest,
            "aligned_by": "names" if names is not None else "row order",
        }

    def _read(self, file: Path) -> tuple[np.ndarray, list[str]]:
        value = safe_load.load(file)
        names: list[str] = []
        if isinstance(value, dict):
            for label in ("names", "files"):
                if label in value:
                    names = safe_load.texts(value[label], file, label)
            tables = {k: v for k, v in value.items() if isinstance(v, np.ndarray) and v.ndim in (2, 3) and v.dtype.kind in "fiu"}
            key = self.key if self.key is not None else next(iter(tables)) if len(tables) == 1 else None
            if key not in tables:
                raise StudyError(f"{file}: key {self.key!r} names no array of features; it has {listed(tables)}")
            value = tables[key]
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
            raise StudyError(f"{file}: holds no array of numbers, expected features (n, dim)")
        side = read_json(file.with_suffix(".json")) if file.with_suffix(".json").is_file() else {}
        if not names and isinstance(side, dict) and isinstance(side.get("names"), list):
            names = [str(name) for name in side["names"]]
        if value.ndim == 3 and value.shape[1] == 1:
            value = value[:, 0]
        if value.ndim != 2:
            raise StudyError(f"{file}: shape {value.shape}, expected (n, dim) or (n, 1, dim)")
        return value, names


def _side_file(path: Path) -> Provenance | None:
    """What ``NAME.json`` beside ``NAME.npy`` says about its making, so that what was embedded once keeps its provenance."""
    if not path.with_suffix(".json").is_file():
        return None
    side = read_json(path.with_suffix(".json"))
    entry = side.get("entry") if isinstance(side, dict) else None
    if not isinstance(entry, dict) or "sha256" not in entry:
        return None
    if entry["sha256"] != sha256_file(path):
        raise StudyError(f"{path}: its SHA-256 is not the one in {path.with_suffix('.json').name}: altered, or of another study")
    return {name: value for name, value in entry.items() if name not in ("sha256", "dim")}


def _read_names(path: Path) -> list[str]:
    if path.suffix == ".npy":
        return safe_load.texts(safe_load.load(path), path, "the list of names")
    if path.suffix == ".json":
        names = read_json(path)
        if not isinstance(names, list):
            raise StudyError(f"{path}: not a JSON list of names")
        return [str(name) for name in names]
    if not path.is_file():
        raise StudyError(f"{path}: no such file")
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise not_readable(path, "a text of names, one a line", error) from error


def _find_rows(names: Sequence[str], facts: StudyFacts, where: str) -> np.ndarray:
    by_stem: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        by_stem.setdefault((image_key(name) or ("",))[-1], []).append(row)
    rows = []
    for stimulus in facts.stimuli:
        label = stimulus.image or stimulus.id
        found = [row for row in by_stem.get(image_key(label)[-1], ()) if same_image(names[row], stimulus)]
        if len(found) != 1:
            raise StudyError(f"{where}: {len(found) or 'no'} rows are named {label!r}: expected exactly one a stimulus")
        rows += found
    return np.array(rows, dtype=np.int64)
