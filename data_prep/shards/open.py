"""A finished study opened for whatever prepares or explains data: samples by number from mapped tars."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.contract.open_study import OpenStudy, read_study


@dataclass(frozen=True, kw_only=True, eq=False)
class StudyFolder(OpenStudy):
    """Read-only view; make it with :func:`open_study`."""

    _tars: dict[int, np.ndarray] = field(default_factory=dict)

    def _bytes(self, sample: int, member: str) -> np.ndarray:
        row = self.samples[sample]
        shard = int(row["shard"])
        if shard not in self._tars:
            # One mapping at a time: samples are read in order, and a study may have more shards than a process may open files.
            self._tars.clear()
            self._tars[shard] = np.memmap(self.tar_path(shard), np.uint8, "r")
        start = int(row[f"{member}_offset"])
        return self._tars[shard][start : start + int(row[f"{member}_bytes"])]

    def eeg(self, sample: int) -> np.ndarray:
        """EEG of one sample in its stored dtype: (n_reps, n_chans, n_times)."""
        signal = self.manifest.signal
        data = self._bytes(sample, "eeg").view(signal.eeg_dtype)
        return data.reshape(int(self.samples["n_reps"][sample]), signal.n_chans, signal.n_times)

    def description(self, sample: int) -> dict[str, Any]:
        """What ``KEY.json`` says of one sample."""
        said: dict[str, Any] = json.loads(self._bytes(sample, "json").tobytes())
        return said

    def first_repetition(self) -> np.ndarray:
        """Row in :attr:`table` of each sample's first repetition: (n_samples,)."""
        first: np.ndarray = np.cumsum(self.samples["n_reps"]) - self.samples["n_reps"]
        return first


def open_study(root: str | Path) -> StudyFolder:
    """Open a finished study, checked as :func:`read_study` does.

    Raises
    ------
    StudyError
        One sentence naming the file.
    """
    return StudyFolder(**vars(read_study(root)))
