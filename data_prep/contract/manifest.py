"""A study's manifest as a value: read once and checked, no string keys beyond this file.

``manifest.json`` keeps its fields on disk: :meth:`Manifest.plain` writes what :func:`read_manifest` reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.contract import schema
from data_prep.contract.errors import StudyError
from data_prep.contract.files import read_json, sha256_file, sha256_json, write_atomically, write_json
from data_prep.contract.records import FLAT, known_fields
from data_prep.contract.schema import SCHEMA_VERSION
from data_prep.contract.urls import refuse_url


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
    masked: Mapping[str, list[str]] = field(default_factory=dict)
    """Recording -> channels that are zero in it, as its device has no electrode near."""
    captions: bool = False
    """Whether samples have a ``.txt`` member."""
    captions_missing: int = 0
    """Stimuli whose ``.txt`` is empty."""
    captions_source: Mapping[str, Any] = field(default_factory=dict)
    """How they were made, as plain values: ``source`` (``reader``, ``file``, ``template``, ``model``), and of a model its name, hash of
    weights, prompt and decoding."""
    clean_baseline: bool = False
    """Whether the trials tables have the column ``clean_baseline``, see :func:`schema.trials_dtype`."""
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    """What was done to the signal, and of a simulated study ``simulated`` and ``ceiling``, as plain values."""
    quality: Quality = field(default_factory=Quality)
    measured: Mapping[str, Any] = field(default_factory=dict)
    """What the writer measured, as plain values: ``findings``, ``levels`` of parts, repetitions ``lost``, pairs of ``images``. It is
    no part of the study's identity."""
    code_version: str = ""
    """Of the code that wrote it: a commit or a version, see :func:`data_prep.contract.version.code_version`."""

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
        return sha256_json(self._content | {"embeddings": {name: embedding.sha256 for name, embedding in self.embeddings.items()}})

    @cached_property
    def _content(self) -> dict[str, Any]:
        content = {"schema_version": self.schema_version, "stimulus_level": self.stimulus_level}
        content |= {"signal": asdict(self.signal), "tables": asdict(self.tables)}
        return content | {"shards": [[s.tar_sha256, s.index_sha256, s.trials_sha256, s.rows] for s in self.shards]}

    @cached_property
    def rows_hash(self) -> str:
        """Identity of which trial is which row. Splits and transforms refer to it; adding an embedding leaves it alone."""
        return sha256_json([[s.index_sha256, s.trials_sha256, s.rows] for s in self.shards])

    @cached_property
    def names_hash(self) -> str:
        """Identity of what the ids in rows stand for: the tables, and of simulated EEG which simulation.

        Two studies with this and :attr:`rows_hash` in common have the same trials in the same rows, however the signal was prepared.
        """
        return sha256_json({"tables": asdict(self.tables), "simulated": self.preprocessing.get("simulated")})

    @cached_property
    def trials_hash(self) -> str:
        """Identity of the trials with their EEG: the :attr:`fingerprint` without the embeddings, of which a study may get more."""
        return sha256_json(self._content)

    def masked_channels(self, recordings: Sequence[int]) -> set[str]:
        """Channels that are masked in any of these recordings (rows of the table)."""
        return {name for recording in recordings for name in self.masked.get(self.tables.recordings[recording], ())}

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
        if not self.masked:
            del own["masked"]
        own |= {"captions_source": dict(self.captions_source)}
        if not self.captions_source:
            del own["captions_source"]
        own |= {"embeddings": {name: embedding.plain() for name, embedding in self.embeddings.items()}}
        return own | {"preprocessing": dict(self.preprocessing), "measured": dict(self.measured), "fingerprint": self.fingerprint}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Manifest:
        """Inverse of :meth:`plain`; fields of newer versions are ignored."""
        own = known_fields(cls, plain)
        own["signal"] = Signal(**known_fields(Signal, plain["signal"]))
        tables = known_fields(Tables, plain["tables"])
        own["tables"] = Tables(**tables | {"stimuli": [Stimulus(**known_fields(Stimulus, row)) for row in tables["stimuli"]]})
        own["shards"] = [Shard(**known_fields(Shard, row)) for row in plain["shards"]]
        own["embeddings"] = {name: Embedding.from_plain(facts) for name, facts in plain["embeddings"].items()}
        own["quality"] = Quality(**known_fields(Quality, plain.get("quality", {})))
        return cls(**own)


def write_manifest(root: Path, manifest: Manifest) -> None:
    """Write ``manifest.json`` and then ``manifest.sha256``."""
    write_json(root / "manifest.json", manifest.plain())
    write_atomically(root / "manifest.sha256", _seal_line(sha256_file(root / "manifest.json")).encode())


def _seal_line(sha256: str) -> str:
    return f"{sha256}  manifest.json\n"


def read_manifest(root: Path) -> Manifest:
    """Read and check ``manifest.json``: its hash, schema version and fingerprint.

    Raises
    ------
    StudyError
        One sentence: which file, what was found, what was expected.
    """
    path = root / "manifest.json"
    if not path.is_file():
        refuse_url(root)
        lacking = "manifest.json (sharding not run, or not finished)" if root.is_dir() else "such folder"
        raise StudyError(f"{root}: not a finished study: there is no {lacking}")
    plain = read_json(path)
    version = plain.get("schema_version") if isinstance(plain, dict) else None
    if version != SCHEMA_VERSION:
        raise StudyError(f"{path}: schema version {version!r}, expected {SCHEMA_VERSION}: shard the study again with this version")
    recorded_file = root / "manifest.sha256"
    recorded = recorded_file.read_bytes().decode("utf-8", "replace") if recorded_file.is_file() else "nothing"
    found = sha256_file(path)
    if recorded != _seal_line(found):
        raise StudyError(f"{path}: SHA-256 is {found[:12]}…, manifest.sha256 says {recorded[:12]!r}…: one of the two is altered")
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
