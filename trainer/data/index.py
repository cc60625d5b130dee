"""A study as training sees it: tables in memory, tars open, nothing parsed.

``StudyIndex.open(root)`` reads a study as everybody does (:func:`data_prep.contract.open_study.read_study`). A tar is opened
when it is first touched, and then its hash is checked, too (:mod:`trainer.data.hashes`).
"""

from __future__ import annotations

import contextlib
import resource
from pathlib import Path

import numpy as np

from data_prep.contract import schema
from data_prep.contract.arrays import read_array
from data_prep.contract.errors import CommandError, StudyError, UserError
from data_prep.contract.files import sha256_file
from data_prep.contract.open_study import OpenStudy, read_study
from data_prep.contract.progress import tracked
from data_prep.contract.split import Split, assign_parts, read_split, split_names
from data_prep.contract.tars import Tars
from trainer.data.hashes import ShardHashes, Verify
from trainer.data.reader import read_pieces

_SPARE_FILES = 256
"""Files that the process needs beside the tars (sockets, logs, libraries)."""


class StudyIndex:
    """Read-only view of one study folder; make it with :meth:`open`.

    Attributes
    ----------
    root : Path
        The study's folder.
    manifest : Manifest
    signal : Signal
        The manifest's.
    samples : np.ndarray
        All shards' index rows, joined, with a last column ``shard`` (int32): (n_samples,).
    table : RepetitionTable
        Every repetition of the study, in shard order.
    """

    def __init__(self, study: OpenStudy, verify: Verify) -> None:
        self._study = study
        self.root = study.root
        self.manifest = study.manifest
        self.signal = study.manifest.signal
        self.samples = study.samples
        self.table = study.table
        self._tars = Tars(study)
        self._hashes = ShardHashes(self._tars) if verify == "first_touch" else None
        self._splits: dict[str, tuple[Split, np.ndarray]] = {}
        self._embeddings: dict[str, np.ndarray] = {}

    @classmethod
    def open(cls, root: str | Path, *, verify: Verify = "first_touch") -> StudyIndex:
        """Open the study in the folder ``root``.

        Parameters
        ----------
        root
            The study's folder.
        verify
            See :attr:`trainer.data.config.DataConfig.verify`.

        Raises
        ------
        StudyError
            One sentence naming the file, what was found and what was expected.
        """
        study = read_study(root)
        _allow_open_files(len(study.manifest.shards) + _SPARE_FILES, study.root)
        index = cls(study, verify)
        if verify == "all":
            for shard in tracked(range(len(study.manifest.shards)), "shards verified"):
                index._tars.check(shard)
        return index

    def tar_path(self, shard: int) -> Path:
        """File of shard number ``shard``."""
        return self._study.tar_path(shard)

    def check_shard(self, shard: int) -> None:
        """Read a shard's tar whole and hold its SHA-256 against the manifest's.

        Raises
        ------
        StudyError
            It is not the one that was written; the message names it.
        """
        self._tars.check(shard)

    def read(self, shards: np.ndarray, offsets: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Pieces of tars, one after the other: uint8 (sum of ``lengths``,).

        Parameters
        ----------
        shards, offsets, lengths
            Shard number, first byte and bytes of each piece: int (n,).

        Raises
        ------
        StudyError
            A tar that ends before a piece does or cannot be read, or one read earlier whose hash is not the manifest's.
        """
        if self._hashes is not None:
            self._hashes.touch(np.unique(shards).tolist())
        return read_pieces(self._tars, shards, offsets, lengths)

    @property
    def watched(self) -> bool:
        """Whether a shard that changes after it was read is told of, by the hash of what it is then: see :meth:`settle`."""
        return self._hashes is not None

    def settle(self) -> None:
        """Wait until the hash of every shard read so far is known: before anything computed from them is kept or told.

        Raises
        ------
        StudyError
            A shard is not the one that was written; the message names it.
        """
        if self._hashes is not None:
            self._hashes.settle()

    def embedding(self, name: str) -> np.ndarray:
        """The gallery ``embeddings/NAME.npy``: float32 (n_stimuli, dim), its hash checked."""
        if name not in self._embeddings:
            facts = self.manifest.embeddings.get(schema.check_embedding_name(name))
            if facts is None:
                have = ", ".join(sorted(self.manifest.embeddings)) or "none"
                raise StudyError(f"{self.root}: no embedding {name!r}; this study has {have}")
            path = self.root / "embeddings" / f"{name}.npy"
            found = sha256_file(path) if path.is_file() else "no such file"
            if found != facts.sha256:
                raise StudyError(f"{path}: SHA-256 {found[:12]}, the manifest says {facts.sha256[:12]}: altered or missing")
            array = read_array(path)
            expected = (len(self.manifest.tables.stimuli), facts.dim)
            if array.shape != expected or array.dtype.kind != "f":
                raise StudyError(f"{path}: {array.dtype} {array.shape}, expected float32 {expected}")
            array = np.ascontiguousarray(array, np.float32)
            if not (finite := np.isfinite(array)).all():
                stimulus = self.manifest.tables.stimuli[int(np.argwhere(~finite)[0][0])].id
                raise StudyError(f"{path}: the embedding of stimulus {stimulus} is not finite, expected numbers: embed the study again")
            self._embeddings[name] = array
        return self._embeddings[name]

    def split(self, name: str) -> Split:
        """``splits/NAME.json``, checked against this study."""
        return self._split(name)[0]

    def split_of(self, content: str) -> str | None:
        """Name of a split whose hash is ``content``, whatever it is called; None: there is none, or it cannot be read."""
        for name in split_names(self.root):
            with contextlib.suppress(UserError):
                if self.split(name).hash == content:
                    return name
        return None

    def rows(self, split: str, part: str) -> np.ndarray:
        """Row numbers (in :attr:`table`, ascending) of the repetitions in a part of a split: int64.

        Empty if the split has no such part.
        """
        if part not in schema.PARTS:
            raise CommandError(f"part is {part!r}, expected one of {schema.PARTS}")
        return np.flatnonzero(self._split(split)[1] == schema.PARTS.index(part) + 1)

    def _split(self, name: str) -> tuple[Split, np.ndarray]:
        if name not in self._splits:
            split = read_split(self.root, self.manifest, name)
            self._splits[name] = (split, assign_parts(split, self.table))
        return self._splits[name]


def _allow_open_files(wanted: int, root: Path) -> None:
    # Every tar that was touched stays open; the usual limit of 1,024 is a soft one that a process may raise itself.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or wanted <= soft:
        return
    if hard != resource.RLIM_INFINITY and wanted > hard:
        raise StudyError(f"{root}: needs {wanted} open files, this system allows {hard}: use larger shards or raise `ulimit -n`")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
