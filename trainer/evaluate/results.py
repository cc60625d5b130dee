"""Evaluation results as frozen dataclasses: one writer and one reader for what lies on disk.

::

    Results -> plain (JSON as it is written) -> NAME.json, with NAME.html beside it -> read_results -> Results

A field that is at its default None is not written. A field with ``metadata=FLAT`` is a mapping whose items stand among the
fields of its owner. A score that is not a finite number (JSON has none such) is written as null, and a note says which.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import TypeAdapter, ValidationError

from data_prep.contract.errors import CommandError
from data_prep.contract.files import read_json, write_atomically, write_json
from data_prep.contract.words import listed

FORMAT_VERSION = 1
FLAT = {"flat": True}
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
    found: dict[str, Any] = _plain(results, "", [])
    return found


def not_finite(results: Any) -> list[str]:
    """``arms.ridge.mrr (nan)`` of every number that JSON cannot hold."""
    found: list[str] = []
    _plain(results, "", found)
    return found


def write_report(folder: Path, name: str, results: R, page: Callable[[R], str]) -> R:
    """``NAME.html`` and then ``NAME.json`` in ``folder``, each under its final name only when whole; returns what was written.

    The JSON is the sign that both are there. Scores that are not finite are null in it, named in the notes of what is returned.
    """
    if lacking := not_finite(results):
        results = replace(results, notes=(*results.notes, f"Left empty, since they are not finite numbers: {listed(lacking, 5)}."))
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"{name}.html", page(results).encode())
    write_json(folder / f"{name}.json", plain(results))
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
    try:
        # As JSON, where a list may stand for a tuple.
        return TypeAdapter(wanted).validate_json(json.dumps(nest(wanted, found)))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(map(str, first["loc"])) or "the file"
        raise CommandError(f"{where}: {name}: {first['msg']}, expected what an evaluation of this version writes") from error


def nest(owner: type[Any], found: Any) -> Any:
    """JSON of ``owner`` with the items of its flat field put back into it; for :class:`pydantic.BeforeValidator`."""
    flat = next((f.name for f in dataclasses.fields(owner) if f.metadata.get("flat")), None)
    if flat is None or not isinstance(found, Mapping) or flat in found:
        return found
    own = {f.name for f in dataclasses.fields(owner)}
    return {k: v for k, v in found.items() if k in own} | {flat: {k: v for k, v in found.items() if k not in own}}


def _plain(value: Any, where: str, lacking: list[str]) -> Any:
    def below(name: Any, inner: Any) -> Any:
        return _plain(inner, f"{where}.{name}" if where else str(name), lacking)

    if dataclasses.is_dataclass(value):
        found: dict[str, Any] = {}
        for field in dataclasses.fields(value):
            inner = getattr(value, field.name)
            if field.metadata.get("flat"):
                found |= {str(name): below(name, item) for name, item in inner.items()}
            elif not (inner is None and field.default is None):
                found[field.name] = below(field.name, inner)
        return found
    if isinstance(value, Mapping):
        return {str(name): below(name, inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [below(number, inner) for number, inner in enumerate(value)]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        lacking.append(f"{where.removesuffix('.value')} ({value})")
        return None
    return value
