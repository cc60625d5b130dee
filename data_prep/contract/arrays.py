"""Plain arrays from files that may be damaged or hostile: whatever a file holds instead becomes one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.contract.errors import StudyError
from data_prep.contract.npy import MAGIC, read_npy
from data_prep.contract.raw_file import MAPPED_BYTES, RawFile, Refusal, Span
from data_prep.contract.words import listed, short
from data_prep.contract.zip_file import ZipMembers


def read_array(path: Path, columns: np.dtype[Any] | None = None, *, mapped: bool = False, mapped_bytes: int = MAPPED_BYTES) -> np.ndarray:
    """The array of an ``.npy``: numbers or text, or, where ``columns`` are given, a table of exactly those.

    Parameters
    ----------
    mapped
        Arrays of ``mapped_bytes`` or more may stay in the file; they are read-only.

    Raises
    ------
    StudyError
        One sentence: the file is missing, truncated, altered or of another format, or holds something else.
    """
    if not path.is_file():
        raise StudyError(f"{path}: no such file")
    with RawFile(path, mapped_bytes=mapped_bytes) as file:
        try:
            found = read_npy(file, Span(0, file.size), columns)
            return found if mapped else np.array(found)
        except Refusal as refusal:
            wanted = "plain numbers or text" if columns is None else f"the columns {listed(columns.names or ())}"
            raise StudyError(f"{path}: holds {refusal}, expected {wanted}") from refusal
        except Exception as error:  # a damaged file can raise anything
            raise not_readable(path, "an array (.npy)", error) from error


def read_archive(path: Path, names: Sequence[str] | None = None, *, mapped: bool = False) -> dict[str, np.ndarray]:
    """The arrays ``names`` of an ``.npz`` of plain arrays, or all; nothing in it is executed. ``mapped``: as :func:`read_array`.

    Raises
    ------
    StudyError
        One sentence: the file is missing, truncated, altered or of another format, or lacks an array; those it has are listed.
    """
    if not path.is_file():
        raise StudyError(f"{path}: no such file")
    found = {}
    with RawFile(path) as file:
        try:
            if file.read(Span(0, min(6, file.size))) == MAGIC:
                raise ValueError("one array, a .npy")
            members = ZipMembers(file)
            have = [name.removesuffix(".npy") for name in members.names if name.endswith(".npy")]
            for name in have if names is None else [name for name in names if name in have]:
                member = members.member(f"{name}.npy")
                array = read_npy(member.file, member.span)
                found[name] = array if mapped else np.array(array)
        except Refusal as refusal:
            raise StudyError(f"{path}: not an archive of plain arrays (.npz): it holds {refusal}") from refusal
        except StudyError:
            raise
        except Exception as error:  # bad zips, checksums, headers and lengths raise a dozen kinds
            raise not_readable(path, "an archive of plain arrays (.npz)", error) from error
    missing = [name for name in names or () if name not in found]
    if missing:
        raise StudyError(f"{path}: lacks the array {missing[0]!r}; it has {listed(have)}")
    return found


def not_readable(path: Path, wanted: str, error: BaseException) -> StudyError:
    """The sentence for a file that a library could not read."""
    return StudyError(f"{path}: not {wanted}: truncated, altered or of another format ({short(error, 120) or type(error).__name__})")
