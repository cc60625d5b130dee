"""Archives, unpacked as if a stranger had made them: plain files inside one folder, no links, of a bounded size."""

from __future__ import annotations

import os
import re
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from data_prep.contract.errors import StudyError
from data_prep.contract.limits import limits, too_much
from data_prep.contract.words import short

ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
RATIO = 20
"""An archive may unpack to this many times its size, or to ``file_limits.unpacked_bytes`` if that is more."""
_CHUNK = 2**20

Member = tuple[str, int, Callable[[], IO[bytes]]]
"""Name, bytes, and how to open it."""


def folder_of(archive: Path) -> Path | None:
    """Where ``archive`` is unpacked to: beside it, named as it is; None: it is no archive."""
    lower = archive.name.lower()
    ending = next((ending for ending in sorted(ENDINGS, key=len, reverse=True) if lower.endswith(ending)), None)
    return None if ending is None or len(archive.name) == len(ending) else archive.with_name(archive.name[: -len(ending)])


def unpack(archive: Path) -> Path:
    """Unpack beside the archive, into a folder of its name; where all of it lies in one folder of that name, that is it.

    Returns
    -------
    Path
        The folder, which was not there before.

    Raises
    ------
    StudyError
        A member that leads out of the folder, a link, an encrypted one, more bytes than allowed, a damaged archive, or a full disk.
    """
    target = folder_of(archive)
    assert target is not None
    if target.exists():
        raise StudyError(f"{target}: is there already, expected no folder of that name: move it away to unpack {archive.name} again")
    scratch = archive.with_name(f".{target.name}.unpacking")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    try:
        _into(archive, scratch)
        inner = [path for path in scratch.iterdir() if path.name != "__MACOSX"]
        whole = inner[0] if len(inner) == 1 and inner[0].is_dir() and inner[0].name == target.name else scratch
        os.replace(whole, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _into(archive: Path, folder: Path) -> None:
    size = archive.stat().st_size
    most = max(limits().unpacked_bytes, RATIO * size)
    count, unpacked = 0, 0
    seen: set[str] = set()
    try:
        for name, length, opened in _members(archive):
            count += 1
            if count > limits().members:
                raise too_much(archive, f"an archive of more than {limits().members:,} members", "members")
            unpacked += length
            if unpacked > most:
                raise too_much(archive, f"an archive of {size:,} bytes that unpacks to more than {most:,}", "unpacked_bytes")
            if shutil.disk_usage(folder).free < length + 2**26:
                raise StudyError(f"{folder.parent}: no room for {short(name)!r} of {archive.name}, which has {length:,} bytes")
            path = folder / _plain_name(archive, name, seen)
            path.parent.mkdir(parents=True, exist_ok=True)
            with opened() as source, path.open("xb") as out:
                _copy(archive, name, source, out, length)
    except StudyError:
        raise
    except Exception as error:  # archives and what decompresses them raise a dozen kinds where they are damaged
        raise StudyError(f"{archive}: cannot be unpacked ({short(error, 160)})") from error


def _copy(archive: Path, name: str, source: IO[bytes], out: IO[bytes], length: int) -> None:
    """Exactly ``length`` bytes: what an archive says of its members need not be so."""
    left = length
    while chunk := source.read(min(_CHUNK, left + 1)):
        left -= len(chunk)
        if left < 0:
            raise StudyError(f"{archive}: {short(name)!r} unpacks to more than the {length:,} bytes that it says")
        out.write(chunk)
    if left:
        raise StudyError(f"{archive}: {short(name)!r} unpacks to {length - left:,} bytes, it says {length:,}")


def _plain_name(archive: Path, name: str, seen: set[str]) -> PurePosixPath:
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or re.search(r"[\\\x00-\x1f\x7f]|^[A-Za-z]:", name) or len(name) > 1024:
        raise StudyError(f"{archive}: holds {short(name)!r}, expected names inside one folder")
    path = PurePosixPath(*parts)
    if path.as_posix().casefold() in seen:
        raise StudyError(f"{archive}: holds {short(name)!r} twice")
    seen.add(path.as_posix().casefold())
    return path


def _members(archive: Path) -> Iterator[Member]:
    return _of_zip(archive) if archive.name.lower().endswith(".zip") else _of_tar(archive)


def _of_zip(archive: Path) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as content:
        for info in content.infolist():
            if info.is_dir():
                continue
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG):
                raise StudyError(f"{archive}: {short(info.filename)!r} is a link or a device, expected plain files")
            if info.flag_bits & 0x1:
                raise StudyError(f"{archive}: is encrypted: unpack it by hand with the password that its page tells")
            yield info.filename, info.file_size, lambda info=info: content.open(info)  # type: ignore[misc]


def _of_tar(archive: Path) -> Iterator[Member]:
    with tarfile.open(archive) as content:
        for info in content:
            if info.isdir():
                continue
            if not info.isreg() or info.issparse():
                raise StudyError(f"{archive}: {short(info.name)!r} is a link or a device, expected plain files")
            yield info.name, info.size, lambda info=info: _file_of(content, info)  # type: ignore[misc]


def _file_of(content: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    found = content.extractfile(info)
    assert found is not None
    return found
