"""Uncompressed USTAR members whose bytes depend on nothing but their name and content, and a strict reader of them.

A member is a 512-byte header and its content padded with zeros to 512 bytes; two zero blocks end the archive. Owner,
group and time are 0 and the mode is 644, so the same samples give the same tar on every machine.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from data_prep.contract.errors import StudyError

BLOCK_BYTES = 512
END = bytes(2 * BLOCK_BYTES)


def member_header(name: str, size: int) -> bytes:
    """The 512 bytes before the content of a regular file."""
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode, info.uid, info.gid, info.uname, info.gname = size, 0, 0o644, 0, 0, "", ""
    return info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")


def padding(size: int) -> bytes:
    """Zeros after content of ``size`` bytes."""
    return bytes(-size % BLOCK_BYTES)


def npy_header(array: np.ndarray) -> bytes:
    """The npy (version 1.0) header of a C-ordered array."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, np.lib.format.header_data_from_array_1_0(array))
    return buffer.getvalue()


def npy_bytes(array: np.ndarray) -> bytes:
    """A whole npy file."""
    array = np.ascontiguousarray(array)
    return npy_header(array) + array.tobytes()


def parse_npy_header(data: bytes, where: str) -> tuple[tuple[int, ...], np.dtype, int]:
    """Shape, dtype and header length of npy bytes; anything but a plain C-ordered array is a :class:`StudyError`."""
    buffer = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(buffer)
        if version != (1, 0):
            raise ValueError(f"npy version {version}")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(buffer)
    except Exception as error:  # a damaged header raises what its parser does
        raise StudyError(f"{where}: not an npy array of version 1.0 ({error})") from error
    if fortran or dtype.hasobject:
        raise StudyError(f"{where}: expected a C-ordered array of numbers, found dtype {dtype}{', Fortran order' if fortran else ''}")
    return shape, dtype, buffer.tell()


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
            try:
                info = tarfile.TarInfo.frombuf(header, "ascii", "strict")
            except (tarfile.HeaderError, UnicodeDecodeError) as error:
                raise StudyError(f"{path}: altered: bad tar header at byte {offset} ({error})") from error
            if not info.isreg() or header[257:263] != b"ustar\0":
                raise StudyError(f"{path}: member {info.name!r} is not a regular USTAR file")
            start = offset + BLOCK_BYTES
            if start + info.size > total:
                raise StudyError(f"{path}: truncated: member {info.name!r} needs {info.size} bytes at byte {start}, the file has {total}")
            yield info.name, start, info.size
            offset = start + info.size + len(padding(info.size))


def _read_at(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)
