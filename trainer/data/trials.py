"""Which trials a model was trained on, exactly: the rows of a study as a value that travels in JSON.

A trial is known by its row, which ``embed``, a new split, a new name or another place of the study leave alone. The set is a bit a row,
deflated, as text: of a million repetitions the usual split takes some hundred characters, a random half the most there is, 170,000.

R: repetitions of the study.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from data_prep.contract.errors import UserError
from data_prep.contract.files import sha256_json
from data_prep.contract.manifest import Manifest

if TYPE_CHECKING:
    from trainer.data.index import StudyIndex
    from trainer.data.loader import Loader


@dataclass(frozen=True, kw_only=True)
class TrialSet:
    """Some of a study's repetitions; make it with :meth:`of`."""

    rows_hash: str
    """Of the study, see :attr:`Manifest.rows_hash`."""
    names_hash: str
    """Of the study, see :attr:`Manifest.names_hash`."""
    num_rows: int
    """Repetitions of the study."""
    count: int
    """Those of them that are in the set."""
    packed: str
    """A bit a row, the first one highest, deflated (zlib), in base64."""
    sha256: str
    """Of all of the above."""

    def __post_init__(self) -> None:
        if self.sha256 != _digest(self.rows_hash, self.names_hash, self.num_rows, self.count, self.packed):
            raise UserError("its SHA-256 does not follow from its rows: altered")

    @classmethod
    def of(cls, manifest: Manifest, num_rows: int, rows: np.ndarray) -> TrialSet:
        """The repetitions with the numbers ``rows`` of a study that has ``num_rows``; the order and repeats of ``rows`` do not matter."""
        in_R = np.zeros(num_rows, bool)
        in_R[rows] = True
        packed = base64.b64encode(zlib.compress(np.packbits(in_R).tobytes(), 9)).decode()
        count, rows_hash, names_hash = int(in_R.sum()), manifest.rows_hash, manifest.names_hash
        sha256 = _digest(rows_hash, names_hash, num_rows, count, packed)
        return cls(rows_hash=rows_hash, names_hash=names_hash, num_rows=num_rows, count=count, packed=packed, sha256=sha256)

    def rows_in(self, index: StudyIndex) -> np.ndarray | None:
        """Row numbers in an opened study, ascending: int64 (count,); None: the set is of another study, or of one sharded otherwise.

        Raises
        ------
        UserError
            What is packed is not ``count`` rows of the study.
        """
        manifest, num_rows = index.manifest, len(index.table)
        if (self.rows_hash, self.names_hash) != (manifest.rows_hash, manifest.names_hash):
            return None
        size = -(-num_rows // 8)
        try:
            data = zlib.decompressobj().decompress(base64.b64decode(self.packed, validate=True), size + 1)
        except (zlib.error, binascii.Error) as error:
            raise UserError(f"trained trials: not packed rows of {index.root} ({error})") from error
        rows = np.flatnonzero(np.unpackbits(np.frombuffer(data, np.uint8)))
        if len(data) != size or len(rows) != self.count or (rows >= num_rows).any() or self.num_rows != num_rows:
            raise UserError(f"trained trials: {len(rows)} of {self.num_rows} rows, expected {self.count} of the {num_rows} of {index.root}")
        return rows


def _digest(*facts: str | int) -> str:
    return sha256_json(list(facts))


def trials_of(loader: Loader) -> TrialSet:
    """The repetitions of a part's items."""
    return TrialSet.of(loader.index.manifest, len(loader.index.table), loader.rows)


def trained_trials(loader: Loader) -> TrialSet:
    """What a training on ``loader``, a training part, learns from: the repetitions of its items, and where it has a transform all of the
    split's training part, which that was fitted on."""
    if loader.transform is None:
        return trials_of(loader)
    rows = np.union1d(loader.rows, loader.index.rows(loader.config.split, "train"))
    return TrialSet.of(loader.index.manifest, len(loader.index.table), rows)
