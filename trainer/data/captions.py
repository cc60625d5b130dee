"""Captions of a study's stimuli, read from the ``.txt`` members of its shards."""

from __future__ import annotations

from typing import Literal

import numpy as np

from data_prep.contract.errors import CommandError
from trainer.data.index import StudyIndex

Missing = Literal["refuse", "drop"]


class StudyCaptions:
    """Captions by stimulus number; make it with :meth:`open`."""

    def __init__(self, captions: list[list[str]]) -> None:
        self.captions = captions

    @classmethod
    def open(cls, index: StudyIndex) -> StudyCaptions:
        """Read every stimulus' captions, once each.

        Raises
        ------
        CommandError, StudyError
            The study was sharded without captions; a tar that cannot be read.
        """
        if "txt_offset" not in (index.samples.dtype.names or ()):
            raise CommandError(f"{index.root}: this study has no captions: shard it with captions (captions.json beside the images)")
        captions: list[list[str]] = [[] for _ in index.manifest.tables.stimuli]
        stimuli, rows = np.unique(index.samples["stimulus"], return_index=True)
        for stimulus, row in zip(stimuli.tolist(), rows.tolist(), strict=True):
            sample = index.samples[row]
            text = index.read(*(np.array([int(sample[name])]) for name in ("shard", "txt_offset", "txt_bytes"))).tobytes()
            captions[stimulus] = [line for line in text.decode("utf-8", errors="replace").split("\n") if line.strip()]
        return cls(captions)

    def of(self, stimulus: int) -> list[str]:
        """Captions of a stimulus; empty where it has none."""
        return self.captions[stimulus]

    def has(self, stimulus_N: np.ndarray) -> np.ndarray:
        """Which of the stimuli have a caption: bool."""
        return np.array([bool(self.captions[s]) for s in stimulus_N.tolist()], dtype=bool)

    def check(self, index: StudyIndex, stimulus_N: np.ndarray, missing: Missing, part: str) -> int:
        """How many of the part's stimuli have no caption; refused unless they may be dropped.

        Raises
        ------
        CommandError
            One sentence: how many, of how many, and the first.
        """
        without = stimulus_N[~self.has(stimulus_N)]
        if len(without) and (missing == "refuse" or len(without) == len(stimulus_N)):
            first = index.manifest.tables.stimuli[int(without[0])].id
            raise CommandError(
                f"{index.root}: {len(without)} of {len(stimulus_N)} {part} stimuli have no caption (first {first!r}): caption them, or set "
                "stage.missing_captions: drop to leave them out"
            )
        return len(without)
