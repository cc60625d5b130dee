"""Names of the variables of a MATLAB 5 file, without a library: nothing but names is unpacked, so that a damaged file costs nothing.

A file is a header of 128 bytes and elements: a tag (kind, bytes) and content. A variable is an element of kind 14, alone or packed in
one of kind 15; its content begins with elements of its flags, its sides and its name (MathWorks, "MAT-File Format").
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import BinaryIO

from data_prep.contract.errors import StudyError

_HEADER_BYTES = 128
_MATRIX, _PACKED = 14, 15
_MOST_VARIABLES = 10_000
_START_BYTES = 1024
"""Of a variable: more than its flags, sides and name need."""


def mat_names(file: Path) -> list[str]:
    """Names in their order.

    Raises
    ------
    StudyError
        It is not whole.
    """
    try:
        with file.open("rb") as stream:
            return _names(stream, file.stat().st_size)
    except (struct.error, zlib.error, ValueError) as error:
        raise StudyError(f"{file}: not a whole MAT file ({error})") from error


def _names(stream: BinaryIO, size: int) -> list[str]:
    order = {b"IM": "<", b"MI": ">"}.get(stream.read(_HEADER_BYTES)[-2:])
    if order is None:
        raise ValueError("its header does not say the order of bytes")
    names: list[str] = []
    while (at := stream.tell()) < size:
        kind, length = struct.unpack(f"{order}II", stream.read(8))
        if kind not in (_MATRIX, _PACKED) or at + 8 + length > size:
            raise ValueError(f"an element of kind {kind} with {length:,} bytes at byte {at:,} of {size:,}")
        start = stream.read(min(length, _START_BYTES))
        if kind == _PACKED:
            start = zlib.decompressobj().decompress(start, _START_BYTES)[8:]
        names.append(_name(start, order))
        if len(names) > _MOST_VARIABLES:
            raise ValueError(f"more than {_MOST_VARIABLES:,} variables")
        stream.seek(at + 8 + length)
    return names


def _name(start: bytes, order: str) -> str:
    at = 0
    for _ in range(2):  # flags and sides
        (length,) = struct.unpack_from(f"{order}I", start, at + 4)
        at += 8 + -(-length // 8) * 8
    kind, length = struct.unpack_from(f"{order}II", start, at)
    if kind >> 16:  # an element of at most four bytes: its length and kind in one word
        return start[at + 4 : at + 4 + (kind >> 16)].decode("latin-1")
    return start[at + 8 : at + 8 + length].decode("latin-1")
