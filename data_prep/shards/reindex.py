"""Index and trials tables rebuilt from nothing but the tars and the manifest's tables: ``python -m data_prep index``.

The rebuilt tables must have the hashes that the manifest records, which proves that index and tar say the same; a table
that is missing or damaged beside a sound tar is then written anew.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.contract import schema
from data_prep.contract.errors import StudyError
from data_prep.contract.files import sha256_file, write_atomically
from data_prep.contract.json_text import parse_json
from data_prep.contract.lock import alone
from data_prep.contract.manifest import Manifest, Shard, read_manifest
from data_prep.contract.progress import tracked
from data_prep.contract.terminal import Terminal
from data_prep.shards import ustar

_HEADER_BYTES = 4096
"""More than any npy header of a plain array."""


@dataclass(frozen=True, kw_only=True)
class ReindexConfig:
    """Rebuild index and trials tables from the tars, prove that they are the recorded ones, restore damaged ones."""

    study: str
    """Folder of the study."""
    write: bool = True
    """Restore tables that are missing or damaged; false only compares."""


def run(config: ReindexConfig) -> int:
    """Print what was found; exit status 1 if a table cannot be proved equal."""
    root, console = Path(config.study), Terminal(stderr=True)
    manifest = read_manifest(root)
    faults, restored = [], []
    with alone(root) if config.write else contextlib.nullcontext():
        for shard in tracked(manifest.shards, "shards indexed"):
            try:
                restored += reindex_shard(root, manifest, shard, write=config.write)
            except StudyError as error:
                faults.append(str(error))
    for line in [f"restored {path}" for path in restored] + faults:
        console.print(line, soft_wrap=True)
    console.print(
        f"{root}: {len(manifest.shards) - len(faults)} of {len(manifest.shards)} shards' tables equal the tars",
        soft_wrap=True,
    )
    if faults:
        raise StudyError(f"{root}: the tables of {len(faults)} shards do not follow from their tars, first: {faults[0]}")
    return 0


def reindex_shard(root: Path, manifest: Manifest, shard: Shard, *, write: bool) -> list[Path]:
    """Rebuild the tables of one shard; returns the files restored.

    Raises
    ------
    StudyError
        The tar is damaged, or the rebuilt tables are not the recorded ones.
    """
    name, restored = shard.name, []
    tables = dict(zip(("index", "trials"), rebuild_tables(root / f"{name}.tar", manifest), strict=True))
    for kind, table in tables.items():
        path, data = root / f"{name}.{kind}.npy", ustar.npy_bytes(table)
        found = hashlib.sha256(data).hexdigest()
        if found != shard.sha256(kind):
            raise StudyError(
                f"{root / name}.tar: the {kind} table it gives has SHA-256 {found[:12]}…, the manifest says "
                f"{shard.sha256(kind)[:12]}…: not the tar that was written"
            )
        if not path.is_file() or sha256_file(path) != found:
            if not write:
                raise StudyError(f"{path}: missing or damaged, expected the table of {name}.tar")
            write_atomically(path, data)
            restored.append(path)
    return restored


def rebuild_tables(tar: Path, manifest: Manifest) -> tuple[np.ndarray, np.ndarray]:
    """Index and trials rows of one tar, from its headers and JSON members.

    Raises
    ------
    StudyError
        A damaged tar, members missing or out of order, arrays of other shapes, labels that the manifest does not list.
    """
    captions = manifest.captions
    suffixes = ["eeg.npy", *(f"{name}.npy" for name in manifest.tar_embeddings), *(["txt"] if captions else []), "json"]
    signal, tables = manifest.signal, manifest.tables
    ids = {
        "subject": {label: i for i, label in enumerate(tables.subjects)},
        "stimulus": {stimulus.id: i for i, stimulus in enumerate(tables.stimuli)},
        "session": {label: i for i, label in enumerate(tables.sessions)},
        "recording": {label: i for i, label in enumerate(tables.recordings)},
    }
    rows: list[list[int]] = []
    trials: list[tuple[int, ...]] = []
    with tar.open("rb") as file:
        members = list(ustar.read_members(tar))
        if len(members) % len(suffixes):
            raise StudyError(f"{tar}: {len(members)} members, expected a multiple of {len(suffixes)} ({', '.join(suffixes)})")
        for start in range(0, len(members), len(suffixes)):
            group = members[start : start + len(suffixes)]
            key = group[0][0].split(".", 1)[0]
            names = [name for name, _, _ in group]
            if names != [f"{key}.{suffix}" for suffix in suffixes]:
                raise StudyError(f"{tar}: members {names}, expected {[f'{key}.{suffix}' for suffix in suffixes]}")
            row: list[int] = []
            n_reps = 0
            for suffix, (name, offset, size) in zip(suffixes, group, strict=True):
                header = 0
                if suffix.endswith(".npy"):
                    file.seek(offset)
                    shape, dtype, header = ustar.parse_npy_header(file.read(min(size, _HEADER_BYTES)), f"{tar}: {name}")
                    expected = (shape[0], signal.n_chans, signal.n_times) if suffix == "eeg.npy" else _embedding_shape(manifest, suffix)
                    wanted = schema.EEG_DTYPES[signal.dtype] if suffix == "eeg.npy" else "<f2"
                    if shape != expected or dtype != np.dtype(wanted) or size - header != dtype.itemsize * int(np.prod(shape)):
                        raise StudyError(f"{tar}: {name} is {dtype} {shape} of {size} bytes, expected {np.dtype(wanted)} {expected}")
                    n_reps = shape[0] if suffix == "eeg.npy" else n_reps
                row += [offset + header, size - header]
            file.seek(group[-1][1])
            trials += _describe(file.read(group[-1][2]), f"{tar}: {names[-1]}", ids, n_reps, len(rows), row, manifest)
            rows.append(row)
    dtype = schema.index_dtype(manifest.tar_embeddings, captions=captions)
    return np.array([tuple(row) for row in rows], dtype), np.array(trials, schema.trials_dtype(clean_baseline=manifest.clean_baseline))


def _embedding_shape(manifest: Manifest, suffix: str) -> tuple[int, ...]:
    return (manifest.embedding(suffix.removesuffix(".npy")).dim,)


def _describe(
    text: bytes, where: str, ids: Mapping[str, Mapping[str, int]], n_reps: int, number: int, row: list[int], manifest: Manifest
) -> list[tuple[int, ...]]:
    """Append n_reps, subject, stimulus and concept to ``row``; return the sample's rows of the trials table."""
    stimuli = manifest.tables.stimuli
    clean: list[bool | None] | None = None
    try:
        said = parse_json(text, where)
        stimulus = ids["stimulus"][said["stimulus"]]
        row += [n_reps, ids["subject"][said["subject"]], stimulus, stimuli[stimulus].concept]
        sessions = [ids["session"][label] for label in said["session"]]
        recordings = [ids["recording"][label] for label in said["recording"]]
        if manifest.clean_baseline:
            clean = [None if each == schema.UNKNOWN else bool(each) for each in said["clean_baseline"]]
        if said["concept"] != stimuli[stimulus].concept or not len(sessions) == len(recordings) == n_reps:
            raise ValueError(f"concept {said['concept']}, {len(sessions)} sessions, {n_reps} repetitions")
    except (ValueError, KeyError, TypeError) as error:
        raise StudyError(f"{where}: does not agree with the manifest's tables ({type(error).__name__}: {error})") from error
    return schema.trial_rows(number, sessions, recordings, clean)
