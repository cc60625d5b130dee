"""A study's manifest and splits as values: read once and checked, no string keys beyond this file.

``manifest.json`` and ``splits/NAME.json`` keep their fields on disk; :meth:`Manifest.plain` and :meth:`Split.plain` write what
:func:`read_manifest` and :func:`read_split` read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.contract import schema
from data_prep.contract.errors import StudyError
from data_prep.contract.files import read_json, sha256_file, sha256_json, write_atomically, write_json
from data_prep.contract.records import FLAT
from data_prep.contract.schema import PARTS, SCHEMA_VERSION, TRIALS_DTYPE, check_split_name, index_dtype
from data_prep.contract.words import listed

SPLIT_FORMAT_VERSION = 1
Clause = Mapping[str, Sequence[int]]
"""Fields of :data:`CLAUSE_FIELDS` with the ids that match; a repetition matches a clause if it matches all its fields."""


# -------------------------------------------------------------------------------------------------------- manifest


@dataclass(frozen=True, kw_only=True)
class Signal:
    """What holds for every trial of a study."""

    unit: str
    """One of :data:`schema.UNITS`."""
    sfreq: float
    """Sampling rate, Hz."""
    tmin: float
    """Time of the first point from stimulus onset, seconds."""
    n_times: int
    n_chans: int
    ch_names: list[str]
    positions: list[list[float]] | None
    """Electrode positions in metres, a row a channel; None where the source has none."""
    dtype: str
    """Stored dtype, a key of :data:`schema.EEG_DTYPES`."""

    @property
    def eeg_dtype(self) -> np.dtype[Any]:
        """Stored dtype of the EEG, little-endian."""
        if self.dtype not in schema.EEG_DTYPES:
            raise StudyError(f"manifest: signal dtype {self.dtype!r}, expected one of {sorted(schema.EEG_DTYPES)}")
        return np.dtype(schema.EEG_DTYPES[self.dtype])

    @property
    def repetition_bytes(self) -> int:
        """Bytes of one repetition in a tar: n_chans x n_times x the stored dtype's size."""
        return self.n_chans * self.n_times * self.eeg_dtype.itemsize


@dataclass(frozen=True, kw_only=True)
class Stimulus:
    """What was shown."""

    id: str
    concept: int
    """Row of :attr:`Tables.concepts`."""
    image: str | None
    """Image file, relative to the source's folder of images."""
    part: str | None
    """``train`` or ``test`` where the source divides its images."""


@dataclass(frozen=True, kw_only=True)
class Tables:
    """Labels behind the integer ids of indexes, trials and splits."""

    subjects: list[str]
    concepts: list[str]
    sessions: list[str]
    recordings: list[str]
    stimuli: list[Stimulus]

    def labels(self, column: str) -> list[str]:
        """Labels of a column of :class:`RepetitionTable`: ``subject``, ``stimulus``, ``concept``, ``session`` or ``recording``."""
        if column == "stimulus":
            return [stimulus.id for stimulus in self.stimuli]
        found: list[str] = getattr(self, f"{column}s")
        return found

    def concept_of_stimulus(self) -> np.ndarray:
        """Concept of every stimulus: int64 (n_stimuli,)."""
        return np.array([stimulus.concept for stimulus in self.stimuli], np.int64)


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One tar with its two tables."""

    name: str
    """Six digits, see :func:`schema.shard_name`."""
    rows: int
    """Samples."""
    repetitions: int
    tar_bytes: int
    tar_sha256: str
    index_bytes: int
    index_sha256: str
    trials_bytes: int
    trials_sha256: str

    def sha256(self, kind: str) -> str:
        """Hash of its ``tar``, ``index`` or ``trials``."""
        found: str = getattr(self, f"{kind}_sha256")
        return found


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """An image embedding of all stimuli, ``embeddings/NAME.npy``."""

    dim: int
    sha256: str
    """Of the file."""
    provenance: Mapping[str, Any] = field(default_factory=dict, metadata=FLAT)
    """``model``, ``layer``, ``weights_sha256``, ``transform`` and what else its maker says of it, as plain values."""

    @property
    def model(self) -> str | None:
        """Name of the vision model."""
        return self.provenance.get("model")

    def differs_from(self, other: Embedding) -> str | None:
        """What of vision model, layer and weights is another; None: the same model made both."""
        return next((n for n in ("model", "layer", "weights_sha256") if self.provenance.get(n) != other.provenance.get(n)), None)

    def plain(self) -> dict[str, Any]:
        """As JSON-able values."""
        return {"dim": self.dim, "sha256": self.sha256, **self.provenance}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Embedding:
        """Inverse of :meth:`plain`."""
        rest = {name: value for name, value in plain.items() if name not in ("dim", "sha256")}
        return cls(dim=plain["dim"], sha256=plain["sha256"], provenance=rest)


@dataclass(frozen=True, kw_only=True)
class Quality:
    """What the writer counted."""

    trials: int = 0
    railed_trials: int = 0
    """Trials that touch the amplifier's limits."""
    by_label: Mapping[str, int] = field(default_factory=dict)
    """Trials by ``good``, ``railed``, ``unknown``."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """``manifest.json``: what a finished study holds."""

    schema_version: int = SCHEMA_VERSION
    stimulus_level: str
    """One of :data:`schema.STIMULUS_LEVELS`."""
    signal: Signal
    tables: Tables
    shards: list[Shard]
    """In order; samples are numbered through them."""
    embeddings: Mapping[str, Embedding]
    tar_embeddings: list[str]
    """Those with a copy in the tars."""
    captions: bool = False
    """Whether samples have a ``.txt`` member."""
    captions_missing: int = 0
    """Stimuli whose ``.txt`` is empty."""
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    """What was done to the signal, and of a simulated study ``simulated`` and ``ceiling``, as plain values."""
    quality: Quality = field(default_factory=Quality)
    code_version: str = ""

    @property
    def class_level(self) -> bool:
        """Whether a stimulus is only a class, not a single image."""
        return self.stimulus_level == "class"

    @property
    def simulated(self) -> bool:
        """Whether the EEG is simulated."""
        return bool(self.preprocessing.get("simulated", False))

    @cached_property
    def fingerprint(self) -> str:
        """Identity of the content: schema version, ordered shard hashes and rows, signal facts, tables, embedding hashes.

        Not the code version, times, paths or audit: the same trials sharded elsewhere have the same fingerprint.
        """
        content = {"schema_version": self.schema_version, "stimulus_level": self.stimulus_level}
        content |= {"signal": asdict(self.signal), "tables": asdict(self.tables)}
        content |= {"shards": [[s.tar_sha256, s.index_sha256, s.trials_sha256, s.rows] for s in self.shards]}
        content |= {"embeddings": {name: embedding.sha256 for name, embedding in self.embeddings.items()}}
        return sha256_json(content)

    @cached_property
    def rows_hash(self) -> str:
        """Identity of which trial is which row. Splits and transforms refer to it; adding an embedding leaves it alone."""
        return sha256_json([[s.index_sha256, s.trials_sha256, s.rows] for s in self.shards])

    def embedding(self, name: str) -> Embedding:
        """Facts of an embedding.

        Raises
        ------
        StudyError
            There is none of that name; those that there are are listed.
        """
        if name not in self.embeddings:
            have = ", ".join(sorted(self.embeddings)) or "none"
            raise StudyError(f"no embedding {name!r}; this study has {have}")
        return self.embeddings[name]

    def with_embedding(self, name: str, embedding: Embedding) -> Manifest:
        """The same study with one more embedding, or another in its place."""
        return replace(self, embeddings={**self.embeddings, name: embedding})

    def plain(self) -> dict[str, Any]:
        """As JSON-able values, with the fingerprint."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        own |= {name: asdict(own[name]) for name in ("signal", "tables", "quality")}
        own |= {"shards": [asdict(shard) for shard in self.shards]}
        own |= {"embeddings": {name: embedding.plain() for name, embedding in self.embeddings.items()}}
        return own | {"preprocessing": dict(self.preprocessing), "fingerprint": self.fingerprint}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Manifest:
        """Inverse of :meth:`plain`; fields of newer versions are ignored."""
        own = _known(cls, plain)
        own["signal"] = Signal(**_known(Signal, plain["signal"]))
        tables = _known(Tables, plain["tables"])
        own["tables"] = Tables(**tables | {"stimuli": [Stimulus(**_known(Stimulus, row)) for row in tables["stimuli"]]})
        own["shards"] = [Shard(**_known(Shard, row)) for row in plain["shards"]]
        own["embeddings"] = {name: Embedding.from_plain(facts) for name, facts in plain["embeddings"].items()}
        own["quality"] = Quality(**_known(Quality, plain.get("quality", {})))
        return cls(**own)


def _known(kind: type[Any], plain: Mapping[str, Any]) -> dict[str, Any]:
    names = {f.name for f in fields(kind)}
    return {name: value for name, value in plain.items() if name in names}


def write_manifest(root: Path, manifest: Manifest) -> None:
    """Write ``manifest.json`` and then ``manifest.sha256``."""
    write_json(root / "manifest.json", manifest.plain())
    write_atomically(root / "manifest.sha256", (sha256_file(root / "manifest.json") + "  manifest.json\n").encode())


def read_manifest(root: Path) -> Manifest:
    """Read and check ``manifest.json``: its hash, schema version and fingerprint.

    Raises
    ------
    StudyError
        One sentence: which file, what was found, what was expected.
    """
    path = root / "manifest.json"
    if not path.is_file():
        lacking = "manifest.json (sharding not run, or not finished)" if root.is_dir() else "such folder"
        raise StudyError(f"{root}: not a finished study: there is no {lacking}")
    plain = read_json(path)
    version = plain.get("schema_version") if isinstance(plain, dict) else None
    if version != SCHEMA_VERSION:
        raise StudyError(f"{path}: schema version {version!r}, expected {SCHEMA_VERSION}: shard the study again with this version")
    recorded_file = root / "manifest.sha256"
    recorded = recorded_file.read_text().split()[:1] if recorded_file.is_file() else []
    found = sha256_file(path)
    if recorded != [found]:
        raise StudyError(f"{path}: SHA-256 is {found[:12]}…, manifest.sha256 says {(recorded or ['nothing'])[0][:12]}…: altered")
    missing = {"shards", "embeddings", "fingerprint", "stimulus_level", "signal", "tables"} - plain.keys()
    if missing:
        raise StudyError(f"{path}: lacks {sorted(missing)}")
    try:
        manifest = Manifest.from_plain(plain)
    except (KeyError, TypeError, AttributeError) as error:
        raise StudyError(f"{path}: not a manifest of schema version {SCHEMA_VERSION} ({error})") from error
    if manifest.fingerprint != plain["fingerprint"]:
        raise StudyError(f"{path}: its fingerprint does not follow from its content")
    return manifest


def read_shard_tables(root: Path, manifest: Manifest, shard: Shard) -> tuple[np.ndarray, np.ndarray]:
    """Index and trials rows of one shard, checked against the manifest: tar size, table sizes and hashes, dtypes, offsets.

    Returns
    -------
    (index, trials)
        Structured arrays of :func:`index_dtype` (rows,) and :data:`TRIALS_DTYPE` (repetitions,).
    """
    name = shard.name
    if not re.fullmatch(r"\d{6}", name):
        raise StudyError(f"{root / 'manifest.json'}: shard name {name!r}, expected six digits")
    tar = root / f"{name}.tar"
    size = tar.stat().st_size if tar.is_file() else None
    if size is None or size != shard.tar_bytes:
        found = "no such file" if size is None else f"{size} bytes"
        raise StudyError(f"{tar}: {found}, expected {shard.tar_bytes} bytes: truncated or of another study")
    index = _read_table(root / f"{name}.index.npy", shard.index_sha256, index_dtype(manifest.tar_embeddings, captions=manifest.captions))
    trials = _read_table(root / f"{name}.trials.npy", shard.trials_sha256, TRIALS_DTYPE)
    if len(index) != shard.rows or len(trials) != index["n_reps"].sum():
        raise StudyError(
            f"{root / name}: {len(index)} samples and {len(trials)} repetitions, expected {shard.rows} and {index['n_reps'].sum()}"
        )
    for member in {n.rsplit("_", 1)[0] for n in index.dtype.names or () if n.endswith("_offset")}:
        if len(index) and int((index[f"{member}_offset"] + index[f"{member}_bytes"]).max()) > size:
            raise StudyError(f"{root / name}.index.npy: an offset of {member!r} lies beyond the tar's {size} bytes")
    return index, trials


def _read_table(path: Path, sha256: str, dtype: np.dtype[Any]) -> np.ndarray:
    if not path.is_file():
        raise StudyError(f"{path}: no such file")
    found = sha256_file(path)
    if found != sha256:
        raise StudyError(f"{path}: SHA-256 {found[:12]}…, expected {sha256[:12]}…: it belongs to another tar")
    table: np.ndarray = np.load(path, allow_pickle=False)
    if table.dtype != dtype:
        raise StudyError(f"{path}: columns {table.dtype.names}, expected {dtype.names}")
    return table


# ----------------------------------------------------------------------------------------------------------- splits

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
        for name in ("subject", "stimulus", "concept"):
            columns[name].append(index[name][sample])
        columns["session"].append(trial["session"])
        columns["recording"].append(trial["recording"])
        first_sample += len(index)
    joined = {f: np.concatenate(parts).astype(np.int32) if parts else np.empty(0, np.int32) for f, parts in columns.items()}
    return RepetitionTable(**joined)


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
        split = Split(**{"policy": "", "name": name} | _known(Split, plain))
        unchanged = split.hash == plain.get("hash")
    except (KeyError, TypeError) as error:
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
