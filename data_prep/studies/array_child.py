"""A process of its own that reads arrays by name out of MATLAB and HDF5 files: ``python -m data_prep.studies.array_child FILE KIND OUT
SIGNAL_AND_BESIDE``.

What scipy or HDF5 do with a damaged file ends that process, not the one that shards a study::

    FILE -> child: facts of every array, and those that are asked for as plain .npy in OUT, or where a large one lies in FILE
         -> arrays, mapped where they are large
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.contract.errors import StudyError
from data_prep.contract.raw_file import plain_dtype
from data_prep.contract.words import short
from data_prep.studies.continuous import one_line
from data_prep.studies.recording_child import run_reader, status_of

MOST_BESIDE = 2**22
"""Entries of an array that is no signal: labels, names, times."""
_FACTS = "facts.json"
_MAPPED_BYTES = 2**24
_BLOCK_BYTES = 2**26
_PLAIN = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")


@dataclass(frozen=True, kw_only=True)
class Unread:
    """An array that was left in its file: nobody asked for it, or it holds neither numbers nor texts."""

    shape: tuple[int, ...]
    dtype: np.dtype = field(default_factory=lambda: np.dtype(object))


def arrays_in_child(file: Path, kind: str, signal: str | None = None, *, beside: bool = True) -> dict[str, np.ndarray | Unread]:
    """Every array of ``file`` by name, its sides as the program that wrote it shows them.

    Parameters
    ----------
    kind
        ``MAT array`` or ``HDF5 array``.
    signal
        Name of the array that is read however large it is. None: those with three sides of numbers.
    beside
        Whether small ones are read as well.

    Raises
    ------
    StudyError
        One sentence, whatever became of that process.
    ImportError
        A library is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="arrays-") as folder:
        run_reader(file, kind, __name__, [str(file), kind, folder, json.dumps([signal, beside])], uses=("scipy.io", "h5py"))
        # What is mapped stays when its name goes with the folder.
        return {each["name"]: _left(file, Path(folder), each) for each in json.loads((Path(folder) / _FACTS).read_text())}


def _left(file: Path, folder: Path, fact: dict[str, Any]) -> np.ndarray | Unread:
    found: np.ndarray
    if (lies := fact.get("lies")) is not None:
        try:
            found = np.memmap(file, plain_dtype(lies["dtype"]), "r", lies["offset"], tuple(lies["shape"]))
        except (OSError, ValueError) as error:
            raise StudyError(f"{file}: changed while it was read, expected the file that was opened ({one_line(error)})") from error
    elif fact["left"] is None:
        return Unread(shape=tuple(fact["shape"]))
    else:
        path = folder / fact["left"]
        found = np.load(path, mmap_mode="r" if path.stat().st_size > _MAPPED_BYTES else None, allow_pickle=False)
    return found.T if fact["reversed"] else found


# --------------------------------------------------------------------------------------------------------- in the child


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    signal: str | None
    beside: bool

    def has(self, name: str, shape: tuple[int, ...], kind: str) -> bool:
        if self.beside and math.prod(shape) <= MOST_BESIDE:
            return True
        return name == self.signal if self.signal is not None else len(shape) == 3 and kind in "fiu"


def leave(file: Path, kind: str, folder: Path, wanted: _Wanted) -> None:
    """Write what :func:`arrays_in_child` returns into ``folder``.

    Raises
    ------
    StudyError
        A damaged file, or one whose arrays lie in others.
    """
    what, read = ("MAT", _of_mat) if kind == "MAT array" else ("HDF5", _of_hdf5)
    try:
        facts = read(file, folder, wanted)
    except (StudyError, ImportError, MemoryError):
        raise
    except Exception as error:  # a dozen kinds for damaged files
        raise StudyError(f"{file}: not a whole {what} file ({one_line(error)})") from error
    (folder / _FACTS).write_text(json.dumps(facts))


def _of_mat(file: Path, folder: Path, wanted: _Wanted) -> list[dict[str, Any]]:
    from scipy.io import loadmat, whosmat

    facts: list[dict[str, Any]] = [
        {"name": name, "shape": list(shape), "left": None, "reversed": False} for name, shape, _ in whosmat(file)
    ]
    content = loadmat(file, squeeze_me=False, chars_as_strings=True, variable_names=None if wanted.beside else [wanted.signal])
    for number, fact in enumerate(facts):
        value = content.get(fact["name"])
        if not isinstance(value, np.ndarray):
            continue
        value = _unwrapped(value)
        if value.dtype.kind in "fiubU" and wanted.has(fact["name"], value.shape, value.dtype.kind):
            fact["left"] = f"{number}.npy"
            np.save(folder / fact["left"], value, allow_pickle=False)
    return facts


def _unwrapped(value: np.ndarray) -> np.ndarray:
    """MATLAB has no array of fewer than two sides, and keeps texts in cells."""
    if value.dtype.kind == "O" and all(isinstance(each, np.ndarray) and each.size == 1 for each in value.reshape(-1)):
        value = np.array([each.reshape(-1)[0] for each in value.reshape(-1)])
    return value.reshape(-1) if value.ndim == 2 and 1 in value.shape else value


def _of_hdf5(file: Path, folder: Path, wanted: _Wanted) -> list[dict[str, Any]]:
    import h5py

    with h5py.File(file, "r") as content:
        found: dict[str, Any] = {}
        content.visititems(lambda path, node: found.update({path: node}) if isinstance(node, h5py.Dataset) else None)
        outside = [name for name, node in found.items() if node.external or node.is_virtual]
        if outside:
            raise StudyError(f"{file}: dataset {short(outside[0])!r} lies in other files, expected one file")
        matlab = any("MATLAB_class" in node.attrs for node in found.values())  # it shows sides the other way round
        facts = []
        for number, (name, node) in enumerate(found.items()):
            shape, left = tuple(node.shape or ()), f"{number}.npy"
            if node.shape is not None and wanted.has(name, shape, node.dtype.kind) and (lies := _lies(file, node)) is not None:
                own = {"left": None, "lies": lies, "reversed": matlab}
                facts.append({"name": name, "shape": shape[::-1] if matlab else shape, **own})
                continue
            is_left = node.shape is not None and wanted.has(name, shape, node.dtype.kind) and _save(node, folder / left, matlab)
            facts.append({"name": name, "shape": shape[::-1] if matlab else shape, "left": left if is_left else None, "reversed": matlab})
    return facts


def _lies(file: Path, node: Any) -> dict[str, Any] | None:
    """Where the numbers of a signal lie in the file in one piece, as they are; None: they are to be saved."""
    offset = node.id.get_offset()
    if offset is None or node.dtype.kind not in "fiu" or node.size <= MOST_BESIDE or node.dtype.str[1:] not in _PLAIN:
        return None
    row_bytes = node.dtype.itemsize * (node.size // node.shape[0])
    with file.open("rb") as stream:
        for row in (0, node.shape[0] - 1):  # seen, not believed
            stream.seek(offset + row * row_bytes)
            if stream.read(row_bytes) != np.ascontiguousarray(node[row]).tobytes():
                return None
    return {"offset": offset, "dtype": node.dtype.str, "shape": list(node.shape)}


def _save(node: Any, out: Path, matlab: bool) -> bool:
    """Whether there was something to save: numbers of a signal a block at a time, the rest at once."""
    import h5py

    numbers = node.dtype.kind in "fiub"
    if not numbers and node.dtype.kind != "S" and h5py.check_string_dtype(node.dtype) is None:
        return False
    if numbers and node.size > MOST_BESIDE:
        _save_in_blocks(node, out)
        return True
    value = np.asarray(node[()])
    if not numbers:
        texts = [each.decode("utf-8", "replace") if isinstance(each, bytes) else str(each) for each in value.reshape(-1).tolist()]
        value = np.array(texts, dtype=str).reshape(value.shape)
    np.save(out, value.reshape(-1) if matlab and value.ndim == 2 and 1 in value.shape else value, allow_pickle=False)
    return True


def _save_in_blocks(node: Any, out: Path) -> None:
    rows = max(_BLOCK_BYTES // (node.dtype.itemsize * (node.size // node.shape[0])), node.chunks[0] if node.chunks else 1)
    header = {"descr": np.lib.format.dtype_to_descr(node.dtype), "fortran_order": False, "shape": tuple(node.shape)}
    with out.open("wb") as stream:
        np.lib.format.write_array_header_2_0(stream, header)
        for start in range(0, node.shape[0], rows):
            stream.write(np.ascontiguousarray(node[start : start + rows]).data)


def main(file: str, kind: str, folder: str, signal_and_beside: str) -> int:
    """Exit status; what was wrong stands on stderr, in one line."""
    signal, beside = json.loads(signal_and_beside)
    return status_of(Path(file), lambda path: leave(path, kind, Path(folder), _Wanted(signal=signal, beside=beside)))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
