"""A finished study opened: manifest and small tables read once and checked, for whoever trains, splits, explains or audits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.contract.errors import StudyError
from data_prep.contract.manifest import Manifest, Shard, read_manifest
from data_prep.contract.repetitions import RepetitionTable, read_shard_tables, repetition_table


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenStudy:
    """What opening a study reads; tars stay untouched but for their size. Samples are numbered through all shards, in order."""

    root: Path
    manifest: Manifest
    samples: np.ndarray
    """All shards' index rows, joined, with a last column ``shard`` (int32): (n_samples,)."""
    table: RepetitionTable
    """Every repetition."""

    def tar_path(self, shard: int) -> Path:
        """File of shard number ``shard``."""
        return self.root / f"{self.manifest.shards[shard].name}.tar"


def read_study(root: str | Path) -> OpenStudy:
    """Read and check manifest and tables: hashes, sizes, dtypes, offsets inside the tars, bytes of EEG.

    Raises
    ------
    StudyError
        One sentence naming the file, what was found and what was expected.
    """
    root = Path(root)
    manifest = read_manifest(root)
    if not manifest.shards:
        raise StudyError(f"{root / 'manifest.json'}: lists no shards, expected at least one")
    pairs = [read_shard_tables(root, manifest, shard) for shard in manifest.shards]
    indexes = [index for index, _ in pairs]
    for shard, index in zip(manifest.shards, indexes, strict=True):
        _check_eeg_bytes(root, manifest, shard, index)
    table = repetition_table(indexes, [trials for _, trials in pairs])
    return OpenStudy(root=root, manifest=manifest, samples=_join(indexes), table=table)


def _check_eeg_bytes(root: Path, manifest: Manifest, shard: Shard, index: np.ndarray) -> None:
    repetition_bytes = manifest.signal.repetition_bytes
    wrong = np.flatnonzero(index["eeg_bytes"] != index["n_reps"].astype(np.uint64) * np.uint64(repetition_bytes))
    if len(wrong):
        raise StudyError(
            f"{root / shard.name}.index.npy: row {wrong[0]} has {index['eeg_bytes'][wrong[0]]} bytes of EEG, "
            f"expected n_reps {index['n_reps'][wrong[0]]} times {repetition_bytes}"
        )


def _join(indexes: list[np.ndarray]) -> np.ndarray:
    first = indexes[0].dtype
    samples = np.empty(sum(map(len, indexes)), np.dtype([*first.descr, ("shard", "<i4")]))
    for name in first.names or ():
        samples[name] = np.concatenate([index[name] for index in indexes])
    samples["shard"] = np.repeat(np.arange(len(indexes)), [len(index) for index in indexes])
    return samples
