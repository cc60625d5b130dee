"""Check everything a study promises: ``python -m data_prep verify``.

Manifest, every file's size and SHA-256, every tar header and JSON member against index and trials, embeddings, splits, audits,
transforms, and what the folder says of how it was made. All faults are listed, one line each naming the file; the exit status is 1
if there is any.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.contract import schema
from data_prep.contract.arrays import read_archive, read_array
from data_prep.contract.audit import audit_path, read_audit
from data_prep.contract.errors import StudyError, UserError
from data_prep.contract.files import read_json, sha256_file
from data_prep.contract.manifest import Manifest, Shard, read_manifest
from data_prep.contract.progress import tracked
from data_prep.contract.repetitions import read_shard_tables, repetition_table
from data_prep.contract.seal import SEALS, broken_seals, read_seals, refuse_faults, unsealed
from data_prep.contract.split import assign_parts, read_split, split_names
from data_prep.contract.terminal import Terminal
from data_prep.contract.words import listed
from data_prep.shards import reindex
from data_prep.shards.shard import read_done

_SEALED = ("", "splits", "transforms", "embeddings")
"""Folders of a study in which ``files.sha256`` speaks of what the manifest does not."""
_HASHED = re.compile(r"^manifest\.|\.(tar|npy)$")
"""What the manifest speaks of, and itself."""


@dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """Check every size, hash and offset of a study."""

    study: str
    """Folder of the study."""


def run(config: VerifyConfig) -> int:
    """Print every fault; raise with the first of them, or say that the study is whole."""
    root, console = Path(config.study), Terminal(stderr=True)
    faults = verify(root)
    if unknown := _unsealed(root):
        note = (
            f"{root}: no hash is known of {listed(unknown, 4)}, which an earlier version or another program wrote: only content is checked"
        )
        console.print(note, soft_wrap=True)
    old = [folder for folder in _SEALED if _is_of_earlier_version(root / folder)]
    for folder in old:
        note = f"{root / folder / SEALS}: of an earlier version, whose lists do not show whether lines of them are missing"
        console.print(note, soft_wrap=True)
    refuse_faults(root, faults, console)
    manifest = read_manifest(root)
    whole = "whole as far as hashes are known" if unknown or old else "whole"
    console.print(f"{root}: {whole}, {len(manifest.shards)} shards, fingerprint {manifest.fingerprint[:12]}", soft_wrap=True)
    return 0


def verify(root: Path) -> list[str]:
    """All faults of a study, one sentence each; empty if it is whole.

    Raises
    ------
    StudyError
        The manifest itself is missing, altered or of another schema version: nothing can be checked against it.
    """
    manifest = read_manifest(root)
    faults: list[str] = []
    for shard in tracked(manifest.shards, "shards verified"):
        try:
            _check_shard(root, manifest, shard)
        except (StudyError, OSError) as error:
            faults.append(f"shard {shard.name}: {error}")
    for check in tracked((_check_embeddings, _check_splits, _check_transforms, _check_strangers), "other checks"):
        faults += check(root, manifest)
    for folder in _SEALED:
        faults += [str(broken) for broken in broken_seals(root / folder) if not any(str(broken.path) in fault for fault in faults)]
    return faults


def _unsealed(root: Path) -> list[str]:
    faults: list[str] = []
    for folder in _SEALED:
        with contextlib.suppress(StudyError):  # a damaged list is a fault of its own
            faults += [f"{folder}/{name}" if folder else name for name in unsealed(root / folder) if not _HASHED.search(name)]
    return faults


def _is_of_earlier_version(folder: Path) -> bool:
    with contextlib.suppress(StudyError):
        return (folder / SEALS).is_file() and not read_seals(folder).guarded
    return False


def _check_shard(root: Path, manifest: Manifest, shard: Shard) -> None:
    name = shard.name
    index, trials = read_shard_tables(root, manifest, shard)
    tar = root / f"{name}.tar"
    altered = sha256_file(tar) != shard.tar_sha256
    try:
        rebuilt = reindex.rebuild_tables(tar, manifest)
    except StudyError as error:
        raise StudyError(f"{error} (its SHA-256 is not the manifest's: altered)" if altered else str(error)) from error
    if altered:
        raise StudyError(f"{tar}: SHA-256 is not the {shard.tar_sha256[:12]}… of the manifest: altered, or the tar of another study")
    for kind, expected, found in zip(("index", "trials"), rebuilt, (index, trials), strict=True):
        if not np.array_equal(expected, found):
            row = int((expected != found).argmax()) if len(expected) == len(found) else min(len(expected), len(found))
            raise StudyError(f"{root / name}.{kind}.npy: row {row} does not agree with {name}.tar: it belongs to another tar")
    done = root / f"{name}.done.json"
    if read_done(done).manifest_row(int(name)) != shard:
        raise StudyError(f"{done}: its rows, bytes or hashes are not the manifest's, expected the same")


def _check_embeddings(root: Path, manifest: Manifest) -> Iterator[str]:
    num_stimuli = len(manifest.tables.stimuli)
    for name, facts in manifest.embeddings.items():
        try:
            path = root / "embeddings" / f"{schema.check_embedding_name(name)}.npy"
            if not path.is_file():
                raise StudyError(f"{path}: no such file")
            if sha256_file(path) != facts.sha256:
                raise StudyError(f"{path}: SHA-256 is not the {facts.sha256[:12]}… of the manifest: altered")
            table = read_array(path)
            if table.shape != (num_stimuli, facts.dim) or table.dtype != np.float32:
                raise StudyError(f"{path}: {table.dtype} {table.shape}, expected float32 {(num_stimuli, facts.dim)}")
        except (StudyError, ValueError) as error:
            yield str(error)


def _check_splits(root: Path, manifest: Manifest) -> Iterator[str]:
    names = split_names(root)
    try:
        pairs = [read_shard_tables(root, manifest, shard) for shard in manifest.shards]
        table = repetition_table([index for index, _ in pairs], [trials for _, trials in pairs])
    except StudyError:
        return  # said of the shard already
    for name in names:
        try:
            split = read_split(root, manifest, name)
            assign_parts(split, table)
            audited = read_audit(root, name)
            if audited is None or audited.split_hash != split.hash:
                raise StudyError(f"{audit_path(root, name)}: missing or of another split: run `python -m data_prep audit`")
        except (UserError, KeyError) as error:
            yield str(error)


def _check_transforms(root: Path, manifest: Manifest) -> Iterator[str]:
    hashes = {read_json(root / "splits" / f"{name}.json").get("hash") for name in split_names(root)}
    for path in sorted((root / "transforms").glob("*.npz")):
        try:
            if str(read_archive(path, ["split_hash"])["split_hash"]) not in hashes:
                yield f"{path}: fitted on a split that is not here: make the split again with its transform"
        except StudyError as error:
            yield str(error)


def _check_strangers(root: Path, manifest: Manifest) -> Iterator[str]:
    """A tar that the manifest does not list would still be read by whoever globs ``*.tar``."""
    listed = {f"{shard.name}.tar" for shard in manifest.shards}
    for path in sorted(root.glob("*.tar")):
        if path.name not in listed:
            yield f"{path}: not listed in the manifest, expected only {len(listed)} shards"
