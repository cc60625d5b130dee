"""Evaluation results as frozen dataclasses: one writer and one reader for what lies on disk.

::

    Results -> plain (JSON as it is written) -> NAME.json, with NAME.html beside it -> read_results -> Results

How a record lies on disk: :mod:`data_prep.contract.records`. A score that is not a finite number (JSON has none such) is written
as null, and a note says which.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from data_prep.contract.errors import CommandError
from data_prep.contract.files import read_json, write_atomically, write_json
from data_prep.contract.records import from_json, to_json
from data_prep.contract.seal import seal
from data_prep.contract.words import listed

FORMAT_VERSION = 1
R = TypeVar("R", bound="Results")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Score:
    """One number of a table with its 95 % interval."""

    value: float | None
    """None: it is no finite number; a note of the results says so."""
    low: float | None = None
    high: float | None = None
    """None: no interval is known."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """What every evaluation says."""

    format_version: int = FORMAT_VERSION
    kind: str
    """Which table this is: ``retrieval``, ``classes`` (a class-level study), ``concepts`` or ``text``."""
    notes: tuple[str, ...]
    """Sentences that belong to the numbers."""


def plain(results: Any) -> dict[str, Any]:
    """A results dataclass as JSON values; what is not a finite number becomes null."""
    return to_json(results, [])


def not_finite(results: Any) -> list[str]:
    """``arms.ridge.mrr (nan)`` of every number that JSON cannot hold."""
    found: list[str] = []
    to_json(results, found)
    return found


def check_output(folder: Path) -> None:
    """Refuse, before anything is computed, a folder that cannot be written into or made; writes nothing."""
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not there.is_dir():
        raise CommandError(f"output: {there} is no folder, expected one or a new name")
    if not os.access(there, os.W_OK | os.X_OK):
        raise CommandError(f"output: {there} cannot be written into, expected a folder that can")


def write_report(folder: Path, name: str, results: R, page: Callable[[R], str]) -> R:
    """``NAME.html`` and then ``NAME.json`` in ``folder``, each under its final name only when whole; returns what was written.

    The JSON is the sign that both are there; their hashes are in ``files.sha256``. Scores that are not finite are null in it, named in the
    notes of what is returned.
    """
    if lacking := not_finite(results):
        results = replace(results, notes=(*results.notes, f"Left empty, since they are not finite numbers: {listed(lacking, 5)}."))
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"{name}.html", page(results).encode())
    write_json(folder / f"{name}.json", plain(results))
    seal(folder, [folder / f"{name}.html", folder / f"{name}.json"])
    return results


def read_results(path: Path, wanted: type[T]) -> T:
    """A results dataclass from its JSON.

    Raises
    ------
    StudyError, CommandError
        No such file, not JSON, another format, or a field that is missing or of another kind; the message names it.
    """
    return parse_results(read_json(path), wanted, str(path))


def parse_results(found: Any, wanted: type[T], where: str) -> T:
    """A results dataclass from JSON values; ``where`` names them in an error."""
    version = found.get("format_version", FORMAT_VERSION) if isinstance(found, Mapping) else None
    if version != FORMAT_VERSION:
        raise CommandError(f"{where}: format_version is {version}, expected {FORMAT_VERSION}: evaluate again with this version")
    return from_json(wanted, found, where, written_by="an evaluation")
