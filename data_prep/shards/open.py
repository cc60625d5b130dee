"""A finished study opened for whatever prepares or explains data: samples by number, from tars whose hashes are checked."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.contract.json_text import parse_json
from data_prep.contract.open_study import OpenStudy, read_study
from data_prep.contract.tars import Tars


class StudyFolder(OpenStudy):
    """Read-only view; make it with :func:`open_study`."""

    @cached_property
    def _tars(self) -> Tars:
        return Tars(self)

    @cached_property
    def _checked(self) -> set[int]:
        return set()

    def _bytes(self, sample: int, member: str) -> bytearray:
        row = self.samples[sample]
        shard = int(row["shard"])
        if shard not in self._checked:
            # One tar open at a time: samples are read in order, and a study may have more shards than a process may open files.
            self._tars.close()
            self._tars.check(shard)
            self._checked.add(shard)
        return self._tars.read(shard, int(row[f"{member}_offset"]), int(row[f"{member}_bytes"]))

    def eeg(self, sample: int) -> np.ndarray:
        """EEG of one sample in its stored dtype: (n_reps, n_chans, n_times).

        Raises
        ------
        StudyError
            The tar it lies in, which is hashed when it is first read, is not the one that was written.
        """
        signal = self.manifest.signal
        data = np.frombuffer(self._bytes(sample, "eeg"), signal.eeg_dtype)
        return data.reshape(int(self.samples["n_reps"][sample]), signal.n_chans, signal.n_times)

    def description(self, sample: int) -> dict[str, Any]:
        """What ``KEY.json`` says of one sample; raises as :meth:`eeg` does."""
        said: dict[str, Any] = parse_json(bytes(self._bytes(sample, "json")), f"{self.root}: the JSON of sample {sample}")
        return said

    def captions(self, sample: int) -> list[str]:
        """Captions of one sample's stimulus, none where the study has none; raises as :meth:`eeg` does."""
        if not self.manifest.captions:
            return []
        text = bytes(self._bytes(sample, "txt")).decode("utf-8", errors="replace")
        return [line for line in text.split("\n") if line.strip()]

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
