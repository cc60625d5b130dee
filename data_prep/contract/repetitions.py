"""A study's shard tables, read and checked, and joined into one table of repetitions."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.contract.arrays import read_array
from data_prep.contract.errors import StudyError
from data_prep.contract.files import sha256_file
from data_prep.contract.manifest import Manifest, Shard
from data_prep.contract.schema import CLEAN_BASELINE, index_dtype, trials_dtype


@dataclass(frozen=True, kw_only=True)
class RepetitionTable:
    """Every repetition of a study, in shard order; each array is int32 (n_repetitions,).

    ``sample`` counts samples through the whole study, ``repetition`` counts inside its sample, and the rest are rows of
    the manifest's tables, but for ``clean_baseline``.
    """

    sample: np.ndarray
    repetition: np.ndarray
    subject: np.ndarray
    stimulus: np.ndarray
    concept: np.ndarray
    session: np.ndarray
    recording: np.ndarray
    clean_baseline: np.ndarray
    """1, 0, or -1 where it is unknown (:data:`schema.CLEAN_BASELINE`)."""

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
        known = "clean_baseline" in (trial.dtype.names or ())
        columns["clean_baseline"].append(trial["clean_baseline"] if known else np.full(len(trial), CLEAN_BASELINE[None]))
        first_sample += len(index)
    joined = {f: np.concatenate(parts).astype(np.int32) if parts else np.empty(0, np.int32) for f, parts in columns.items()}
    return RepetitionTable(**joined)


def read_shard_tables(root: Path, manifest: Manifest, shard: Shard) -> tuple[np.ndarray, np.ndarray]:
    """Index and trials rows of one shard, checked against the manifest: tar size, table sizes and hashes, dtypes, offsets.

    Returns
    -------
    (index, trials)
        Structured arrays of :func:`index_dtype` (rows,) and :func:`trials_dtype` (repetitions,).
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
    trials = _read_table(root / f"{name}.trials.npy", shard.trials_sha256, trials_dtype(clean_baseline=manifest.clean_baseline))
    if len(index) != shard.rows or len(trials) != index["n_reps"].sum():
        raise StudyError(
            f"{root / name}: {len(index)} samples and {len(trials)} repetitions, expected {shard.rows} and {index['n_reps'].sum()}"
        )
    for member in {n.rsplit("_", 1)[0] for n in index.dtype.names or () if n.endswith("_offset")}:
        if len(index) and int((index[f"{member}_offset"] + index[f"{member}_bytes"]).max()) > size:
            raise StudyError(f"{root / name}.index.npy: an offset of {member!r} lies beyond the tar's {size} bytes")
    for kind, table, columns in (("index", index, ("subject", "stimulus", "concept")), ("trials", trials, ("session", "recording"))):
        for column in columns:
            _check_ids(root / f"{name}.{kind}.npy", column, table[column], len(manifest.tables.labels(column)))
    return index, trials


def _check_ids(path: Path, column: str, ids: np.ndarray, count: int) -> None:
    """Once, here: no batch's ids are looked at again, which on a GPU would wait for the device."""
    wrong = np.flatnonzero((ids < 0) | (ids >= count))
    if len(wrong):
        raise StudyError(f"{path}: {column} of row {wrong[0]} is {ids[wrong[0]]}, the manifest's table has rows 0 to {count - 1}")


def _read_table(path: Path, sha256: str, dtype: np.dtype[Any]) -> np.ndarray:
    if not path.is_file():
        raise StudyError(f"{path}: no such file")
    found = sha256_file(path)
    if found != sha256:
        raise StudyError(f"{path}: SHA-256 {found[:12]}…, expected {sha256[:12]}…: it belongs to another tar")
    return read_array(path, dtype)
