"""A finished study opened for whatever prepares or explains data: tables in memory, samples by number from mapped tars."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.contract import schema
from data_prep.contract.manifest import Manifest, RepetitionTable, read_manifest, read_shard_tables, repetition_table


@dataclass(frozen=True, kw_only=True, eq=False)
class StudyFolder:
    """Read-only view; make it with :func:`open_study`. Samples are numbered through the whole study, in shard order."""

    root: Path
    manifest: Manifest
    index: np.ndarray
    """All shards' index rows, joined: (n_samples,)."""
    shard: np.ndarray
    """Shard number of every sample."""
    table: RepetitionTable
    """Every repetition."""
    _tars: dict[int, np.ndarray] = field(default_factory=dict)

    def _bytes(self, sample: int, member: str) -> np.ndarray:
        shard, row = int(self.shard[sample]), self.index[sample]
        if shard not in self._tars:
            # One mapping at a time: samples are read in order, and a study may have more shards than a process may open files.
            self._tars.clear()
            self._tars[shard] = np.memmap(self.root / f"{self.manifest.shards[shard].name}.tar", np.uint8, "r")
        start = int(row[f"{member}_offset"])
        return self._tars[shard][start : start + int(row[f"{member}_bytes"])]

    def eeg(self, sample: int) -> np.ndarray:
        """EEG of one sample in its stored dtype: (n_reps, n_chans, n_times)."""
        signal = self.manifest.signal
        data = self._bytes(sample, "eeg").view(schema.EEG_DTYPES[signal.dtype])
        return data.reshape(int(self.index["n_reps"][sample]), signal.n_chans, signal.n_times)

    def description(self, sample: int) -> dict[str, Any]:
        """What ``KEY.json`` says of one sample."""
        return json.loads(self._bytes(sample, "json").tobytes())

    def first_repetition(self) -> np.ndarray:
        """Row in :attr:`table` of each sample's first repetition: (n_samples,)."""
        return np.cumsum(self.index["n_reps"]) - self.index["n_reps"]


def open_study(root: str | Path) -> StudyFolder:
    """Open a finished study; sizes and table hashes are checked.

    Raises
    ------
    StudyError
        One sentence naming the file.
    """
    root = Path(root)
    manifest = read_manifest(root)
    pairs = [read_shard_tables(root, manifest, shard) for shard in manifest.shards]
    return StudyFolder(
        root=root,
        manifest=manifest,
        index=np.concatenate([index for index, _ in pairs]),
        shard=np.repeat(np.arange(len(pairs)), [len(index) for index, _ in pairs]),
        table=repetition_table([index for index, _ in pairs], [trials for _, trials in pairs]),
    )
