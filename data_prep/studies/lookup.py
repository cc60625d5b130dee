"""What an event's number or label stands for, where a file beside the recordings says it: a table, a list of images, a vector.

events.tsv: 741  ->  image_metadata.npy: training_images/00075_baseball_glove/baseball_glove_01b.jpg
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.contract import safe_load
from data_prep.contract.errors import StudyError
from data_prep.contract.words import short
from data_prep.studies.array_child import arrays_in_child
from data_prep.studies.cells import says_nothing, texts_of, whole_number
from data_prep.studies.event_tables import read_table
from data_prep.studies.image_names import inside

THINGS_PARTS = {"train": "training_images", "test": "test_images"}
"""Part of ``image_metadata.npy`` -> folder of its images."""


@dataclass(frozen=True, kw_only=True)
class LookupConfig:
    """One step from what an event says to its image."""

    file: str
    """Path below ``root``: a ``.tsv`` or ``.csv``; THINGS-EEG2's ``image_metadata.npy``, whose columns are ``part`` (train, test),
    ``number`` (from 1), ``folder`` (training_images, test_images), ``concept`` and ``file``; or a ``.mat`` with a vector, whose columns are
    ``number`` (from 1) and ``value``."""
    key: str = "number"
    """Column, or template of columns, that holds what the event says: ``{part},{number}``."""
    value: str = "value"
    """Column, or template, that it stands for: ``{folder}/{concept}/{file}``, ``{cocoSplit}/{cocoId:012d}.jpg``."""
    variable: str | None = None
    """Name of the vector of a ``.mat``."""
    add: int = 0
    """Added to the number that the event says, before it is looked up: -1 where it counts from 1 and the table from 0."""


class Lookup:
    """The steps, read once."""

    def __init__(self, steps: Sequence[LookupConfig], root: Path) -> None:
        self._steps = [(step, file := inside(root, step.file), _table(step, file)) for step in steps]
        self.files = [file for _, file, _ in self._steps]

    def of(self, name: str, where: Path) -> str:
        """What ``name`` stands for.

        Raises
        ------
        StudyError
            A table that does not have it.
        """
        for step, file, table in self._steps:
            key = name
            if step.add:
                number = whole_number(name)
                if number is None:
                    raise StudyError(f"{where}: event says {short(name)!r}, expected a number to look up in {file} (events.lookup)")
                key = str(number + step.add)
            if key not in table:
                raise StudyError(
                    f"{where}: event says {short(key)!r}, which {file} does not have among {len(table):,} entries of {step.key!r}"
                )
            name = table[key]
        return name


def _table(step: LookupConfig, file: Path) -> dict[str, str]:
    if not file.is_file():
        raise StudyError(f"{file}: no such file (events.lookup)")
    if file.suffix.lower() == ".npy":
        columns = _image_metadata(file)
    else:
        columns = _vector(step, file) if file.suffix.lower() == ".mat" else read_table(file)
    keys = texts_of(step.key, columns, file, "events.lookup.key")
    values = texts_of(step.value, columns, file, "events.lookup.value")
    found: dict[str, str] = {}
    for key, value in zip(keys, values, strict=True):
        if says_nothing(key) or says_nothing(value):
            continue
        if found.setdefault(key, value) != value:
            raise StudyError(f"{file}: {step.key} {short(key)!r} stands for {short(found[key])!r} and for {short(value)!r}, expected one")
    return found


def _image_metadata(file: Path) -> dict[str, list[str]]:
    wanted = tuple(f"{part}_img_{what}" for part in THINGS_PARTS for what in ("concepts", "files"))
    metadata = safe_load.load_mapping(file, wanted)
    columns: dict[str, list[str]] = {name: [] for name in ("part", "number", "folder", "concept", "file")}
    for part, folder in THINGS_PARTS.items():
        concepts, files = (safe_load.texts(metadata[f"{part}_img_{what}"], file, f"{part}_img_{what}") for what in ("concepts", "files"))
        if len(concepts) != len(files):
            raise StudyError(f"{file}: {len(files)} {part}_img_files and {len(concepts)} {part}_img_concepts: expected as many")
        columns["part"] += [part] * len(files)
        columns["number"] += [str(number) for number in range(1, len(files) + 1)]
        columns["folder"] += [folder] * len(files)
        columns["concept"] += concepts
        columns["file"] += files
    return columns


def _vector(step: LookupConfig, file: Path) -> dict[str, list[str]]:
    arrays = arrays_in_child(file, "MAT array", str(step.variable), beside=False)
    found = arrays.get(str(step.variable))
    if not isinstance(found, np.ndarray) or found.ndim != 1 or found.dtype.kind not in "iuf" or not np.all(found == np.rint(found)):
        raise StudyError(
            f"{file}: variable {step.variable!r} (events.lookup.variable) is no vector of whole numbers, it has {sorted(arrays)}"
        )
    values = [str(int(value)) for value in found]
    return {"number": [str(number) for number in range(1, len(values) + 1)], "value": values}
