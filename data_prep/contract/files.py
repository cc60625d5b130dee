"""Hashes, canonical JSON and atomic writes: a final name never holds half a file."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from data_prep.contract.errors import StudyError
from data_prep.contract.json_text import parse_json
from data_prep.contract.limits import limits, too_much


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys, no spaces and no NaN: the same value always gives the same bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def sha256_json(value: Any) -> str:
    """SHA-256 of :func:`canonical_json`."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def check_ordinary(path: Path) -> None:
    """Refuse what is there and no file of bytes: a pipe keeps its reader waiting, and a device has no end.

    Raises
    ------
    StudyError
    """
    if not path.is_file() and path.exists():
        raise StudyError(f"{path}: is {'a folder' if path.is_dir() else 'a pipe or a device'}, expected an ordinary file")


def refuse_links_out(folder: Path) -> None:
    """Refuse a folder of a stranger's before it is copied: a link in it would bring a file from elsewhere on this machine into the copy.

    Raises
    ------
    StudyError
    """
    inside = folder.resolve()
    for path in folder.rglob("*"):
        if path.is_symlink() and not path.resolve().is_relative_to(inside):
            raise StudyError(f"{path}: a link to {os.readlink(path)}, expected none that leads out of {folder}")


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, read in blocks."""
    check_ordinary(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` under a temporary name beside ``path``, fsync, rename: the final name never holds half a file."""
    try:
        _write_and_rename(path, data)
    except OSError as error:  # whoever asked for ``path`` knows no temporary name, and a full disk says no name at all
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def _write_and_rename(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    fsync(path.parent)


def copy_durably(source: Path, target: Path) -> None:
    """Copy a folder to the new folder ``target``, each file after fsync; a link that leads out of it is a :class:`StudyError`."""
    refuse_links_out(source)

    def copy(one: str, other: str) -> None:
        shutil.copyfile(one, other)
        fsync(Path(other))

    shutil.copytree(source, target, copy_function=copy)
    fsync(target)


def replace_folder(new: Path, final: Path) -> None:
    """Put the folder ``new`` in the place of ``final``; both lie in one folder.

    Where the file system can exchange names (Linux, local disks), there is always one under ``final``. Elsewhere there is none for a
    moment between two renames: whoever has ``new``'s source does it again after a kill.
    """
    old = final.with_name(f".{final.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if not final.exists():
        final.unlink(missing_ok=True)  # a link to what is gone
        os.rename(new, final)
    elif _exchange(new, final):
        os.rename(new, old)
    else:
        os.rename(final, old)
        os.rename(new, final)
    fsync(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Whether two names were exchanged in one step."""
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    with contextlib.suppress(OSError, AttributeError):  # another system than Linux, or a C library that lacks it
        return bool(ctypes.CDLL(None).renameat2(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0)
    return False


def fsync(path: Path) -> None:
    """Make the bytes of a file durable, or the renames inside a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """Indented, sorted JSON with a final newline, written atomically."""
    write_atomically(path, (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Parse a JSON file; a missing or broken one, or one beyond the limits, is a :class:`StudyError` naming it."""
    check_ordinary(path)
    try:
        size = path.stat().st_size
        if size > limits().json_bytes:
            raise too_much(path, f"{size:,} bytes of JSON", "json_bytes")
        return parse_json(path.read_bytes(), path)
    except FileNotFoundError as error:
        raise StudyError(f"{path}: no such file") from error
