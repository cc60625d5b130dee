"""Which names are URLs: a study may be written to one, and is read from folders alone."""

from __future__ import annotations

import os
import re
from pathlib import Path

from data_prep.contract.errors import StudyError

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]+(::|:/)")  # a path makes one slash of two; one letter is a drive


def is_url(text: str) -> bool:
    """Whether ``text`` names something by scheme: ``s3://bucket/study``, ``file:///mnt/study``."""
    return _URL.match(text) is not None and "/" in text


def refuse_url(folder: str | Path) -> None:
    """Say it, where a folder is expected and a URL was given that is none of this machine's folders.

    Raises
    ------
    StudyError
    """
    name = os.fspath(folder)
    if is_url(name) and not os.path.exists(name):
        url = name if "://" in name or "::" in name else name.replace(":/", "://", 1)
        raise StudyError(
            f"{url}: is a URL, expected a folder of this machine: copy what is there first; `shard` writes to URLs, and nothing reads them"
        )
