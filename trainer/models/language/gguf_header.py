"""The header of a GGUF file, walked through before a library reads it: every count and length in it lies inside the file.

The library's own reader believes them: past the end of a file it reads nothing, as often as a count of 2**60 asks for.

    GGUF version | tensors, fields | fields: name, type, value | tensors: name, sizes, type, offset | padding | data
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any

from data_prep.contract.errors import CommandError
from data_prep.contract.limits import limits, too_much
from data_prep.contract.words import short

_SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a value, by its type."""
_STRING, _ARRAY = 8, 9
_MOST_AXES = 8


class _Damaged(Exception):
    """What is wrong, for a sentence."""


def check_header(file: Path) -> None:
    """Refuse a GGUF whose header does not lie inside the file, or whose tensors do not.

    Raises
    ------
    CommandError, StudyError
        One sentence naming the file, or a limit.
    """
    with file.open("rb") as handle:
        if handle.read(4) != b"GGUF":
            raise CommandError(f"{file}: not a GGUF file: it does not begin with GGUF")
        with mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as content:
            try:
                _Header(file, content).walk()
            except _Damaged as error:
                raise CommandError(f"{file}: not a whole GGUF file: {error}") from error


class _Header:
    def __init__(self, file: Path, content: mmap.mmap) -> None:
        self.file, self.content, self.size = file, content, len(content)
        self.at, self.order, self.values = 4, "<", 0

    def walk(self) -> None:
        version = self._number("I")
        if not version & 0xFFFF:
            self.order, version = ">", version >> 24
        if version not in (2, 3):
            raise _Damaged(f"version {version}, expected 2 or 3")
        tensors, fields = self._number("Q"), self._number("Q")
        for _ in range(fields):
            self._text()
            self._value(self._number("I"), 0)
        found = [self._tensor() for _ in range(tensors)]
        for name, start, num_bytes in found:
            if self.at + start + num_bytes > self.size:
                raise _Damaged(f"the tensor {short(name)} has {num_bytes:,} bytes at {start:,}, beyond the end of the file")

    def _take(self, num_bytes: int) -> int:
        """Where the next ``num_bytes`` begin; they are passed over."""
        begin, self.at = self.at, self.at + num_bytes
        if self.at > self.size:
            raise _Damaged(f"its header ends beyond the {self.size:,} bytes of the file")
        return begin

    def _number(self, kind: str) -> int:
        layout = f"{self.order}{kind}"
        (found,) = struct.unpack_from(layout, self.content, self._take(struct.calcsize(layout)))
        return int(found)

    def _text(self) -> str:
        length = self._number("Q")
        begin = self._take(length)
        if length > limits().text_bytes:
            raise too_much(self.file, f"a text of {length:,} bytes", "text_bytes")
        return self.content[begin : begin + min(length, 200)].decode("utf-8", "replace")

    def _value(self, kind: int, depth: int) -> None:
        if kind in _SCALARS:
            self._take(_SCALARS[kind])
        elif kind == _STRING:
            self._text()
        elif kind == _ARRAY:
            self._array(depth)
        else:
            raise _Damaged(f"a field of type {kind}")

    def _array(self, depth: int) -> None:
        if depth >= limits().depth:
            raise too_much(self.file, f"arrays nested {depth} deep", "depth")
        kind, count = self._number("I"), self._number("Q")
        self.values += count
        if self.values > limits().objects:
            raise too_much(self.file, f"a header of {self.values:,} values", "objects")
        if kind in _SCALARS:
            self._take(count * _SCALARS[kind])
            return
        for _ in range(count):
            self._value(kind, depth + 1)

    def _tensor(self) -> tuple[str, int, int]:
        name, axes = self._text(), self._number("I")
        if axes > _MOST_AXES:
            raise _Damaged(f"the tensor {short(name)} has {axes:,} axes")
        elements = 1
        for _ in range(axes):
            elements *= self._number("Q")
        kind, start = self._number("I"), self._number("Q")
        block, block_bytes = _quantised(kind, name)
        return name, start, elements * block_bytes // block


def _quantised(kind: int, name: str) -> tuple[int, int]:
    """Values and bytes of a block."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    sizes: dict[Any, tuple[int, int]] = GGML_QUANT_SIZES
    try:
        return sizes[GGMLQuantizationType(kind)]
    except (ValueError, KeyError) as error:
        raise _Damaged(f"the tensor {short(name)} is of type {kind}") from error
