"""Frozen dataclasses that lie on disk as JSON objects: one writer and one reader for all of them.

A field at its default None is not written. A field made with ``metadata=FLAT`` is a mapping whose items stand among the fields of
its owner. Fields that this version does not know are passed over; one that is missing or of another kind is named.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import types
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from data_prep.contract.errors import CommandError
from data_prep.contract.files import read_json, sha256_file, write_json

FLAT = {"flat": True}
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class SealedFile:
    """A file as it was when it was sealed."""

    bytes: int
    sha256: str

    def is_that_of(self, path: Path) -> bool:
        """Whether ``path`` is that file still."""
        return path.is_file() and path.stat().st_size == self.bytes and sha256_file(path) == self.sha256


def to_json(record: Any, not_finite: list[str] | None = None) -> dict[str, Any]:
    """A record as JSON values.

    Parameters
    ----------
    not_finite
        Takes ``arms.ridge.mrr (nan)`` of every number that JSON cannot hold, which is then null. Without it such numbers stay, and
        :func:`data_prep.contract.files.write_json` refuses them.
    """
    found: dict[str, Any] = _plain(record, "", not_finite)
    return found


def from_json(kind: type[T], found: Any, where: str, *, written_by: str) -> T:
    """A record of ``kind`` from JSON values.

    Parameters
    ----------
    where
        Names them in an error, such as their file.
    written_by
        What writes such a record, for the error: ``an evaluation``.

    Raises
    ------
    CommandError
        A field that is missing or of another kind, or no object at all.
    """
    from pydantic import ValidationError  # after the first line of a command

    try:
        # As JSON, where a list may stand for a tuple.
        record: T = _adapter(cast(Any, kind)).validate_json(json.dumps(_nested(kind, found), allow_nan=False), strict=True)
        return record
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(map(str, first["loc"])) or "the file"
        raise CommandError(f"{where}: {name}: {first['msg']}, expected what {written_by} of this version writes") from error
    except ValueError as error:  # comparisons with NaN are all false: a limit that is none would let everything pass
        raise CommandError(f"{where}: holds a number that is not finite, expected what {written_by} of this version writes") from error


@functools.cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def check_format(found: Any, expected: int, where: str) -> None:
    """Refuse JSON values of another ``format_version``.

    Raises
    ------
    CommandError
        Both versions, in one sentence.
    """
    version = found.get("format_version") if isinstance(found, Mapping) else None
    if version != expected:
        raise CommandError(f"{where}: format version {version!r}, expected {expected}")


def read_record(path: Path, kind: type[T], *, written_by: str) -> T:
    """The record in a JSON file; see :func:`from_json`.

    Raises
    ------
    StudyError, CommandError
        No such file, not JSON, or a field that is missing or of another kind; the message names it.
    """
    return from_json(kind, read_json(path), str(path), written_by=written_by)


def write_record(path: Path, record: Any) -> None:
    """Write a record atomically as a JSON file."""
    write_json(path, to_json(record))


def _nested(kind: Any, found: Any) -> Any:
    """JSON of ``kind`` with the items of flat fields put back into them, at any depth."""
    arguments = [a for a in get_args(kind) if a not in (Ellipsis, type(None))]
    if get_origin(kind) in (Union, types.UnionType):
        return _nested(next((a for a in arguments if dataclasses.is_dataclass(a)), arguments[0]), found)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type) and isinstance(found, Mapping):
        hints, own = get_type_hints(kind), {f.name for f in dataclasses.fields(kind)}
        inner = {name: _nested(hints[name], value) for name, value in found.items() if name in own}
        flat = next((f.name for f in dataclasses.fields(kind) if f.metadata.get("flat")), None)
        if flat is not None and flat not in inner:
            inner[flat] = _nested(hints[flat], {name: value for name, value in found.items() if name not in own})
        return inner
    if arguments and isinstance(found, Mapping):
        return {name: _nested(arguments[-1], value) for name, value in found.items()}
    if arguments and isinstance(found, list):
        return [_nested(arguments[-1], value) for value in found]
    return found


def _plain(value: Any, where: str, not_finite: list[str] | None) -> Any:
    def below(name: Any, inner: Any) -> Any:
        return _plain(inner, f"{where}.{name}" if where else str(name), not_finite)

    if dataclasses.is_dataclass(value):
        found: dict[str, Any] = {}
        own = {f.name for f in dataclasses.fields(value)}
        for field in dataclasses.fields(value):
            inner = getattr(value, field.name)
            if field.metadata.get("flat"):
                if twice := own & inner.keys():
                    raise ValueError(f"{type(value).__name__}: {field.name} holds {sorted(twice)[0]!r}, which is a field of its own")
                found |= {str(name): below(name, item) for name, item in inner.items()}
            elif not (inner is None and field.default is None):
                found[field.name] = below(field.name, inner)
        return found
    if isinstance(value, Mapping):
        return {str(name): below(name, inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [below(number, inner) for number, inner in enumerate(value)]
    if hasattr(value, "dtype") and getattr(value, "ndim", 1) == 0:
        value = value.item()
    if not_finite is not None and isinstance(value, float) and not math.isfinite(value):
        not_finite.append(f"{where.removesuffix('.value')} ({value})")
        return None
    return value


def known_fields(kind: type[Any], plain: Mapping[str, Any]) -> dict[str, Any]:
    """What ``plain`` has of the fields of a dataclass; those of newer versions are left out."""
    names = {f.name for f in dataclasses.fields(kind)}
    return {name: value for name, value in plain.items() if name in names}
