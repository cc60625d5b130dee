"""A study as training sees it: tables in memory, tars mapped, nothing parsed.

``StudyIndex.open(root)`` reads a study as everybody does (:func:`data_prep.contract.open_study.read_study`). A tar is mapped
read-only when it is first touched, and its pages come and go with the operating system's cache.
"""

from __future__ import annotations

import contextlib
import mmap
import resource
from pathlib import Path

import numpy as np

from data_prep.contract import schema
from data_prep.contract.arrays import read_array
from data_prep.contract.errors import CommandError, StudyError, UserError
from data_prep.contract.files import sha256_file
from data_prep.contract.open_study import OpenStudy, read_study
from data_prep.contract.split import Split, assign_parts, read_split, split_names

_SPARE_FILES = 256
"""Files that the process needs beside the mapped tars (sockets, logs, libraries)."""


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

    def __init__(self, study: OpenStudy) -> None:
        self._study = study
        self.root = study.root
        self.manifest = study.manifest
        self.signal = study.manifest.signal
        self.samples = study.samples
        self.table = study.table
        self._tars: list[memoryview | None] = [None] * len(study.manifest.shards)
        self._splits: dict[str, tuple[Split, np.ndarray]] = {}
        self._embeddings: dict[str, np.ndarray] = {}

    @classmethod
    def open(cls, root: str | Path) -> StudyIndex:
        """Open the study in the folder ``root``.

        Raises
        ------
        StudyError
            One sentence naming the file, what was found and what was expected.
        """
        study = read_study(root)
        _allow_open_files(len(study.manifest.shards) + _SPARE_FILES, study.root)
        return cls(study)

    def tar_path(self, shard: int) -> Path:
        """File of shard number ``shard``."""
        return self._study.tar_path(shard)

    def tar(self, shard: int) -> memoryview:
        """Bytes of a shard's tar, mapped at the first call."""
        view = self._tars[shard]
        if view is None:
            path, expected = self.tar_path(shard), self.manifest.shards[shard].tar_bytes
            try:
                with path.open("rb") as file:
                    view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            except (OSError, ValueError) as error:
                raise StudyError(f"{path}: cannot be mapped into memory ({error})") from error
            if len(view) != expected:
                raise StudyError(f"{path}: {len(view)} bytes, expected {expected}: it changed since the study was opened")
            self._tars[shard] = view
        return view

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
            self._embeddings[name] = np.ascontiguousarray(array, np.float32)
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
    # A mapping keeps its file open; the usual limit of 1,024 is a soft one that a process may raise itself.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or wanted <= soft:
        return
    if hard != resource.RLIM_INFINITY and wanted > hard:
        raise StudyError(f"{root}: needs {wanted} open files, this system allows {hard}: use larger shards or raise `ulimit -n`")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
