"""How embeddings are computed, where the result does not hang on it: where rows are kept for the next time, by how many processes."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from data_prep.contract.errors import StudyError, sentence_of

VARIABLE = "EEGVISION_EMBED_CACHE"
"""Environment variable with the folder of the cache; ``off`` keeps nothing."""


@dataclass(frozen=True, kw_only=True)
class Running:
    """See the module."""

    cache: str | None = None
    """Folder; None: :data:`VARIABLE`, else ``eegvision/embeddings`` in the user's cache folder; ``off``: nothing is kept."""
    processes: int = 1
    """Processes that share the images; 0: one for each visible GPU, else one."""
    part: tuple[int, int] | None = None
    """(i, n): only the i-th of n shares is computed, into the cache, and no table is made."""


_running: ContextVar[Running] = ContextVar("running", default=Running())  # noqa: B039 - frozen


def running() -> Running:
    """How this thread was asked to run."""
    return _running.get()


@contextlib.contextmanager
def using(how: Running) -> Iterator[None]:
    """Embeddings computed inside are computed so."""
    token = _running.set(how)
    try:
        yield
    finally:
        _running.reset(token)


@contextlib.contextmanager
def cache_folder() -> Iterator[Path]:
    """A folder to keep rows in; one that is gone afterwards where nothing is to be kept.

    Raises
    ------
    StudyError
        A folder that was asked for and cannot be made.
    """
    asked = running().cache or os.environ.get(VARIABLE) or ""
    folder = default_folder() if not asked else None if asked == "off" else Path(asked)
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
            yield folder
            return
        except OSError as error:
            if asked:
                raise StudyError(
                    f"{folder}: cannot be the cache of embeddings ({sentence_of(error)}), expected a folder to write in"
                ) from error
    with tempfile.TemporaryDirectory(prefix="eegvision-embeddings-") as temporary:
        yield Path(temporary)


def default_folder() -> Path:
    """Where rows are kept unless somebody says otherwise."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "eegvision" / "embeddings"


class PartDone(Exception):
    """This process's share is in the cache; whoever makes the table runs without ``part``."""
