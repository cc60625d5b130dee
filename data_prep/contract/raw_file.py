"""A file as bytes at offsets, and arrays over them that *our* code describes: checked first, mapped where they are large.

Every reader of arrays (``.npy``, ``.npz``, pickles, torch files) ends in :meth:`RawFile.array`; none hands bytes to numpy otherwise.
"""

from __future__ import annotations

import math
import mmap
import os
import re
import socket
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from data_prep.contract.errors import StudyError

MAPPED_BYTES = 2**24
"""Arrays from here on stay in the file (read-only); smaller ones are copied."""
LARGE_BYTES = 2**16
"""Payloads from here on are left where they are while a file is understood."""
MOST_EMPTY = 2**24
"""Largest side of an array that has no element."""
MAX_NDIM = 32
_CHUNK = 2**22
_PLAIN = re.compile(r"[<>=|]?(?:b1|\?|[iu][1248]|f(?:2|4|8|16)|c(?:8|16|32)|[SU][1-9][0-9]{0,6})")


class Refusal(Exception):
    """What a file asked for that it may not have; the reader that knows the file makes a sentence of it."""


@dataclass(frozen=True)
class Span:
    """A run of bytes in a file."""

    offset: int
    length: int


def plain_dtype(text: object) -> np.dtype:
    """The dtype of a text such as ``<f4``, whose bytes are only data: numbers, bytes or text; a refusal for any other."""
    if not isinstance(text, str) or not _PLAIN.fullmatch(text):
        raise Refusal(f"dtype {text!r}"[:200])
    return np.dtype(text)


def check_shape(shape: object) -> tuple[int, ...]:
    """``shape`` as a tuple of sizes that an array can have."""
    if not isinstance(shape, (tuple, list)) or len(shape) > MAX_NDIM or not all(type(side) is int and side >= 0 for side in shape):
        raise Refusal(f"an array of shape {shape!r}"[:200])
    if not math.prod(shape) and max(shape, default=0) > MOST_EMPTY:
        raise Refusal(f"an array of shape {tuple(shape)} without elements"[:200])
    return tuple(shape)


class MappedFile(mmap.mmap):
    """A whole file, mapped to be read. Another process, on this host or one that sees the file, maps it anew when it is sent there."""

    path: str
    state: tuple[int, int]
    """Bytes, and nanoseconds of the last change."""

    @classmethod
    def of(cls, path: Path, handle: int) -> MappedFile:
        """Map the file that ``handle`` has open."""
        found = os.fstat(handle)
        mapped = cls(handle, found.st_size, access=mmap.ACCESS_READ)
        mapped.path, mapped.state = os.path.abspath(path), (found.st_size, found.st_mtime_ns)
        return mapped

    def __reduce__(self) -> tuple[Callable[..., MappedFile], tuple[str, tuple[int, int]]]:
        return _mapped_again, (self.path, self.state)


def _mapped_again(path: str, state: tuple[int, int]) -> MappedFile:
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise StudyError(
            f"{path}: not seen on {socket.gethostname()} ({error.strerror}), expected a file that all workers share"
        ) from error
    try:
        mapped = MappedFile.of(Path(path), handle) if os.fstat(handle).st_size else None
    finally:
        os.close(handle)
    if mapped is None or mapped.state != state:
        raise StudyError(f"{path}: changed while it was read, expected the file that was opened: shard the study anew")
    return mapped


class RawFile:
    """A file, or bytes that were unpacked from one; its arrays keep it open. Arrays of ``mapped_bytes`` or more stay in it."""

    def __init__(self, path: Path, content: bytes | None = None, *, mapped_bytes: int = MAPPED_BYTES) -> None:
        self.path = path
        self.mapped_bytes = mapped_bytes
        self._handle: int | None = None
        self._buffer: bytes | mmap.mmap
        if content is not None:
            self._buffer = content
            return
        self._handle = os.open(path, os.O_RDONLY)
        try:
            size = os.fstat(self._handle).st_size
            self._buffer = MappedFile.of(path, self._handle) if size else b""
        except BaseException:
            os.close(self._handle)
            self._handle = None
            raise

    def __enter__(self) -> RawFile:
        return self

    def __exit__(self, *_error: object) -> None:
        if self._handle is not None:
            os.close(self._handle)  # mapped arrays hold the mapping
            self._handle = None

    @property
    def size(self) -> int:
        """Bytes in all."""
        return len(self._buffer)

    @property
    def buffer(self) -> bytes | mmap.mmap:
        """All bytes, where single ones are wanted quickly; runs of many are read (:meth:`read`)."""
        return self._buffer

    def read(self, span: Span) -> bytes:
        """The bytes of ``span``."""
        if span.length < 0 or span.offset < 0 or span.offset + span.length > self.size:
            raise EOFError(f"{span.length:,} bytes from byte {span.offset:,} of {self.size:,}")
        if self._handle is None or span.length < _CHUNK:
            return bytes(self._buffer[span.offset : span.offset + span.length])
        return b"".join(self._chunks(span))

    def crc32(self, span: Span) -> int:
        """CRC-32 of ``span``; the bytes do not stay in memory."""
        found = 0
        for chunk in self._chunks(span):
            found = zlib.crc32(chunk, found)
        return found

    def _chunks(self, span: Span) -> Iterator[bytes]:
        position, end = span.offset, span.offset + span.length
        while position < end:
            size = min(_CHUNK, end - position)
            # Read, not mapped: pages of a mapping that were touched count as this process's memory.
            chunk = self._buffer[position : position + size] if self._handle is None else os.pread(self._handle, size, position)
            if not chunk:
                raise EOFError(f"ends at byte {position:,} of {end:,}: it became shorter while it was read")
            yield chunk
            position += len(chunk)

    def find(self, what: bytes, start: int, end: int) -> int:
        """Where ``what`` first stands in ``[start, end)``; -1 where it does not."""
        return self._buffer.find(what, start, end)

    def array(
        self, content: Span | bytes, dtype: np.dtype, shape: object, *, order: Literal["C", "F"] = "C", strides: Sequence[int] | None = None
    ) -> np.ndarray:
        """An array over ``content``, which must be exactly its bytes (with ``strides``, in elements: must hold them).

        Large ones are mapped and read-only, small ones are copies.

        Raises
        ------
        Refusal
            A shape that no array has, bytes that do not fit it, text that holds no characters.
        """
        sides = check_shape(shape)
        length = content.length if isinstance(content, Span) else len(content)
        count = math.prod(sides)
        if strides is None:
            if count * dtype.itemsize != length:
                raise Refusal(f"an array of shape {sides} and dtype {dtype.str} from {length:,} bytes, expected {count * dtype.itemsize:,}")
        else:
            last = sum((side - 1) * stride for side, stride in zip(sides, strides, strict=True)) if count else -1
            if (last + 1) * dtype.itemsize > length or count * dtype.itemsize > max(length, LARGE_BYTES):
                raise Refusal(f"a tensor of shape {sides} and strides {tuple(strides)} from {length:,} bytes, which do not hold it")
        if isinstance(content, Span) and content.offset + length > self.size:
            raise EOFError(f"an array of {length:,} bytes from byte {content.offset:,} of {self.size:,}")
        if isinstance(content, Span) and length < self.mapped_bytes:
            content = self.read(content)
        buffer, offset = (self._buffer, content.offset) if isinstance(content, Span) else (content, 0)
        steps = None if strides is None else [stride * dtype.itemsize for stride in strides]
        if not count:
            return np.empty(sides, dtype)
        found: np.ndarray = np.ndarray(sides, dtype, buffer, offset, steps, order if steps is None else None)
        _check_characters(found)
        return found if length >= self.mapped_bytes else found.copy(order="K")


def _check_characters(array: np.ndarray) -> None:
    if array.dtype.kind != "U":
        return
    codes = np.frombuffer(array.tobytes(), np.dtype(np.uint32).newbyteorder(array.dtype.byteorder))
    if codes.max() > 0x10FFFF or ((codes >= 0xD800) & (codes <= 0xDFFF)).any():
        raise Refusal("text of characters that there are not")
