"""What pickles of numpy describe: dtypes, scalars, arrays. Nothing of it is numpy's until its kind, its size and its bytes were checked.

:data:`NUMPY` is the whole of what a pickle may call; each entry is a function of this file. :class:`Plain` then turns what a program
left into plain containers and arrays.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from data_prep.contract.limits import limits, too_much
from data_prep.contract.pickle_machine import Call, Large, Machine
from data_prep.contract.raw_file import RawFile, Refusal, Span, check_shape, plain_dtype

_OBJECT = re.compile(r"[<>=|]?O[48]?")


class Dtype:
    """``numpy.dtype('f8', False, True)`` with the state that gives its byte order."""

    def __init__(self, text: Any) -> None:
        if not isinstance(text, str) or len(text) > 20:
            raise Refusal(f"a dtype made from {type(text).__name__}" if not isinstance(text, str) else f"dtype {text[:60]!r}")
        self._text, self._order = text, ""

    def set_state(self, _machine: Machine, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 5 or state[1] not in ("<", ">", "=", "|"):
            raise Refusal("a dtype in a state that is not known")
        if any(part is not None for part in state[2:5]):
            raise Refusal(f"dtype {self._text!r} with fields or parts")
        self._order = state[1]

    @property
    def is_object(self) -> bool:
        return bool(_OBJECT.fullmatch(self._text))

    @property
    def plain(self) -> np.dtype:
        """numpy's, of a kind whose bytes are only data."""
        return plain_dtype(self._order + self._text.lstrip("<>=|") if self._order in ("<", ">") else self._text)


class Array:
    """An array as its pickle tells it; :meth:`set_state` gives all but what it is."""

    def __init__(self) -> None:
        self.shape: tuple[int, ...] = ()
        self.dtype: Dtype | None = None
        self.order: Literal["C", "F"] = "C"
        self.axes: tuple[int, ...] | None = None
        self.content: Any = None

    def set_state(self, _machine: Machine, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) not in (4, 5):
            raise Refusal("an array in a state that is not known")
        shape, dtype, is_fortran, content = state[-4:]
        if not isinstance(dtype, Dtype):
            raise Refusal("an array without a dtype")
        if dtype.is_object and not isinstance(content, list):
            raise Refusal("an object array made from raw bytes")
        if not dtype.is_object and not isinstance(content, (bytes, str, Large)):
            raise Refusal("an array whose content is not bytes")
        self.shape, self.dtype, self.content = check_shape(shape), dtype, content
        self.order = "F" if is_fortran else "C"


class Tensor:
    """A tensor of torch: a window of a storage, which is a run of bytes."""

    def __init__(self, storage: Any, offset: int, shape: Any, strides: Any) -> None:
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides


class Storage:
    """Bytes of tensors. ``dtype`` is numpy's text, or ``bf16``, which becomes float32. ``content`` may be set later."""

    def __init__(self, dtype: str, num_elements: int) -> None:
        self.dtype, self.num_elements = dtype, num_elements
        self.file: RawFile | None = None
        self.content: Span | None = None
        self.big_endian = False

    @property
    def numpy(self) -> np.dtype:
        found: np.dtype = np.dtype("u2" if self.dtype == "bf16" else self.dtype).newbyteorder(">" if self.big_endian else "<")
        return found


# ---------------------------------------------------------------------------------------------- what a pickle may call


def _reconstruct(_machine: Machine, *_: Any) -> Array:
    return Array()


def _from_buffer(_machine: Machine, buffer: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> Array:
    found = Array()
    found.set_state(_machine, (shape, dtype, order == "F", buffer))
    if dtype.is_object or order not in ("C", "F", "K"):
        raise Refusal(f"an array in order {order!r}"[:80])
    if order == "K" and axes is not None:
        if not isinstance(axes, (tuple, list)) or sorted(axes) != list(range(len(found.shape))):
            raise Refusal("an array in another axis order")
        found.axes = tuple(axes)
    return found


def _dtype(_machine: Machine, text: Any, *_: Any) -> Dtype:
    return Dtype(text)


def _scalar(machine: Machine, dtype: Any, content: Any = b"") -> Any:
    if not isinstance(dtype, Dtype) or not isinstance(content, (bytes, str)):
        raise Refusal("a scalar that is not bytes of a dtype")
    raw = content.encode("latin1") if isinstance(content, str) else content
    machine.charge(len(raw))
    return machine.file.array(raw, dtype.plain, ())[()]


def _encode(machine: Machine, text: Any, encoding: Any = "latin1") -> Any:
    if encoding not in ("latin1", "latin-1") or not isinstance(text, (str, Large)):
        raise Refusal(f"text in encoding {encoding!r}"[:80])
    if isinstance(text, Large):
        return Large(text.span, "latin1" if text.kind == "text" else text.kind)
    machine.charge(len(text))
    return text.encode("latin1")


def _dict(machine: Machine, pairs: Any = ()) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    if not isinstance(pairs, (list, tuple)) or not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs):
        raise Refusal("a dict that is not made of pairs")
    machine.charge(100 * len(pairs))
    machine.fill(found, [each for pair in pairs for each in pair])
    return found


def _set(machine: Machine, items: Any = ()) -> set[Any]:
    if not isinstance(items, (list, tuple)):
        raise Refusal("a set that is not made of a list")
    machine.charge(100 * len(items))
    return set(map(machine.key, items))


def _bytes(machine: Machine, content: Any = b"", encoding: Any = "latin-1") -> Any:
    if encoding not in ("latin1", "latin-1") or not isinstance(content, (str, bytes, Large)):
        raise Refusal("bytes made from no bytes")
    return _encode(machine, content) if isinstance(content, (str, Large)) else content


def _complex(_machine: Machine, *parts: Any) -> complex:
    if not all(isinstance(part, (int, float)) for part in parts):
        raise Refusal("a complex number that is not made of numbers")
    return complex(*parts)


NUMPY: dict[tuple[str, str], Call | None] = {
    ("numpy", "ndarray"): None,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): _dict,
    ("builtins", "set"): _set,
    ("builtins", "frozenset"): lambda machine, items=(): frozenset(_set(machine, items)),
    ("builtins", "complex"): _complex,
    ("builtins", "bytearray"): _bytes,
    ("builtins", "bytes"): _bytes,
}
for _package in ("numpy.core", "numpy._core"):
    NUMPY[_package + ".multiarray", "_reconstruct"] = _reconstruct
    NUMPY[_package + ".multiarray", "scalar"] = _scalar
    NUMPY[_package + ".numeric", "_frombuffer"] = _from_buffer


# ---------------------------------------------------------------------------------------------- what becomes of it


class Plain:
    """Turns what a program left into plain containers, numbers, text and arrays; what is shared stays shared."""

    def __init__(self, file: RawFile) -> None:
        self.file = file
        self._done: dict[int, Any] = {}
        self._open: set[int] = set()
        self._decoded: dict[int, bytes] = {}
        self._pointers = 16 * limits().objects

    def of(self, value: Any, depth: int = 0) -> Any:
        """The plain value.

        Raises
        ------
        Refusal, StudyError
            Descriptions of what cannot be, other kinds, containers in themselves, a limit.
        """
        if value is None or isinstance(value, (str, bytes, int, float, complex, np.generic, set, frozenset)):
            return value
        if id(value) in self._done:
            return self._done[id(value)]
        if depth > limits().depth:
            raise too_much(self.file.path, f"nested more than {limits().depth} deep", "depth")
        if id(value) in self._open:
            raise Refusal("a container in itself")
        self._open.add(id(value))
        found = self._made(value, depth + 1)
        self._open.discard(id(value))
        self._done[id(value)] = found
        return found

    def _made(self, value: Any, depth: int) -> Any:
        if isinstance(value, Mapping):
            return {key: self.of(each, depth) for key, each in value.items()}
        if type(value) in (list, tuple):
            return type(value)(self.of(each, depth) for each in value)
        if isinstance(value, Array):
            return self._array(value, depth)
        if isinstance(value, Tensor):
            return self._tensor(value)
        if isinstance(value, Large):
            if value.span.length > limits().text_bytes:
                raise too_much(self.file.path, f"a text of {value.span.length:,} bytes", "text_bytes")
            if value.kind == "latin1":
                return self._content(value)
            raw = self.file.read(value.span)
            return raw if value.kind == "bytes" else raw.decode("latin1" if value.kind == "string" else "utf-8")
        raise Refusal(f"a {type(value).__name__.lower()} that is no value")

    def _content(self, value: Any) -> Any:
        """Bytes of an array: the place where they lie, or themselves."""
        if isinstance(value, str):
            return value.encode("latin1")
        if isinstance(value, bytes):
            return value
        if value.kind in ("bytes", "string"):
            return value.span
        # Python 3 writes protocols 0 to 2 so: every byte a character, in UTF-8.
        if value.span.offset not in self._decoded:
            self._decoded[value.span.offset] = self.file.read(value.span).decode("utf-8").encode("latin1")
        return self._decoded[value.span.offset]

    def _array(self, value: Array, depth: int) -> np.ndarray:
        if value.dtype is None:
            raise Refusal("an array without a state")
        if not value.dtype.is_object:
            found = self.file.array(self._content(value.content), value.dtype.plain, value.shape, order=value.order)
            return found if value.axes is None else found.transpose(value.axes)
        count = math.prod(value.shape)
        if len(value.content) != count:
            raise Refusal(f"an object array of shape {value.shape} from {len(value.content):,} objects")
        self._pointers -= count
        if self._pointers < 0:
            raise too_much(self.file.path, "object arrays that share too many objects", "objects")
        flat = np.empty(count, dtype=object)
        for place, each in enumerate(value.content):
            flat[place] = self.of(each, depth)
        return flat.reshape(value.shape, order=value.order)

    def _tensor(self, value: Tensor) -> np.ndarray:
        storage = value.storage
        if storage.content is None:
            raise Refusal("a tensor without its storage")
        dtype: np.dtype = storage.numpy
        if not (type(value.offset) is int and 0 <= value.offset <= storage.num_elements):
            raise Refusal("a tensor that begins outside its storage")
        shape = check_shape(value.shape)
        strides = value.strides
        if not isinstance(strides, (tuple, list)) or len(strides) != len(shape) or not all(type(s) is int and s >= 0 for s in strides):
            raise Refusal(f"a tensor of strides {strides!r}"[:200])
        start = value.offset * dtype.itemsize
        window = Span(storage.content.offset + start, storage.content.length - start)
        found: np.ndarray = storage.file.array(window, dtype, shape, strides=strides)
        if storage.dtype == "bf16":
            wide: np.ndarray = found.astype(np.uint32) << 16
            return wide.view(np.float32)
        return found
