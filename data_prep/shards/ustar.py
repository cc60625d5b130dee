"""Uncompressed USTAR members whose bytes depend on nothing but their name and content, and a strict reader of them.

A member is a 512-byte header and its content padded with zeros to 512 bytes; two zero blocks end the archive. Owner,
group and time are 0 and the mode is 644, so the same samples give the same tar on every machine.
"""

from __future__ import annotations

import functools
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from data_prep.contract.errors import StudyError

BLOCK_BYTES = 512
END = bytes(2 * BLOCK_BYTES)
_FIXED = (slice(100, 124), slice(135, 148), slice(156, BLOCK_BYTES))
"""Mode, owner and group; the end of the size, and the time; kind, magic and all else."""


def member_header(name: str, size: int) -> bytes:
    """The 512 bytes before the content of a regular file."""
    if len(name) > 100 or not name.isascii() or not 0 < size < 8**11:
        return _header(name, size)
    fixed, title, digits = _fixed_header(), name.encode(), b"%011o" % size
    checksum = b"%06o\0 " % (_checksum_of_others() + sum(title) + sum(digits))
    return b"".join((title.ljust(100, b"\0"), fixed[100:124], digits, fixed[135:148], checksum, fixed[156:]))


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode, info.uid, info.gid, info.uname, info.gname = size, 0, 0o644, 0, 0, "", ""
    return info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")


@functools.cache
def _fixed_header() -> bytes:
    return _header("any", 0)


@functools.cache
def _checksum_of_others() -> int:
    """Of all that does not vary."""
    fixed = bytearray(_fixed_header())
    fixed[:100], fixed[124:135] = bytes(100), bytes(11)
    return _checksum(fixed)


def _checksum(header: bytes | bytearray) -> int:
    return sum(header) - sum(header[148:156]) + 8 * ord(" ")


def padding(size: int) -> bytes:
    """Zeros after content of ``size`` bytes."""
    return bytes(-size % BLOCK_BYTES)


def npy_header(array: np.ndarray) -> bytes:
    """The npy (version 1.0) header of a C-ordered array."""
    assert array.flags.c_contiguous
    return _header_of(array.dtype, array.shape)


@functools.lru_cache(maxsize=256)
def _header_of(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    facts = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, facts)
    return buffer.getvalue()


def npy_bytes(array: np.ndarray) -> bytes:
    """A whole npy file."""
    array = np.ascontiguousarray(array)
    return npy_header(array) + array.tobytes()


def parse_npy_header(data: bytes, where: str) -> tuple[tuple[int, ...], np.dtype, int]:
    """Shape, dtype and header length of npy bytes; anything but a plain C-ordered array is a :class:`StudyError`."""
    try:
        # Whole studies have a few headers in all: what is told apart is the header alone, not the numbers behind it.
        shape, fortran, dtype, length = _npy_header(data[: 10 + int.from_bytes(data[8:10], "little")])
    except Exception as error:  # a damaged header raises what its parser does
        raise StudyError(f"{where}: not an npy array of version 1.0 ({error})") from error
    if fortran or dtype.hasobject:
        raise StudyError(f"{where}: expected a C-ordered array of numbers, found dtype {dtype}{', Fortran order' if fortran else ''}")
    return shape, dtype, length


@functools.lru_cache(maxsize=256)
def _npy_header(data: bytes) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    buffer = io.BytesIO(data)
    version = np.lib.format.read_magic(buffer)
    if version != (1, 0):
        raise ValueError(f"npy version {version}")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(buffer)
    return shape, fortran, dtype, buffer.tell()


def read_members(path: Path) -> Iterator[tuple[str, int, int]]:
    """Walk a tar: name, first byte of the content, and size of every member.

    Raises
    ------
    StudyError
        The tar ends early, a header's checksum is wrong, a member is no regular file, or there are no end blocks.
    """
    with path.open("rb") as file:
        total = file.seek(0, io.SEEK_END)
        offset = 0
        while True:
            header = _read_at(file, offset, BLOCK_BYTES)
            if len(header) < BLOCK_BYTES:
                raise StudyError(f"{path}: truncated: it ends at byte {total}, expected a tar header or end blocks at byte {offset}")
            if header == END[:BLOCK_BYTES]:
                if _read_at(file, offset, len(END)) != END:
                    raise StudyError(f"{path}: truncated: one of the two end blocks is missing")
                return
            name, size = _plain_header(header) or _any_header(header, path, offset)
            start = offset + BLOCK_BYTES
            if start + size > total:
                raise StudyError(f"{path}: truncated: member {name!r} needs {size} bytes at byte {start}, the file has {total}")
            yield name, start, size
            offset = start + size + -size % BLOCK_BYTES


def _plain_header(header: bytes) -> tuple[str, int] | None:
    """Name and size of a member of ours, in whose header nothing else varies; None: :func:`_any_header` says what it is."""
    name, size, fixed = header[:100].rstrip(b"\0"), header[124:135], _fixed_header()
    if any(header[part] != fixed[part] for part in _FIXED) or not (name.isascii() and size.isdigit()) or b"\0" in name or not name:
        return None
    if max(size) > ord("7"):
        return None
    return (name.decode("ascii"), int(size, 8)) if header[148:156] == b"%06o\0 " % _checksum(header) else None


def _any_header(header: bytes, path: Path, offset: int) -> tuple[str, int]:
    try:
        info = tarfile.TarInfo.frombuf(header, "ascii", "strict")
    except (tarfile.HeaderError, UnicodeDecodeError) as error:
        raise StudyError(f"{path}: altered: bad tar header at byte {offset} ({error})") from error
    if not info.isreg() or header[257:263] != b"ustar\0":
        raise StudyError(f"{path}: member {info.name!r} is not a regular USTAR file")
    return info.name, info.size


def _read_at(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)
