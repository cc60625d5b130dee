"""Where each repetition of a part lies: the arithmetic is done once, so that a batch is look-ups and reads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_prep.contract.errors import StudyError
from trainer.data.batch import Transform
from trainer.data.index import StudyIndex


@dataclass(frozen=True, kw_only=True)
class Places:
    """Repetitions of a part, in the study's order; each array is (R,)."""

    row: np.ndarray
    """Number in the study's table of repetitions."""
    shard: np.ndarray
    offset: np.ndarray
    """First byte in the shard's tar."""
    group: np.ndarray
    """Row of the transform that is applied; -1: none is."""

    def __len__(self) -> int:
        return len(self.row)

    @classmethod
    def of(cls, index: StudyIndex, rows: np.ndarray, group: np.ndarray) -> Places:
        """Look ``rows`` of the study's table up in its index."""
        sample = index.table.sample[rows]
        start = index.samples["eeg_offset"][sample].astype(np.int64)
        offset = start + index.table.repetition[rows].astype(np.int64) * index.signal.repetition_bytes
        return cls(row=rows, shard=index.samples["shard"][sample], offset=offset, group=group)

    def take(self, number: np.ndarray) -> Places:
        """Some of them."""
        return Places(**{name: array[number] for name, array in vars(self).items()})

    def runs(self, number: np.ndarray, repetition_bytes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Neighbours in a tar are read as one: shard, byte offset and repetitions of each run among these."""
        shards, offsets = self.shard[number], self.offset[number]
        begins = np.ones(len(number), bool)
        begins[1:] = (offsets[1:] - offsets[:-1] != repetition_bytes) | (shards[1:] != shards[:-1])
        starts = np.flatnonzero(begins)
        return shards[starts], offsets[starts], np.diff(starts, append=len(number))


def transform_groups(index: StudyIndex, transform: Transform | None, rows: np.ndarray, *, name: str, part: str) -> np.ndarray:
    """Row of a transform for each of ``rows`` of the study's table, by subject and session: int64 (R,), -1 without a transform.

    Parameters
    ----------
    name, part
        What the transform and the rows are called in an error.

    Raises
    ------
    StudyError
        The transform speaks of what the study lacks, or has nothing for one of the rows.
    """
    if transform is None:
        return np.full(len(rows), -1, np.int64)
    table, tables = index.table, index.manifest.tables
    for what, ids, table_of in (
        ("subject", transform.subject_K, tables.subjects),
        ("session", transform.session_K, tables.sessions),
    ):
        if len(ids) and not 0 <= ids.min() <= ids.max() < len(table_of):
            raise StudyError(f"transform {name!r} has a {what} outside 0..{len(table_of) - 1}: fit it again")
    lookup = np.full((len(tables.subjects), len(tables.sessions)), -1, np.int64)
    lookup[transform.subject_K, transform.session_K] = np.arange(len(transform.subject_K))
    subject, session = table.subject[rows], table.session[rows]
    group: np.ndarray = lookup[subject, session]
    missing = np.flatnonzero(group < 0)
    if len(missing):
        raise StudyError(
            f"transform {name!r} has nothing for subject {tables.subjects[subject[missing[0]]]} in session "
            f"{tables.sessions[session[missing[0]]]}, which {part} holds: it is fitted on training rows only"
        )
    return group
