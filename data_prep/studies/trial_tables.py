"""A table with one row a trial, as text by column: CSV, TSV, JSON, Parquet, ``.npz`` of one-dimensional arrays, MNE's ``.eve``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.contract import safe_load
from data_prep.contract.errors import StudyError
from data_prep.contract.files import read_json
from data_prep.contract.words import listed, short
from data_prep.studies.cut_files import cell_text
from data_prep.studies.event_tables import read_table


def read_trial_table(file: Path) -> dict[str, list[str]]:
    """Columns of ``file``, all of one length.

    Raises
    ------
    StudyError
        No such file, another form, columns of several lengths.
    """
    if not file.is_file():
        raise StudyError(f"{file}: no such file, expected a table of one row a trial (table)")
    ending = file.suffix.lower()
    if ending == ".json":
        columns = _of_json(file, read_json(file))
    elif ending in (".npz", ".npy"):
        columns = _of_arrays(file)
    elif ending == ".eve":
        columns = _of_eve(file)
    elif ending in (".pkl", ".pickle"):
        raise StudyError(f"{file}: a pickle is not read, expected CSV, TSV, JSON, Parquet or .npz: save the table with to_csv")
    else:
        columns = read_table(file)
    lengths = {len(cells) for cells in columns.values()}
    if len(lengths) != 1:
        raise StudyError(f"{file}: its columns have {listed(sorted(lengths))} rows, expected one number of rows")
    return columns


def column_of(array: np.ndarray) -> list[str]:
    """A one-dimensional array as texts."""
    return [cell_text(value) for value in array.tolist()]


def _of_json(file: Path, value: Any) -> dict[str, list[str]]:
    if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
        names = list(dict.fromkeys(name for row in value for name in row))
        return {name: [cell_text(row.get(name)) for row in value] for name in names}
    if isinstance(value, dict) and value and all(isinstance(cells, list) for cells in value.values()):
        return {str(name): [cell_text(cell) for cell in cells] for name, cells in value.items()}
    if isinstance(value, dict) and value and all(isinstance(cells, dict) for cells in value.values()):  # pandas: column -> row -> cell
        rows = list(next(iter(value.values())))
        if any(list(cells) != rows for cells in value.values()):
            raise StudyError(f"{file}: its columns have other rows, expected the same of each")
        return {str(name): [cell_text(cell) for cell in cells.values()] for name, cells in value.items()}
    raise StudyError(f"{file}: holds {short(type(value).__name__)}, expected a list of rows or an object of columns")


def _of_arrays(file: Path) -> dict[str, list[str]]:
    value = safe_load.load(file)
    arrays: Mapping[str, Any] = value if isinstance(value, dict) else {file.stem: value}
    columns = {str(name): column_of(array) for name, array in arrays.items() if isinstance(array, np.ndarray) and array.ndim == 1}
    if not columns:
        raise StudyError(f"{file}: holds {listed(arrays)}, expected one-dimensional arrays of one entry a trial")
    return columns


def _of_eve(file: Path) -> dict[str, list[str]]:
    """MNE's text of events: the sample, the code before, the code."""
    rows: list[Sequence[str]] = []
    for number, line in enumerate(file.read_text(encoding="utf-8-sig", errors="replace").splitlines(), start=1):
        cells = line.split()
        if not cells or line.lstrip().startswith(("#", "%")):
            continue
        if len(cells) not in (3, 4) or not all(re.fullmatch(r"-?\d+(\.\d+)?", cell) for cell in cells):
            raise StudyError(f"{file}: line {number} is {short(line)!r}, expected a sample and two codes")
        rows.append((cells[0], cells[-2], cells[-1]))
    return {name: [row[i] for row in rows] for i, name in enumerate(("sample", "code_before", "code"))}
