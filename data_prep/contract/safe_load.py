"""Files that may hold a pickle, opened without running anything in them.

THINGS-EEG2 folders keep dicts as pickles (inside ``.npy`` or plain), feature files come as ``.pt``. A pickle is a program;
here it may only build numpy arrays of plain dtypes, numpy scalars and Python containers. Anything else it asks for is
named in one :class:`~data_prep.contract.schema.StudyError` and never imported. Dtypes are rebuilt from their text, because a
crafted dtype state can make numpy read raw bytes as object pointers.

``.pt``/``.pth`` go through torch's weights-only loader; torch is imported only then.
"""

from __future__ import annotations

import collections
import io
import pickle
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np

from data_prep.contract.arrays import not_readable
from data_prep.contract.errors import StudyError
from data_prep.contract.words import listed

PLAIN_KINDS = "biufcSU"
"""Dtype kinds whose bytes are only data."""
MAX_DEPTH = 100
NPY_MAGIC = b"\x93NUMPY"


def load(path: Path) -> Any:
    """Load ``.npy``, ``.npz``, a pickle or ``.pt``/``.pth`` by its content; nothing in the file is executed.

    Returns
    -------
    Any
        An array, or plain containers of arrays, numbers and text. A 0-d object array (``np.save`` of a dict) is returned
        as what it holds; torch tensors as numpy arrays (bfloat16 as float32); ``.npz`` as a dict.

    Raises
    ------
    StudyError
        One sentence: the file, and what it asks for or why it cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise StudyError(f"{path}: no such file")
    with path.open("rb") as file:
        start = file.read(8)
    if start.startswith(NPY_MAGIC):
        return _load_npy(path)
    if start.startswith(b"PK"):
        return _load_zip(path)
    if path.suffix in (".pt", ".pth"):
        return _load_torch(path)
    with path.open("rb") as file:
        return _unpickle(file, path)


def load_mapping(path: Path, required: tuple[str, ...]) -> dict[str, Any]:
    """:func:`load` a file that must hold a dict with the ``required`` keys."""
    value = load(path)
    if not isinstance(value, dict):
        raise StudyError(f"{path}: holds {_describe(value)}, expected a dict with {', '.join(required)}")
    missing = [key for key in required if key not in value]
    if missing:
        raise StudyError(f"{path}: lacks {', '.join(missing)}; it has {listed(value)}")
    return value


def _describe(value: Any) -> str:
    return f"an array of shape {value.shape}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"


# ---------------------------------------------------------------------------------------------------------- formats


def _load_npy(path: Path) -> Any:
    with path.open("rb") as file:
        try:
            version = np.lib.format.read_magic(file)
            read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read_header(file)
        except Exception as error:  # a damaged header raises what its parser does
            raise not_readable(path, "an array (.npy)", error) from error
        if not dtype.hasobject:
            file.seek(0)
            try:
                return np.load(file, allow_pickle=False)
            except Exception as error:
                raise not_readable(path, "an array (.npy)", error) from error
        value = _unpickle(file, path)
    # np.save pickles the object array itself, so the header's shape and the pickle's must agree.
    if not isinstance(value, np.ndarray) or value.size != int(np.prod(shape)):
        raise StudyError(f"{path}: its header says an object array of shape {shape}, it holds {_describe(value)}")
    return value[()] if value.ndim == 0 else value


def _load_zip(path: Path) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception as error:  # zipfile raises six kinds
        raise not_readable(path, "an archive", error) from error
    if any(name.rsplit("/", 1)[-1] == "data.pkl" for name in names):
        return _load_torch(path)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except Exception as error:
        raise not_readable(path, "an archive of plain arrays (.npz)", error) from error


def _load_torch(path: Path) -> Any:
    import torch

    try:
        return _plain(torch.load(path, map_location="cpu", weights_only=True), path)
    except StudyError:
        raise
    except Exception as error:  # torch raises many kinds; none may reach the user as a traceback
        first = _one_line(error).split(". ")[0][:200]
        raise StudyError(f"{path}: refused: not only tensors and plain containers, or not readable ({first})") from error


# --------------------------------------------------------------------------------------------------------- pickles


class _Array(np.ndarray):
    """Stands in for ``numpy.ndarray`` while a pickle is read; :func:`_plain` turns it into one."""

    def __setstate__(self, state: Any) -> None:
        version, shape, dtype, is_fortran, raw = state
        if np.dtype(dtype).kind == "O":
            if not isinstance(raw, list):
                raise _Refusal("an object array made from raw bytes")
            dtype = np.dtype("O")
        else:
            if not isinstance(raw, (bytes, bytearray)):
                raise _Refusal("an array whose content is not bytes")
            dtype = _plain_dtype(dtype)
        super().__setstate__((version, shape, dtype, is_fortran, raw))


class _Refusal(Exception):
    """What the pickle asked for that it may not have."""


def _plain_dtype(dtype: Any) -> np.dtype:
    found = np.dtype(dtype)
    if found.kind not in PLAIN_KINDS or found.fields is not None or found.subdtype is not None:
        raise _Refusal(f"dtype {found.str!r}")
    plain: np.dtype = np.dtype(found.str)
    return plain


def _reconstruct(*_arguments: Any) -> np.ndarray:
    return np.ndarray.__new__(_Array, (0,), np.uint8)


def _from_buffer(buffer: Any, dtype: Any, shape: Any, order: Any, axis_order: Any = None) -> np.ndarray:
    if axis_order is not None:
        raise _Refusal("an array in another axis order")
    return np.frombuffer(buffer, dtype=_plain_dtype(dtype)).reshape(shape, order=order)


def _scalar(dtype: Any, raw: bytes = b"") -> Any:
    return np.frombuffer(bytes(raw), dtype=_plain_dtype(dtype), count=1)[0]


def _dtype(text: Any, *_rest: Any) -> np.dtype:
    if not isinstance(text, str):
        raise _Refusal(f"a dtype made from {type(text).__name__}")
    # A copy: the pickle sets byte order and flags on it, which must not reach numpy's shared dtypes.
    return np.dtype(text, copy=True)


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1") or not isinstance(text, str):
        raise _Refusal(f"text in encoding {encoding!r}")
    return text.encode("latin1")


ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): collections.OrderedDict,
    **{("builtins", kind.__name__): kind for kind in (set, frozenset, complex, bytearray)},
}
for _package in ("numpy.core", "numpy._core"):
    ADMITTED[_package + ".multiarray", "_reconstruct"] = _reconstruct
    ADMITTED[_package + ".multiarray", "scalar"] = _scalar
    ADMITTED[_package + ".numeric", "_frombuffer"] = _from_buffer


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return ADMITTED[module, name]
        except KeyError as error:
            raise _Refusal(f"{module}.{name}") from error

    def persistent_load(self, pid: Any) -> NoReturn:
        raise _Refusal("an object outside the file")


def _unpickle(file: BinaryIO | io.BytesIO, path: Path) -> Any:
    try:
        return _plain(_Unpickler(file, encoding="latin1").load(), path)
    except _Refusal as refusal:
        raise StudyError(
            f"{path}: refused: its pickle asks for {_one_line(refusal)}; only numpy arrays, numbers, text and plain containers are read"
        ) from refusal
    except StudyError:
        raise
    except Exception as error:  # a broken pickle can raise anything
        raise not_readable(path, "a readable pickle", error) from error


def _plain(value: Any, path: Path) -> Any:
    """Stand-ins to plain arrays, tensors to arrays, tuples kept; each object once, so shared ones stay cheap."""
    seen: dict[int, Any] = {}
    keep = [value]  # ids stay unique while the originals live

    def visit(item: Any, depth: int) -> Any:
        if id(item) in seen:
            return seen[id(item)]
        if depth > MAX_DEPTH:
            raise StudyError(f"{path}: nested more than {MAX_DEPTH} deep, expected a dict of arrays")
        result: Any = item
        if isinstance(item, np.ndarray):
            result = np.asarray(item).view(np.ndarray)
            if result.dtype.kind == "O":
                result = result.copy()
                for index in np.ndindex(result.shape):
                    result[index] = visit(result[index], depth + 1)
        elif isinstance(item, dict):
            result = {visit(key, depth + 1): visit(content, depth + 1) for key, content in item.items()}
        elif type(item) in (list, tuple, set, frozenset):
            result = type(item)(visit(content, depth + 1) for content in item)
        elif item is None or isinstance(item, (str, bytes, bytearray, int, float, complex, bool, np.generic)):
            return item
        elif type(item).__module__ == "torch" and hasattr(item, "detach"):
            result = item.detach()
            result = (result.float() if str(result.dtype) == "torch.bfloat16" else result).numpy()
        else:
            raise StudyError(
                f"{path}: refused: it holds a {type(item).__module__}.{type(item).__qualname__}, expected arrays and containers"
            )
        seen[id(item)] = result
        keep.append(item)
        return result

    return visit(value, 0)


def _one_line(error: object) -> str:
    return " ".join(str(error).split())
