"""The split that the makers of a data set published, as a view: a file of trial numbers by part.

::

    {"splits": [{"train": [0, 5, ...], "val": [...], "test": [...]}, ...]}

in a ``.pth`` (EEGCVPR40 as Thought2Text has it) or JSON, or one such dict alone. A number is the place of a trial in the source, which the
study keeps as ``trial``; trials that the reader has left out are passed over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.contract import safe_load
from data_prep.contract.errors import StudyError
from data_prep.contract.files import read_json
from data_prep.contract.words import listed, short
from data_prep.shards.open import StudyFolder

_NAMES = {"train": ("train",), "validation": ("val", "validation", "valid"), "test": ("test",)}


def official_rows(study: StudyFolder, file: Path, number: int) -> dict[str, list[int]]:
    """Rows of repetitions by part.

    Raises
    ------
    StudyError
        One sentence: a part that is not there, a trial in two parts or twice in one, a number that the source does not have, a study whose
        trials have no number of their own.
    """
    parts = read_parts(file, number)
    row_of = _rows_by_trial(study)
    in_file = _trials_in_source(study)
    for part, trials in parts.items():
        beyond = [trial for trial in trials if trial < 0 or (in_file is not None and trial >= in_file)]
        if beyond:
            last = f"0 to {in_file - 1}" if in_file is not None else "0 or more"
            raise StudyError(
                f"{file}: {part} has trial {beyond[0]} ({len(beyond)} such), expected {last}: a split of another file of trials"
            )
    if in_file is None and not any(trial in row_of for trials in parts.values() for trial in trials):
        raise StudyError(f"{file}: none of its trials is in {study.root}: a split of another source")
    return {part: sorted(row_of[trial] for trial in trials if trial in row_of) for part, trials in parts.items()}


def read_parts(file: Path, number: int) -> dict[str, list[int]]:
    """Trial numbers by part: train, validation and test.

    Raises
    ------
    StudyError
        As :func:`official_rows`.
    """
    value = read_json(file) if file.suffix.lower() == ".json" else safe_load.load(file)
    splits = value.get("splits") if isinstance(value, Mapping) and "splits" in value else [value]
    if not isinstance(splits, (list, tuple)) or not all(isinstance(each, Mapping) for each in splits):
        raise StudyError(f"{file}: holds {short(type(value).__name__)}, expected splits, each with train, val and test")
    if number >= len(splits):
        raise StudyError(f"{file}: has {len(splits)} splits, split_number is {number}: expected 0 to {len(splits) - 1}")
    chosen = splits[number]
    parts = {part: _numbers(file, chosen, part, names) for part, names in _NAMES.items()}
    counts = Counter(trial for trials in parts.values() for trial in trials)
    if repeated := [trial for trial, count in counts.items() if count > 1]:
        inside = {trial: [part for part, trials in parts.items() if trial in set(trials)] for trial in repeated[:1]}[repeated[0]]
        where = " and ".join(inside) if len(inside) > 1 else f"{inside[0]} twice"
        raise StudyError(f"{file}: trial {repeated[0]} is in {where} ({len(repeated)} such), expected every trial in one part, once")
    return parts


def _numbers(file: Path, chosen: Mapping[Any, Any], part: str, names: tuple[str, ...]) -> list[int]:
    name = next((each for each in names if each in chosen), None)
    if name is None:
        if part == "validation":
            return []
        raise StudyError(f"{file}: a split lacks {names[0]}; it has {listed(chosen)}")
    value = chosen[name]
    try:
        found: np.ndarray = np.asarray(
            value if isinstance(value, np.ndarray) else [each[()] if isinstance(each, np.ndarray) else each for each in value]
        )
    except (TypeError, ValueError, IndexError) as error:
        raise StudyError(f"{file}: {name} is a {type(value).__name__}, expected a list of trial numbers") from error
    if not found.size:
        return []
    if found.ndim != 1 or found.dtype.kind not in "iuf" or (found.dtype.kind == "f" and not np.array_equal(found, np.floor(found))):
        raise StudyError(
            f"{file}: {name} holds values of shape {found.shape} and dtype {found.dtype}, expected a list of whole trial numbers"
        )
    return [int(each) for each in found]


def _rows_by_trial(study: StudyFolder) -> dict[int, int]:
    first = study.first_repetition()
    row_of: dict[int, int] = {}
    for sample in range(len(study.samples)):
        for repetition, trial in enumerate(study.description(sample)["trial"]):
            if not isinstance(trial, int) or trial in row_of:
                what = "unknown" if not isinstance(trial, int) else f"{trial} twice"
                raise StudyError(
                    f"{study.root}: sample {sample} has trial {what}: policy 'official' needs a source whose trials have a number each"
                )
            row_of[trial] = int(first[sample]) + repetition
    return row_of


def _trials_in_source(study: StudyFolder) -> int | None:
    """How many trials the source has, those that were left out included; None: not known."""
    counts = study.manifest.preprocessing.get("trials")
    found = counts.get("in_file") if isinstance(counts, Mapping) else None
    return found if isinstance(found, int) else None
