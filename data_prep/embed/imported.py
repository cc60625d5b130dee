"""Features that somebody else made, aligned with the study's stimuli by order or by name, and the order proven where it can be.

::

    file ──► feature_files: rows, names, grid ──► one row a stimulus ──► row_order: names | measured | unproven

Shapes in names: N stimuli, E embedding dimension.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from data_prep.contract import safe_load
from data_prep.contract.arrays import not_readable
from data_prep.contract.errors import StudyError
from data_prep.contract.files import read_json, sha256_file
from data_prep.contract.manifest import Stimulus
from data_prep.contract.words import listed
from data_prep.embed.base import EmbeddingConfig, Provenance
from data_prep.embed.efficientnet_lite0 import EfficientNetLite0Config
from data_prep.embed.feature_files import Features, read_parts
from data_prep.embed.row_order import RowOrder, measure
from data_prep.embed.table import check_table
from data_prep.studies.base import StudyFacts
from data_prep.studies.name_match import StimulusNames, composed, label_of


@dataclass(frozen=True, kw_only=True)
class ImportedConfig(EmbeddingConfig):
    """A feature file of your own: ``.npy``, ``.npz`` or ``.pt``; the images themselves are not needed, but prove the order of rows."""

    path: str
    """Feature file: an array (n, dim), (n, 1, dim) or (concepts, images, dim), a dict of arrays of which ``key`` names one, or a dict from
    image names to vectors."""
    order: Literal["image_metadata", "names"] = "image_metadata"
    """``image_metadata``: row i belongs to stimulus i (training images, then test images, in the order of ``image_metadata.npy``).
    ``names``: rows are looked up by name; needs ``names`` or names in the file. A dict from names to vectors is always looked up."""
    key: str | None = None
    """Which array of a dict or ``.npz``, with a dot between levels; None: the only one, or ``img_features``."""
    test_path: str | None = None
    """A second file whose rows follow, where training and test features lie apart."""
    names: str | None = None
    """Text (one a line), JSON or ``.npy`` list of image names, one a row. Names in the feature file (``names``, ``files``, ``paths``) count
    as well, and so does ``FILE.json`` beside it with ``names``. Whenever there are names they are checked, in either order."""
    rows: Literal["image", "concept"] = "image"
    """``concept``: a row is of a concept and stands for all its images, as features of texts are."""
    prove: bool = True
    """Where rows have no names but the study its images: hold a sample of them against features made here, and refuse what contradicts."""
    prove_with: EmbeddingConfig | None = None
    """Encoder for that; None: EfficientNet-Lite0, whose weights are at hand."""
    prove_images: int = 400
    """Images to sample of each part of the study."""
    model: str = "imported"
    """What made the features, for the record."""

    def __post_init__(self) -> None:
        if not self.path:
            raise ValueError("path is empty, expected a feature file (.npy, .npz or .pt)")
        if self.prove_images < 1:
            raise ValueError(f"prove_images is {self.prove_images}, expected at least 1")

    def compute(self, facts: StudyFacts) -> tuple[np.ndarray, Provenance]:
        files = [Path(file) for file in (self.path, self.test_path) if file]
        found = [(file, part) for file in files for part in read_parts(file, self.key)]
        if len(found) > 2:
            raise StudyError(f"{files[0]}: holds training and test features, and test_path names {files[1]}: expected one of the two")
        parts = [part for _, part in found]
        if len({part.rows_NE.shape[1] for part in parts}) != 1:
            sizes = [part.rows_NE.shape[1] for part in parts]
            raise StudyError(f"{found[1][0]}: {sizes[1]} dimensions, {files[0]} has {sizes[0]}: expected the same")
        if len({part.names is None and part.concepts is None for part in parts}) != 1 and not self.names:
            bare = next(file for file, part in found if part.names is None and part.concepts is None)
            raise StudyError(f"{bare}: its rows have no names, and those of the other part have: expected names in both, or a names file")
        where = str(files[0])
        table, order = self._aligned([file for file, _ in found], parts, facts)
        table = check_table(table, where, len(facts.stimuli))
        if order is None:
            order = RowOrder(known_by="unproven", reason="it was not to be proven (prove: false)")
            if self.prove:
                order = measure(table, facts, self.prove_with or EfficientNetLite0Config(), self.prove_images, where)
        known = _side_file(files[0]) if len(files) == 1 else None
        if known is not None:
            return table, known | order.plain()
        digest = hashlib.sha256("".join(sha256_file(file) for file in files).encode()).hexdigest()
        return table, {
            "model": self.model,
            "layer": f"imported from {' + '.join(file.name for file in files)}" + (f", {self.key}" if self.key else ""),
            "weights_sha256": None,
            "transform": None,
            "source": "imported",
            "source_sha256": digest,
            **order.plain(),
        }

    def _aligned(self, files: Sequence[Path], parts: Sequence[Features], facts: StudyFacts) -> tuple[np.ndarray, RowOrder | None]:
        """One row a stimulus; with what is known of their order, if names told it."""
        where, stimuli = str(files[0]), facts.stimuli
        if self.rows == "concept" or any(part.concepts for part in parts):
            return self._by_concept(files, parts, facts)
        table = np.concatenate([part.rows_NE for part in parts])
        if self.names:
            names: list[str] | None = _read_names(Path(self.names))
        else:
            names = [n for part in parts for n in part.names or ()] if all(part.names for part in parts) else None
        if names is not None and len(names) != len(table):
            raise StudyError(f"{self.names or where}: {len(names)} names for {len(table)} rows: expected as many")
        if self.order == "names" or all(part.keyed for part in parts):
            if names is None:
                raise StudyError(f"{where}: has no names and none were given: order 'names' needs a names file")
            found = StimulusNames(stimuli).rows(names, self.names or where, "row")
            for row, stimulus in zip(found, stimuli, strict=True):
                if row is None:
                    raise StudyError(f"{where}: no rows are named {label_of(stimulus)!r}: expected exactly one a stimulus")
            return table[np.array(found, np.int64)], RowOrder(known_by="names")
        if len(table) != len(stimuli):
            hint = ", or rows: concept" if len(table) == len({s.concept for s in stimuli}) else ""
            raise StudyError(f"{where}: {len(table)} rows, the study has {len(stimuli)} stimuli: expected one row a stimulus{hint}")
        starts = np.cumsum([0, *(len(part.rows_NE) for part in parts)])
        for file, part, start in zip(files, parts, starts.tolist(), strict=False):
            _check_part(file, part, stimuli[start : start + len(part.rows_NE)], whole=len(files) == 1)
        return table, None if names is None else _checked_names(names, stimuli, where)

    def _by_concept(self, files: Sequence[Path], parts: Sequence[Features], facts: StudyFacts) -> tuple[np.ndarray, RowOrder | None]:
        """Rows of concepts, each for all its images; or a grid whose concepts have names, for its images in order."""
        found_NE: list[np.ndarray] = []
        by_names = True
        groups = [facts.stimuli] if len(files) == 1 else [[s for s in facts.stimuli if s.part == part] for part in ("training", "test")]
        for file, features, stimuli in zip(files, parts, groups, strict=True):
            shown = list(dict.fromkeys(stimulus.concept for stimulus in stimuli))
            names = features.concepts or features.names
            images = features.grid[1] if features.grid is not None and features.concepts else 1
            count = len(features.rows_NE) // images
            if names is None:
                by_names = False
                if count != len(shown):
                    raise StudyError(f"{file}: {count} rows, the study has {len(shown)} concepts there: expected one row a concept")
                row_of = {concept: row for row, concept in enumerate(shown)}
            else:
                row_of = _concept_rows(names, [facts.concepts[c] for c in shown], shown, file)
            seen: dict[int, int] = {}
            rows = []
            for stimulus in stimuli:
                number = seen[stimulus.concept] = seen.get(stimulus.concept, -1) + 1
                if images > 1 and number >= images:
                    raise StudyError(
                        f"{file}: {images} rows of concept {facts.concepts[stimulus.concept]!r}, the study has more images of it"
                    )
                rows.append(row_of[stimulus.concept] * images + (number if images > 1 else 0))
            for concept, number in seen.items():
                if images > 1 and number + 1 != images:
                    raise StudyError(
                        f"{file}: {images} rows of concept {facts.concepts[concept]!r}, the study has {number + 1} images of it"
                    )
            by_names &= images == 1
            found_NE.append(features.rows_NE[np.array(rows, np.int64)])
        table = np.concatenate(found_NE)
        if len(groups) == 2:  # in the order of the stimuli, whatever their parts
            rows_of_parts = [i for part in ("training", "test") for i, s in enumerate(facts.stimuli) if s.part == part]
            if len(rows_of_parts) != len(facts.stimuli):
                raise StudyError(f"{files[1]}: a second file is of test images, the study does not divide its stimuli: expected one file")
            ordered = np.empty_like(table)
            ordered[np.array(rows_of_parts)] = table
            table = ordered
        return table, RowOrder(known_by="names") if by_names else None


def _concept_rows(names: Sequence[str], concepts: Sequence[str], ids: Sequence[int], file: Path) -> dict[int, int]:
    def plain(name: str) -> str:
        return re.sub(r"^\d+[_-]", "", composed(name.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]).casefold())

    rows: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        rows.setdefault(plain(name), []).append(row)
    found = {}
    for concept, name in zip(ids, concepts, strict=True):
        fits = rows.get(plain(name), [])
        if len(fits) != 1:
            raise StudyError(f"{file}: {len(fits) or 'no'} rows are named {name!r}: expected exactly one a concept")
        found[concept] = fits[0]
    return found


def _check_part(file: Path, features: Features, stimuli: Sequence[Stimulus], *, whole: bool) -> None:
    """Refuse a file whose rows would be shared out over parts or concepts that it does not have."""
    parts = {stimulus.part for stimulus in stimuli}
    if not whole and len(parts) > 1:
        raise StudyError(
            f"{file}: {len(stimuli)} rows, which would be of {listed(sorted(map(str, parts)))} images: expected a row in path for each "
            "training image, and in test_path for each test image"
        )
    if features.grid is None:
        return
    concepts = np.array([stimulus.concept for stimulus in stimuli])
    count, images = features.grid
    if concepts.size and (concepts.reshape(count, images) != concepts.reshape(count, images)[:, :1]).any():
        swapped = (concepts.reshape(images, count) == concepts.reshape(images, count)[:, :1]).all()
        turned = f"; the study has {images} concepts of {count} images: are the axes swapped?" if swapped else ""
        raise StudyError(
            f"{file}: shape ({count}, {images}, dim), expected (concepts, images, dim) of the study's concepts in order{turned}"
        )


def _checked_names(names: Sequence[str], stimuli: Sequence[Stimulus], where: str) -> RowOrder | None:
    """Names of rows that lie in the order of the stimuli. Those that fit several images contradict nothing and prove nothing."""
    known = StimulusNames(stimuli)
    proven = True
    for row, name in enumerate(names):
        meant = known.meaning(name).stimuli
        if row not in meant:
            raise StudyError(
                f"{where}: row {row} is named {name!r}, stimulus {row} is {label_of(stimuli[row])!r}: "
                "not in the order of image_metadata (use order: names)"
            )
        proven &= len(meant) == 1
    return RowOrder(known_by="names") if proven else None


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
    return {name: value for name, value in entry.items() if name not in ("sha256", "dim") and not name.startswith("row_order")}


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
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise not_readable(path, "a text of names, one a line", error) from error
