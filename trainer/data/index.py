"""A study as training sees it: tables in memory, tars mapped, nothing parsed.

``StudyIndex.open(root)`` reads the manifest and the small tables beside the shards and checks their sizes and hashes; a
tar is mapped read-only when it is first touched, and its pages come and go with the operating system's cache.
"""

from __future__ import annotations

import mmap
import resource
from pathlib import Path

import numpy as np

from data_prep.contract import schema
from data_prep.contract.errors import StudyError, UserError
from data_prep.contract.files import sha256_file
from data_prep.contract.manifest import (
    Manifest,
    RepetitionTable,
    Signal,
    Split,
    assign_parts,
    read_manifest,
    read_shard_tables,
    read_split,
    repetition_table,
)

_SPARE_FILES = 256
"""Files that the process needs beside the mapped tars (sockets, logs, libraries)."""


class StudyIndex:
    """Read-only view of one study folder; make it with :meth:`open`.

    Attributes
    ----------
    root : Path
        The study's folder.
    manifest : dict
        As :func:`read_manifest` gives it.
    signal : dict
        ``manifest.signal``: unit, sfreq, tmin, n_times, n_chans, ch_names, positions, dtype.
    samples : np.ndarray
        All shards' index rows, joined, with a last column ``shard`` (int32): (n_samples,).
    table : RepetitionTable
        Every repetition of the study, in shard order.
    """

    def __init__(self, root: Path, manifest: Manifest, samples: np.ndarray, table: RepetitionTable) -> None:
        self.root = root
        self.manifest = manifest
        self.signal: Signal = manifest.signal
        self.samples = samples
        self.table = table
        self._tars: list[memoryview | None] = [None] * len(manifest.shards)
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
        root = Path(root)
        manifest = read_manifest(root)
        shards = manifest.shards
        if not shards:
            raise StudyError(f"{root / 'manifest.json'}: lists no shards, expected at least one")
        _allow_open_files(len(shards) + _SPARE_FILES, root)
        tables = [read_shard_tables(root, manifest, shard) for shard in shards]
        repetition_bytes = repetition_shape_bytes(manifest.signal)
        for shard, (index, _) in zip(shards, tables, strict=True):
            wrong = np.flatnonzero(index["eeg_bytes"] != index["n_reps"].astype(np.uint64) * np.uint64(repetition_bytes))
            if len(wrong):
                raise StudyError(
                    f"{root / shard.name}.index.npy: row {wrong[0]} has {index['eeg_bytes'][wrong[0]]} bytes of EEG, "
                    f"expected n_reps {index['n_reps'][wrong[0]]} times {repetition_bytes}"
                )
        first = tables[0][0].dtype
        samples = np.empty(sum(len(index) for index, _ in tables), np.dtype([*first.descr, ("shard", "<i4")]))
        for name in first.names or ():
            samples[name] = np.concatenate([index[name] for index, _ in tables])
        samples["shard"] = np.repeat(np.arange(len(tables)), [len(index) for index, _ in tables])
        table = repetition_table([index for index, _ in tables], [trials for _, trials in tables])
        return cls(root, manifest, samples, table)

    def tar_path(self, shard: int) -> Path:
        """File of shard number ``shard``."""
        return self.root / f"{self.manifest.shards[shard].name}.tar"

    def tar(self, shard: int) -> memoryview:
        """Bytes of a shard's tar, mapped at the first call."""
        view = self._tars[shard]
        if view is None:
            path, expected = self.tar_path(shard), self.manifest.shards[shard].tar_bytes
            try:
                with path.open("rb") as file:
                    view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            except (OSError, ValueError) as error:
                raise StudyError(f"{path}: cannot be mapped into memory ({error})") from None
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
            array = np.load(path, allow_pickle=False)
            expected = (len(self.manifest.tables.stimuli), facts.dim)
            if array.shape != expected or array.dtype.kind != "f":
                raise StudyError(f"{path}: {array.dtype} {array.shape}, expected float32 {expected}")
            self._embeddings[name] = np.ascontiguousarray(array, np.float32)
        return self._embeddings[name]

    def split(self, name: str) -> Split:
        """``splits/NAME.json``, checked against this study."""
        return self._split(name)[0]

    def rows(self, split: str, part: str) -> np.ndarray:
        """Row numbers (in :attr:`table`, ascending) of the repetitions in a part of a split: int64.

        Empty if the split has no such part.
        """
        if part not in schema.PARTS:
            raise UserError(f"part is {part!r}, expected one of {schema.PARTS}")
        return np.flatnonzero(self._split(split)[1] == schema.PARTS.index(part) + 1)

    def _split(self, name: str) -> tuple[Split, np.ndarray]:
        if name not in self._splits:
            split = read_split(self.root, self.manifest, name)
            self._splits[name] = (split, assign_parts(split, self.table))
        return self._splits[name]


def repetition_shape_bytes(signal: Signal) -> int:
    """Bytes of one repetition in a tar: n_chans x n_times x the stored dtype's size."""
    return int(signal.n_chans) * int(signal.n_times) * eeg_dtype(signal).itemsize


def eeg_dtype(signal: Signal) -> np.dtype:
    """Stored dtype of the EEG, little-endian."""
    if signal.dtype not in schema.EEG_DTYPES:
        raise StudyError(f"manifest: signal dtype {signal.dtype!r}, expected one of {sorted(schema.EEG_DTYPES)}")
    return np.dtype(schema.EEG_DTYPES[signal.dtype])


def _allow_open_files(wanted: int, root: Path) -> None:
    # A mapping keeps its file open; the usual limit of 1,024 is a soft one that a process may raise itself.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or wanted <= soft:
        return
    if hard != resource.RLIM_INFINITY and wanted > hard:
        raise StudyError(f"{root}: needs {wanted} open files, this system allows {hard}: use larger shards or raise `ulimit -n`")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
