"""Plain arrays from files that may be damaged: whatever a broken file makes numpy or zipfile raise becomes one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_prep.contract.errors import StudyError
from data_prep.contract.words import listed, short


def read_archive(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The arrays ``names`` of an ``.npz`` of plain arrays; nothing in it is executed.

    Raises
    ------
    StudyError
        One sentence: the file is missing, truncated, altered or of another format, or lacks an array; those it has are listed.
    """
    if not path.is_file():
        raise StudyError(f"{path}: no such file")
    try:
        with np.load(path, allow_pickle=False) as file:
            have = list(file.files)
            found = {name: file[name] for name in names if name in have}
    except Exception as error:  # bad zips, checksums, headers and lengths raise a dozen kinds
        raise not_readable(path, "an archive of plain arrays (.npz)", error) from error
    missing = [name for name in names if not isinstance(found.get(name), np.ndarray)]
    if missing:
        raise StudyError(f"{path}: lacks the array {missing[0]!r}; it has {listed(have)}")
    return found


def not_readable(path: Path, wanted: str, error: BaseException) -> StudyError:
    """The sentence for a file that a library could not read."""
    return StudyError(f"{path}: not {wanted}: truncated, altered or of another format ({short(error, 120) or type(error).__name__})")
