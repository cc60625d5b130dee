"""A study's splits as values: which repetitions are in which part.

``splits/NAME.json`` keeps its fields on disk: :meth:`Split.plain` writes what :func:`read_split` reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.contract.errors import StudyError
from data_prep.contract.files import read_json, sha256_json
from data_prep.contract.manifest import Manifest
from data_prep.contract.records import known_fields
from data_prep.contract.repetitions import RepetitionTable
from data_prep.contract.schema import PARTS, check_split_name
from data_prep.contract.words import listed

SPLIT_FORMAT_VERSION = 1
Clause = Mapping[str, Sequence[int]]
"""Fields of :data:`CLAUSE_FIELDS` with the ids that match; a repetition matches a clause if it matches all its fields."""
CLAUSE_FIELDS = ("subject", "stimulus", "concept", "session", "recording", "repetition", "row", "clean_baseline")


@dataclass(frozen=True, kw_only=True)
class Split:
    """``splits/NAME.json``: which repetitions are in which part."""

    name: str
    policy: str
    """How it was made: ``zero-shot``, ``recording``, ``subject``, ``closed-set``."""
    rows_hash: str
    """The rows it speaks of, see :attr:`Manifest.rows_hash`."""
    fingerprint: str = ""
    """Of the study when the split was made."""
    parts: Mapping[str, Sequence[Clause]]
    """Clauses by part; an empty list means that the split has no such part."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Config it was made with, as plain values."""

    @cached_property
    def hash(self) -> str:
        """Identity: the rows it speaks of and which of them are in which part."""
        return sha256_json({"rows_hash": self.rows_hash, "parts": {part: self.parts[part] for part in PARTS}})

    def has(self, part: str) -> bool:
        """Whether the split has such a part."""
        return bool(self.parts[part])

    def plain(self) -> dict[str, Any]:
        """As JSON-able values, with the hash."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        return {"format_version": SPLIT_FORMAT_VERSION, **own, "hash": self.hash}


def split_names(root: Path) -> list[str]:
    """Splits of a study, in order of their names."""
    return sorted(path.stem for path in (root / "splits").glob("*.json") if not path.name.endswith(".audit.json"))


def read_split(root: Path, manifest: Manifest, name: str) -> Split:
    """Read ``splits/NAME.json`` and check that it speaks of this study's rows and that its hash follows from its content."""
    path = root / "splits" / f"{check_split_name(name)}.json"
    if not path.is_file():
        have = split_names(root)
        raise StudyError(f"{path}: no such split; this study has {listed(have)}")
    plain = read_json(path)
    if not isinstance(plain, dict) or plain.get("rows_hash") != manifest.rows_hash:
        raise StudyError(f"{path}: made for other shards than the ones beside it: make the split again")
    try:
        split = Split(**{"policy": "", "name": name} | known_fields(Split, plain))
        unchanged = split.hash == plain.get("hash")
    except (KeyError, TypeError, ValueError) as error:
        raise StudyError(f"{path}: not a split ({error}): make it again") from error
    if not unchanged:
        raise StudyError(f"{path}: its hash does not follow from its parts: altered")
    return split


def assign_parts(split: Split, table: RepetitionTable) -> np.ndarray:
    """Part of every repetition: uint8 (n_repetitions,), 0 in none, 1 train, 2 validation, 3 test.

    A repetition is in a part if it matches any of its clauses. A repetition in two parts, or a part without repetitions, is a
    :class:`StudyError`; an empty list of clauses means the split has no such part.
    """
    parts = np.zeros(len(table), np.uint8)
    for number, part in enumerate(PARTS, start=1):
        member = np.zeros(len(table), bool)
        for clause in split.parts[part]:
            unknown = clause.keys() - set(CLAUSE_FIELDS)
            if unknown or not clause:
                raise StudyError(
                    f"split {split.name!r}: a clause of {part!r} has fields {sorted(clause)}, expected some of {CLAUSE_FIELDS}"
                )
            matches = np.ones(len(table), bool)
            for column, ids in clause.items():
                matches &= np.isin(table.column(column), np.asarray(ids, dtype=np.int64))
            member |= matches
        if split.parts[part] and not member.any():
            raise StudyError(f"split {split.name!r}: part {part!r} has no trials")
        if (parts[member] != 0).any():
            other = PARTS[int(parts[member].max()) - 1]
            raise StudyError(f"split {split.name!r}: {int((parts[member] != 0).sum())} trials are in both {other!r} and {part!r}")
        parts[member] = number
    return parts
