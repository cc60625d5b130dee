"""What a file of trials says its rows are: image, label, text and session of every repetition, checked against each other.

Shape suffixes: N images, R repetitions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.contract.errors import StudyError
from data_prep.contract.words import short
from data_prep.studies.image_names import image_key

_MOST_SESSIONS = 1000


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Labels of one file, by row."""

    images: list[str] | None
    """Paths of images as the file has them, with ``/``."""
    session_NR: np.ndarray | None
    """int32 as the file has them, where it has any and rows are of one length."""


def read_labels(path: Path, content: Mapping[str, Any], n_reps: Sequence[int]) -> Labels:
    """Labels of a file's rows.

    Raises
    ------
    StudyError
        Labels that vary among the repetitions of one row, contradict each other or are fewer than trials.
    """
    images = _of_rows(path, content, "img", n_reps)
    texts = _of_rows(path, content, "text", n_reps)
    labels = _of_rows(path, content, "label", n_reps)
    names = [str(name).replace("\\", "/") for name in images] if images is not None else None
    if names is not None:
        folders = [_concept(name) for name in names]
        if all(folders):
            _refuse_contradiction(path, "label", labels, folders)
            known = {_plain(folder): folder for folder in folders}
            for row, text in enumerate(texts or []):
                other = known.get(_plain(str(text)))
                if other is not None and other != folders[row]:
                    raise StudyError(
                        f"{path}: row {row} has text {short(str(text), 40)!r} and img {names[row]!r}: expected the same concept"
                    )
    return Labels(images=names, session_NR=_sessions(path, content.get("session"), n_reps))


def _concept(image: str) -> str:
    """Name of the folder that an image lies in, without its number; empty where there is none."""
    key = image_key(image)
    return re.sub(r"^\d+[_-]", "", key[-2]) if len(key) > 1 else ""


def _plain(text: str) -> str:
    return re.sub(r"[\s_-]+", " ", text).strip().casefold()


def _of_rows(path: Path, content: Mapping[str, Any], key: str, n_reps: Sequence[int]) -> list[Any] | None:
    """One value a row of (N,), (N, R) or (N * R,); None: the file has none."""
    if key not in content:
        return None
    value = content[key]
    found = np.asarray(value) if isinstance(value, (list, tuple)) else value
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "USiufO":
        raise StudyError(f"{path}: {key} is a {type(value).__name__}, expected a value a repetition")
    count = len(n_reps)
    if found.shape == (count,):
        return list(found.tolist())
    if found.size == sum(n_reps) and len(set(n_reps)) == 1:
        by_row = found.reshape(count, -1)
        vary = np.flatnonzero((by_row != by_row[:, :1]).any(1))
        if len(vary):
            first, other = by_row[vary[0]][[0, int((by_row[vary[0]] != by_row[vary[0], 0]).argmax())]]
            raise StudyError(
                f"{path}: row {vary[0]} has {key} {short(str(first), 60)!r} and {short(str(other), 60)!r} in its repetitions: "
                "expected one image a row"
            )
        return list(by_row[:, 0].tolist())
    raise StudyError(f"{path}: {key} of shape {found.shape} for {count} rows of trials, expected a value a row or a repetition")


def _refuse_contradiction(path: Path, key: str, values: list[Any] | None, folders: list[str]) -> None:
    """Refuse values that do not stand for concepts: one of two, or two of one."""
    if values is None:
        return
    concept_of: dict[Any, str] = {}
    value_of: dict[str, Any] = {}
    for row, (value, folder) in enumerate(zip(values, folders, strict=True)):
        if concept_of.setdefault(value, folder) != folder or value_of.setdefault(folder, value) != value:
            raise StudyError(
                f"{path}: row {row} has {key} {value} and an image of {folder!r}, but {key} {value} stands for {concept_of[value]!r} and "
                f"{folder!r} has {key} {value_of.get(folder, value)}: expected one {key} a concept"
            )


def _sessions(path: Path, value: Any, n_reps: Sequence[int]) -> np.ndarray | None:
    if value is None:
        return None
    found = np.asarray(value) if isinstance(value, (list, tuple)) else value
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "iuf" or found.size != sum(n_reps) or len(set(n_reps)) != 1:
        raise StudyError(f"{path}: session is {type(value).__name__} of shape {np.shape(value)}, expected a number a repetition")
    numbers = found.reshape(len(n_reps), -1)
    if not np.isfinite(numbers).all() or (numbers != np.round(numbers)).any() or numbers.min() < 0 or numbers.max() > _MOST_SESSIONS:
        raise StudyError(f"{path}: session holds values that are no numbers of sessions ({numbers.min():g} to {numbers.max():g})")
    session_NR: np.ndarray = numbers.astype(np.int32)
    return session_NR
