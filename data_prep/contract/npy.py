"""The ``.npy`` format: its header, read by rules instead of by Python's parser, and the array behind it."""

from __future__ import annotations

import ast
import re
import struct
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from data_prep.contract.raw_file import RawFile, Refusal, Span, check_shape, plain_dtype

MAGIC = b"\x93NUMPY"
_MOST_BYTES = 2**16
_LITERAL = re.compile(r"[\w\s{}()\[\],:.'\"<>|=?-]*")
_OPENING, _CLOSING = "([{", ")]}"
_MOST_DEEP = 6


@dataclass(frozen=True)
class Header:
    """What an array's header says, unchecked but for its form."""

    shape: tuple[int, ...]
    descr: Any
    order: Literal["C", "F"]
    end: int
    """First byte after the header."""


def read_header(file: RawFile, span: Span) -> Header:
    """The header at the start of ``span``.

    Raises
    ------
    Refusal
        A shape that no array has.
    ValueError, EOFError, struct.error
        No header, or a damaged one.
    """
    start = file.read(Span(span.offset, min(12, span.length)))
    if start[:6] != MAGIC or start[6] not in (1, 2, 3):
        raise ValueError("no header of an array, or of a version that is not known")
    layout, first = ("<H", 10) if start[6] == 1 else ("<I", 12)
    (length,) = struct.unpack(layout, start[8:first])
    if length > min(_MOST_BYTES, span.length - first):
        raise ValueError(f"a header of {length:,} bytes")
    text = file.read(Span(span.offset + first, length)).decode("utf-8" if start[6] == 3 else "latin1")
    found = _literal(re.sub(r"(\d)L\b", r"\1", text).strip())  # Python 2 wrote (24L, 8L)
    if not isinstance(found, dict) or found.keys() != {"descr", "fortran_order", "shape"} or type(found["fortran_order"]) is not bool:
        raise ValueError("a header without descr, fortran_order and shape")
    return Header(check_shape(found["shape"]), found["descr"], "F" if found["fortran_order"] else "C", span.offset + first + length)


def _literal(text: str) -> Any:
    depth = 0
    for character in text:
        depth += (character in _OPENING) - (character in _CLOSING)
        if not 0 <= depth <= _MOST_DEEP:
            raise ValueError("a header whose brackets are not those of an array")
    if not _LITERAL.fullmatch(text) or "--" in text:
        raise ValueError("a header that is no literal")
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError("a header that is no literal") from error


def read_npy(file: RawFile, span: Span, columns: np.dtype | None = None) -> np.ndarray:
    """The array in ``span``: numbers, bytes or text, or, where ``columns`` are given, a table of exactly those.

    Raises
    ------
    Refusal
        Another dtype, a shape that does not fit the bytes.
    ValueError, EOFError, struct.error
        Damaged.
    """
    header = read_header(file, span)
    dtype = plain_dtype(header.descr) if columns is None else columns
    if columns is not None and header.descr != np.lib.format.dtype_to_descr(columns):
        raise Refusal(f"columns {header.descr!r}"[:200])
    if columns is not None and columns.hasobject:
        raise Refusal("objects")
    content = Span(header.end, span.offset + span.length - header.end)
    return file.array(content, dtype, header.shape, order=header.order)
