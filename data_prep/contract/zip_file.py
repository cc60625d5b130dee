"""Members of a zip archive as bytes at offsets: stored ones stay in the file, compressed ones unpack to a bounded size."""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from dataclasses import dataclass

from data_prep.contract.limits import limits, too_much
from data_prep.contract.raw_file import RawFile, Span

_HEADER = 30
_RATIO = 20


@dataclass(frozen=True)
class Member:
    """One member: where its bytes lie in ``file``."""

    file: RawFile
    span: Span


class ZipMembers:
    """An archive's members by name, each checked (sizes, CRC-32) when it is first asked for.

    Parameters
    ----------
    unchecked_bytes
        Stored members of this size or more are not read for their CRC-32: :meth:`check` does it when their content is wanted.

    Raises
    ------
    StudyError
        A limit.
    Exception
        Of several kinds: no archive, damaged, encrypted, members that overlap or have one name.
    """

    def __init__(self, file: RawFile, *, unchecked_bytes: float = math.inf) -> None:
        self.file = file
        self._unchecked_bytes = unchecked_bytes
        with zipfile.ZipFile(file.path) as archive:
            infos = archive.infolist()
        if len(infos) > limits().members:
            raise too_much(file.path, f"an archive of {len(infos):,} members", "members")
        self._infos = {info.filename: info for info in infos}
        if len(self._infos) != len(infos):
            raise ValueError("two members of one name")
        if sum(info.compress_size for info in infos) > file.size:
            raise ValueError("members that overlap")
        unpacked = sum(info.file_size for info in infos if info.compress_type != zipfile.ZIP_STORED)
        if unpacked > max(limits().unpacked_bytes, _RATIO * file.size):
            raise too_much(file.path, f"an archive of {file.size:,} bytes that unpacks to {unpacked:,}", "unpacked_bytes")

    @property
    def names(self) -> list[str]:
        """Names of the members, in order."""
        return list(self._infos)

    def member(self, name: str) -> Member:
        """The bytes of one member."""
        info = self._infos[name]
        if info.flag_bits & 0x1:
            raise ValueError("an encrypted member")
        head = self.file.read(Span(info.header_offset, _HEADER))
        if head[:4] != b"PK\x03\x04":
            raise ValueError("a member without its header")
        name_bytes, extra_bytes = struct.unpack("<HH", head[26:30])
        own = self.file.read(Span(info.header_offset + _HEADER, name_bytes))
        if own.decode("utf-8" if info.flag_bits & 0x800 else "cp437") != info.orig_filename:
            raise ValueError("a member of two names")
        start = info.header_offset + _HEADER + name_bytes + extra_bytes
        packed = Span(start, info.compress_size)
        if info.compress_type == zipfile.ZIP_STORED:
            if info.file_size != info.compress_size or start + info.file_size > self.file.size:
                raise ValueError("a stored member of two sizes")
            found = Member(self.file, packed)
        elif info.compress_type == zipfile.ZIP_DEFLATED:
            content = zlib.decompressobj(-15).decompress(self.file.read(packed), info.file_size + 1)
            if len(content) != info.file_size:
                raise ValueError(f"a member of {info.file_size:,} bytes unpacks to {'more' if len(content) > info.file_size else 'fewer'}")
            found = Member(RawFile(self.file.path, content), Span(0, len(content)))
        else:
            raise ValueError(f"a member compressed by method {info.compress_type}")
        if found.file is not self.file or packed.length < self._unchecked_bytes:
            _check_crc(found, info)
        return found

    def check(self) -> None:
        """Read every stored member that :meth:`member` left unread, and check its CRC-32."""
        for name, info in self._infos.items():
            if info.compress_type == zipfile.ZIP_STORED and info.file_size >= self._unchecked_bytes:
                _check_crc(self.member(name), info)


def _check_crc(member: Member, info: zipfile.ZipInfo) -> None:
    if member.file.crc32(member.span) != info.CRC:
        raise ValueError(f"bad CRC-32 of {info.filename[:60]!r}")
