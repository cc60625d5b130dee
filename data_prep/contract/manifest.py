"""The manifest, tables and splits of a study on disk."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.contract.errors import StudyError
from data_prep.contract.files import read_json, sha256_file, sha256_json, write_atomically, write_json
from data_prep.contract.schema import PARTS, SCHEMA_VERSION, TRIALS_DTYPE, check_split_name, index_dtype

FINGERPRINT_FIELDS = ("schema_version", "stimulus_level", "signal", "tables")


def fingerprint(manifest: Mapping[str, Any]) -> str:
    """Identity of a study's content: schema version, ordered shard hashes and rows, signal facts, tables, embedding hashes.

    Not the code version, times, paths or audit: the same trials sharded elsewhere have the same fingerprint.
    """
    content = {field: manifest[field] for field in FINGERPRINT_FIELDS}
    content["shards"] = [[s["tar_sha256"], s["index_sha256"], s["trials_sha256"], s["rows"]] for s in manifest["shards"]]
    content["embeddings"] = {name: facts["sha256"] for name, facts in manifest["embeddings"].items()}
    return sha256_json(content)


def rows_hash(manifest: Mapping[str, Any]) -> str:
    """Identity of which trial is which row. Splits and transforms refer to it; adding an embedding leaves it alone."""
    return sha256_json([[s["index_sha256"], s["trials_sha256"], s["rows"]] for s in manifest["shards"]])


def write_manifest(root: Path, manifest: dict[str, Any]) -> None:
    """Write ``manifest.json`` (its ``fingerprint`` computed here) and then ``manifest.sha256``."""
    manifest = {**manifest, "fingerprint": fingerprint(manifest)}
    write_json(root / "manifest.json", manifest)
    write_atomically(root / "manifest.sha256", (sha256_file(root / "manifest.json") + "  manifest.json\n").encode())


def read_manifest(root: Path) -> dict[str, Any]:
    """Read and check ``manifest.json``: its hash, schema version and fingerprint.

    Raises
    ------
    StudyError
        One sentence: which file, what was found, what was expected.
    """
    path = root / "manifest.json"
    if not path.is_file():
        raise StudyError(f"{root}: not a finished study: there is no manifest.json (sharding not run, or not finished)")
    manifest = read_json(path)
    version = manifest.get("schema_version") if isinstance(manifest, dict) else None
    if version != SCHEMA_VERSION:
        raise StudyError(f"{path}: schema version {version!r}, expected {SCHEMA_VERSION}: shard the study again with this version")
    recorded_file = root / "manifest.sha256"
    recorded = recorded_file.read_text().split()[:1] if recorded_file.is_file() else []
    found = sha256_file(path)
    if recorded != [found]:
        raise StudyError(f"{path}: SHA-256 is {found[:12]}…, manifest.sha256 says {(recorded or ['nothing'])[0][:12]}…: altered")
    missing = {"shards", "embeddings", "fingerprint", *FINGERPRINT_FIELDS} - manifest.keys()
    if missing:
        raise StudyError(f"{path}: lacks {sorted(missing)}")
    if fingerprint(manifest) != manifest["fingerprint"]:
        raise StudyError(f"{path}: its fingerprint does not follow from its content")
    return manifest


def captioned(manifest: Mapping[str, Any]) -> bool:
    """Whether samples of this study have a ``.txt`` member."""
    return bool(manifest.get("captions", False))


def read_shard_tables(root: Path, manifest: Mapping[str, Any], shard: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Index and trials rows of one shard, checked against the manifest: tar size, table sizes and hashes, dtypes, offsets.

    Returns
    -------
    (index, trials)
        Structured arrays of :func:`index_dtype` (rows,) and :data:`TRIALS_DTYPE` (repetitions,).
    """
    name = shard["name"]
    if not re.fullmatch(r"\d{6}", name):
        raise StudyError(f"{root / 'manifest.json'}: shard name {name!r}, expected six digits")
    tar = root / f"{name}.tar"
    size = tar.stat().st_size if tar.is_file() else None
    if size is None or size != shard["tar_bytes"]:
        found = "no such file" if size is None else f"{size} bytes"
        raise StudyError(f"{tar}: {found}, expected {shard['tar_bytes']} bytes: truncated or of another study")
    tables = []
    for kind, dtype in (
        ("index", index_dtype(manifest["tar_embeddings"], captions=captioned(manifest))),
        ("trials", TRIALS_DTYPE),
    ):
        path = root / f"{name}.{kind}.npy"
        if not path.is_file():
            raise StudyError(f"{path}: no such file")
        found_hash = sha256_file(path)
        if found_hash != shard[f"{kind}_sha256"]:
            raise StudyError(f"{path}: SHA-256 {found_hash[:12]}…, expected {shard[f'{kind}_sha256'][:12]}…: it belongs to another tar")
        table = np.load(path, allow_pickle=False)
        if table.dtype != dtype:
            raise StudyError(f"{path}: columns {table.dtype.names}, expected {dtype.names}")
        tables.append(table)
    index, trials = tables
    if len(index) != shard["rows"] or len(trials) != index["n_reps"].sum():
        raise StudyError(
            f"{root / name}: {len(index)} samples and {len(trials)} repetitions, expected {shard['rows']} and {index['n_reps'].sum()}"
        )
    for member in {n.rsplit("_", 1)[0] for n in index.dtype.names if n.endswith("_offset")}:
        if len(index) and int((index[f"{member}_offset"] + index[f"{member}_bytes"]).max()) > size:
            raise StudyError(f"{root / name}.index.npy: an offset of {member!r} lies beyond the tar's {size} bytes")
    return index, trials


CLAUSE_FIELDS = ("subject", "stimulus", "concept", "session", "recording", "repetition", "row")


@dataclass(frozen=True, kw_only=True)
class RepetitionTable:
    """Every repetition of a study, in shard order; each array is int32 (n_repetitions,).

    ``sample`` counts samples through the whole study, ``repetition`` counts inside its sample, and the rest are rows of
    the manifest's tables.
    """

    sample: np.ndarray
    repetition: np.ndarray
    subject: np.ndarray
    stimulus: np.ndarray
    concept: np.ndarray
    session: np.ndarray
    recording: np.ndarray

    def __len__(self) -> int:
        return len(self.sample)

    def column(self, field: str) -> np.ndarray:
        """One column by clause field; ``row`` is the repetition's own number in the study."""
        return np.arange(len(self), dtype=np.int32) if field == "row" else getattr(self, field)


def repetition_table(indexes: Iterable[np.ndarray], trials: Iterable[np.ndarray]) -> RepetitionTable:
    """Join per-shard index and trials tables into one table of repetitions."""
    columns: dict[str, list[np.ndarray]] = {f: [] for f in RepetitionTable.__dataclass_fields__}
    first_sample = 0
    for index, trial in zip(indexes, trials, strict=True):
        sample = trial["sample"]
        if not np.array_equal(sample, np.repeat(np.arange(len(index)), index["n_reps"])):
            raise StudyError("a trials table does not list the repetitions of its index in order")
        columns["sample"].append(sample + first_sample)
        starts = np.cumsum(index["n_reps"]) - index["n_reps"]
        columns["repetition"].append(np.arange(len(sample)) - np.repeat(starts, index["n_reps"]))
        for field in ("subject", "stimulus", "concept"):
            columns[field].append(index[field][sample])
        columns["session"].append(trial["session"])
        columns["recording"].append(trial["recording"])
        first_sample += len(index)
    joined = {f: np.concatenate(parts).astype(np.int32) if parts else np.empty(0, np.int32) for f, parts in columns.items()}
    return RepetitionTable(**joined)


def split_hash(split: Mapping[str, Any]) -> str:
    """Identity of a split: the rows it speaks of and which of them are in which part."""
    return sha256_json({"rows_hash": split["rows_hash"], "parts": {part: split["parts"][part] for part in PARTS}})


def read_split(root: Path, manifest: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Read ``splits/NAME.json`` and check that it speaks of this study's rows and that its hash follows from its content."""
    path = root / "splits" / f"{check_split_name(name)}.json"
    if not path.is_file():
        have = sorted(p.stem for p in (root / "splits").glob("*.json") if not p.name.endswith(".audit.json"))
        raise StudyError(f"{path}: no such split; this study has {', '.join(have) or 'none'}")
    split = read_json(path)
    if split.get("rows_hash") != rows_hash(manifest):
        raise StudyError(f"{path}: made for other shards than the ones beside it: make the split again")
    if split.get("hash") != split_hash(split):
        raise StudyError(f"{path}: its hash does not follow from its parts: altered")
    return split


def assign_parts(split: Mapping[str, Any], table: RepetitionTable) -> np.ndarray:
    """Part of every repetition: uint8 (n_repetitions,), 0 in none, 1 train, 2 validation, 3 test.

    ``split["parts"][part]`` is a list of clauses. A clause maps fields of :data:`CLAUSE_FIELDS` to lists of ids; a
    repetition is in the part if it matches all fields of any clause. A repetition in two parts, or a part without
    repetitions, is a :class:`StudyError`; an empty clause list means the split has no such part.
    """
    parts = np.zeros(len(table), np.uint8)
    for number, part in enumerate(PARTS, start=1):
        member = np.zeros(len(table), bool)
        for clause in split["parts"][part]:
            unknown = clause.keys() - set(CLAUSE_FIELDS)
            if unknown or not clause:
                raise StudyError(
                    f"split {split.get('name')!r}: a clause of {part!r} has fields {sorted(clause)}, expected some of {CLAUSE_FIELDS}"
                )
            matches = np.ones(len(table), bool)
            for field, ids in clause.items():
                matches &= np.isin(table.column(field), np.asarray(ids, dtype=np.int64))
            member |= matches
        if split["parts"][part] and not member.any():
            raise StudyError(f"split {split.get('name')!r}: part {part!r} has no trials")
        if (parts[member] != 0).any():
            other = PARTS[int(parts[member].max()) - 1]
            raise StudyError(f"split {split.get('name')!r}: {int((parts[member] != 0).sum())} trials are in both {other!r} and {part!r}")
        parts[member] = number
    return parts
