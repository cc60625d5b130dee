"""Arrays of a file by name, whatever its format: ``.npy``, ``.npz``, pickled dicts and tensors without running them, ``.mat``, HDF5.

Large ones stay in the file: rows are read when they are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.contract import safe_load
from data_prep.contract.errors import StudyError
from data_prep.contract.file_rows import FileRows
from data_prep.contract.words import listed
from data_prep.studies.array_child import Unread, arrays_in_child

ALONE = "its array"
"""Name of the array of a file that has one without a name."""


@dataclass(frozen=True, kw_only=True)
class ArrayFile:
    """An opened file."""

    file: Path
    format: str
    arrays: Mapping[str, np.ndarray | Unread]
    """In the order of sides that the program which wrote them shows."""


class Rows:
    """Trials of an array whose sides lie in any order."""

    def __init__(self, array: np.ndarray, order: Sequence[int]) -> None:
        """``order`` are the sides of trials, channels and time points."""
        self._rows = FileRows(array.transpose(tuple(order)))

    def read(self, rows: Sequence[int], picks: Sequence[int]) -> np.ndarray:
        """(rows, picks, times)."""
        chosen = list(picks)
        one_by_one = len(rows) < 2 or bool(np.all(np.diff(np.asarray(rows)) == 1))
        found = [self._rows[row][chosen] if one_by_one else self._rows.values(row, ())[chosen] for row in rows]
        self._rows.give_back()
        return np.stack(found)


def open_arrays(file: Path, kind: str, variable: str | None = None) -> ArrayFile:
    """The arrays of ``file``, of a format of :func:`data_prep.studies.recording_files.format_of`, or none that it knows.

    ``variable`` names that of trials: of an HDF5 file it is read, however many there are.

    Raises
    ------
    StudyError
        A damaged file, or one of another kind.
    """
    if kind in ("MAT array", "HDF5 array"):
        return ArrayFile(file=file, format=kind, arrays=arrays_in_child(file, kind, variable))
    value = safe_load.load(file, headers_only=kind == "NumPy array")  # which has no checksums that would be left for later
    if isinstance(value, np.ndarray):
        return ArrayFile(file=file, format=kind, arrays={ALONE: value})
    if not isinstance(value, dict):
        raise StudyError(f"{file}: holds a {type(value).__name__}, expected an array or arrays by name")
    arrays = {str(name): _as_array(each) for name, each in value.items()}
    return ArrayFile(file=file, format=kind, arrays={name: each for name, each in arrays.items() if each is not None})


def _as_array(value: Any) -> np.ndarray | None:
    """Arrays, and lists of names or numbers, which dicts hold them as."""
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, (list, tuple)) and value and all(isinstance(each, (str, int, float, np.generic)) for each in value):
        return np.array(value)
    return np.asarray(value) if isinstance(value, (int, float, str, np.generic)) else None


def signal_of(opened: ArrayFile, variable: str | None) -> tuple[str, np.ndarray]:
    """The array of trials: its name, and itself with its sides as the program that wrote it shows them.

    Raises
    ------
    StudyError
        It is not there, or which it is is not said, or it is no array of three sides of numbers.
    """
    if variable is not None and variable not in opened.arrays:
        raise StudyError(f"{opened.file}: has no array {variable!r} (variable); it has {_listed(opened)}")
    names = (
        [variable]
        if variable is not None
        else [name for name, array in opened.arrays.items() if len(array.shape) == 3 and array.dtype.kind in "fiu"]
    )
    if len(names) != 1:
        wanted = "one, or its name in 'variable'" if names else "an array of trials with three sides: trials, channels, time points"
        raise StudyError(f"{opened.file}: holds {_listed(opened)}, expected {wanted}")
    array = opened.arrays[names[0]]
    if not isinstance(array, np.ndarray) or array.ndim != 3 or array.dtype.kind not in "fiu":
        raise StudyError(f"{opened.file}: {names[0]} has shape {array.shape} and dtype {array.dtype}, expected three sides of numbers")
    return names[0], array


def _listed(opened: ArrayFile) -> str:
    return listed(f"{name} {tuple(array.shape)}" for name, array in opened.arrays.items())
