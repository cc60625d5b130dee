"""Files that may hold a pickle, opened without running anything in them.

THINGS-EEG2 folders keep dicts as pickles (inside ``.npy`` or plain), feature files come as ``.pt``. A pickle is a program:

    bytes -> pickle_machine (an interpreter that can only describe) -> described (dtype, shape, order, bytes) -> raw_file (arrays)

Nothing is imported or called that a file names; an array comes into being only after its kind, its size against the file and its depth
were checked; large ones stay in the file. Neither ``pickle`` nor torch takes part. What a file may cost stands in :mod:`.limits`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.contract import npy, torch_file
from data_prep.contract.arrays import not_readable, read_archive, read_array
from data_prep.contract.described import NUMPY, Array, Plain
from data_prep.contract.errors import StudyError
from data_prep.contract.pickle_machine import Machine
from data_prep.contract.raw_file import LARGE_BYTES, MAPPED_BYTES, RawFile, Refusal, Span
from data_prep.contract.words import listed, short
from data_prep.contract.zip_file import ZipMembers

_ARCHIVE = "an archive of arrays or tensors (.npz, .pt)"
_START = 32
"""Bytes that tell what a file is: a frame of protocol 4 or 5 may stand before the mark of torch's old format."""


def load(path: Path, *, headers_only: bool = False) -> Any:
    """Load ``.npy``, ``.npz``, a pickle or ``.pt``/``.pth`` by its content; nothing in the file is executed.

    Parameters
    ----------
    headers_only
        Read what describes the arrays and leave the arrays in the file, those of 64 KiB too; large members of a torch file are then not
        checked against their CRC-32: :func:`check_content` does it when they are wanted.

    Returns
    -------
    Any
        An array, or plain containers of arrays, numbers and text. A 0-d object array (``np.save`` of a dict) is returned
        as what it holds; torch tensors as numpy arrays (bfloat16 as float32); ``.npz`` as a dict. Large arrays are mapped from the
        file and read-only.

    Raises
    ------
    StudyError
        One sentence: the file, and what it asks for or why it cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise StudyError(f"{path}: no such file")
    with RawFile(path, mapped_bytes=LARGE_BYTES if headers_only else MAPPED_BYTES) as file:
        start = file.read(Span(0, min(_START, file.size)))
        if start.startswith(npy.MAGIC):
            return _load(file, "an array (.npy)", _npy)
        if start.startswith(b"PK"):
            return _load(file, _ARCHIVE, functools.partial(_zip, unchecked_bytes=MAPPED_BYTES if headers_only else math.inf))
        if torch_file.LEGACY_START in start:
            return _load(file, "a file of tensors (.pt)", torch_file.read_legacy)
        return _load(file, "a readable pickle", _pickle)


def check_content(path: Path) -> None:
    """Check what :func:`load` with ``headers_only`` left unread: a torch file's large members against their CRC-32. Others have none.

    Raises
    ------
    StudyError
        One sentence: the file is damaged.
    """
    with RawFile(path) as file:
        if file.read(Span(0, min(2, file.size))) == b"PK":
            _load(file, _ARCHIVE, lambda opened: ZipMembers(opened, unchecked_bytes=MAPPED_BYTES).check())


def load_mapping(path: Path, required: tuple[str, ...]) -> dict[str, Any]:
    """:func:`load` a file that must hold a dict with the ``required`` keys."""
    value = load(path)
    if not isinstance(value, dict):
        raise StudyError(f"{path}: holds {_describe(value)}, expected a dict with {', '.join(required)}")
    missing = [key for key in required if key not in value]
    if missing:
        raise StudyError(f"{path}: lacks {', '.join(missing)}; it has {listed(value)}")
    return value


def texts(value: Any, path: Path, what: str) -> list[str]:
    """A list or an array of names as texts, in order: one inside another is none, however few bytes of the file it takes.

    Raises
    ------
    StudyError
        Another kind of value; ``what`` names it, such as ``ch_names``.
    """
    items = value.ravel().tolist() if isinstance(value, np.ndarray) else list(value) if isinstance(value, (list, tuple)) else [value]
    if len(items) == 1 and isinstance(items[0], (list, tuple)):
        items = list(items[0])
    for each in items:
        if not isinstance(each, (str, bytes, int, float, np.generic)):
            raise StudyError(f"{path}: {what} holds {_describe(each)}, expected a list of texts")
    return [each.decode("latin1") if isinstance(each, bytes) else str(each) for each in items]


def _describe(value: Any) -> str:
    return f"an array of shape {value.shape}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"


def _load(file: RawFile, wanted: str, read: Callable[[RawFile], Any]) -> Any:
    """What ``read`` makes of a file; whatever ends it is one sentence."""
    try:
        return read(file)
    except Refusal as refusal:
        raise StudyError(
            f"{file.path}: refused: its pickle asks for {short(refusal, 240)}; "
            "only numpy arrays, numbers, text and plain containers are read"
        ) from refusal
    except StudyError:
        raise
    except Exception as error:  # a damaged file can raise anything
        raise not_readable(file.path, wanted, error) from error


def _pickle(file: RawFile) -> Any:
    return Plain(file).of(Machine(file, 0, file.size, NUMPY).run())


def _npy(file: RawFile) -> Any:
    header = npy.read_header(file, Span(0, file.size))
    if header.descr not in ("|O", "O", "|O8", "|O4"):
        return read_array(file.path, mapped=True, mapped_bytes=file.mapped_bytes)
    described = Machine(file, header.end, file.size, NUMPY).run()
    # np.save pickles the object array itself, so the header's shape and the pickle's must agree.
    if not isinstance(described, Array) or math.prod(described.shape) != math.prod(header.shape):
        shown = f"an array of shape {described.shape}" if isinstance(described, Array) else f"a {type(described).__name__}"
        raise StudyError(f"{file.path}: its header says an object array of shape {header.shape}, it holds {shown}")
    value = Plain(file).of(described)
    return value[()] if value.ndim == 0 else value


def _zip(file: RawFile, unchecked_bytes: float) -> Any:
    members = ZipMembers(file, unchecked_bytes=unchecked_bytes)
    if any(name.rsplit("/", 1)[-1] == "data.pkl" for name in members.names):
        return torch_file.read_zip(members)
    return read_archive(file.path, mapped=True)
