"""Rows kept by the content they were computed from, in files that say themselves whether they are whole.

::

    CACHE/KEY/facts.json              what the rows are: model, layers, dimensions
    CACHE/KEY/SHA-256-OF-IT.npy       some hundred rows, each with the hash of its image's pixels (or of its text)

A file's name is the hash of its bytes: one that is damaged is deleted, and its rows are computed again. Files are only added, so processes
and machines that share the folder may write at once.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.contract.errors import StudyError
from data_prep.contract.files import read_json, write_atomically, write_json
from data_prep.contract.npy import read_npy
from data_prep.contract.raw_file import RawFile, Refusal, Span

KEY_BYTES = 32
"""Of a SHA-256."""


class RowCache:
    """Rows of one kind: ``width`` values of ``dtype`` each."""

    def __init__(self, folder: Path, width: int, dtype: str = "<f4") -> None:
        self.folder = folder
        self._columns = np.dtype([("key", "u1", (KEY_BYTES,)), ("row", dtype, (width,))])
        self.damaged = 0
        """Files that :meth:`load` found damaged and deleted."""

    def load(self) -> dict[bytes, np.ndarray]:
        """All rows by key."""
        rows: dict[bytes, np.ndarray] = {}
        for path in sorted(self.folder.glob("*.npy")):
            found = self._read(path)
            if found is None:
                self.damaged += 1
                path.unlink(missing_ok=True)
                continue
            rows.update(zip(map(bytes, found["key"]), found["row"], strict=True))
        return rows

    def add(self, rows: Mapping[bytes, np.ndarray]) -> None:
        """Keep rows; a killed process leaves none of a file or all."""
        if not rows:
            return
        table = np.empty(len(rows), self._columns)
        for i, (key, row) in enumerate(sorted(rows.items(), key=lambda item: item[0])):
            table[i] = np.frombuffer(key, np.uint8), row
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, table, version=(1, 0), allow_pickle=False)
        data = buffer.getvalue()
        write_atomically(self.folder / f"{hashlib.sha256(data).hexdigest()}.npy", data)

    def _read(self, path: Path) -> np.ndarray | None:
        try:
            with RawFile(path) as file:
                whole = hashlib.sha256(path.read_bytes()).hexdigest() == path.stem
                return np.array(read_npy(file, Span(0, file.size), self._columns)) if whole else None
        except (OSError, ValueError, EOFError, Refusal, StudyError):
            return None


def read_facts(folder: Path) -> dict[str, Any] | None:
    """What the rows of a folder are; None: nothing is known, or it is damaged."""
    try:
        facts = read_json(folder / "facts.json")
    except StudyError:
        return None
    return facts if isinstance(facts, dict) and isinstance(facts.get("dims"), list) and isinstance(facts.get("provenance"), list) else None


def write_facts(folder: Path, facts: Mapping[str, Any]) -> None:
    """Say what the rows of a folder are."""
    write_json(folder / "facts.json", dict(facts))


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
