"""Cut trials as laboratories have them (readers with a process of their own in a fork), and archives as others publish them."""

from __future__ import annotations

import io
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow
import pyarrow.parquet
from scipy.io import savemat

from data_prep.fetch.sources import COLUMNS, read_sources
from data_prep.fetch.unpack import folder_of, unpack
from data_prep.studies.arrays import ArraysReaderConfig
from data_prep.studies.cut_fif import open_fif
from data_prep.studies.epochs import EpochsReaderConfig
from data_prep.studies.lookup import Lookup, LookupConfig
from data_prep.studies.trial_tables import read_trial_table
from tests.fuzz.continuous import in_forks
from tests.fuzz.harness import Target
from tests.helpers import cut_trials as cut


def recordings(folder: Path) -> Iterator[Target]:
    """One format each."""
    folder.mkdir(parents=True, exist_ok=True)
    yield from _cut_trials(folder)
    yield from _published()


def _cut_trials(folder: Path) -> Iterator[Target]:
    eeg_BCT = cut.trials()
    metadata = {"image": [f"c/{i % 4}.jpg" for i in range(len(eeg_BCT))]}
    fif = cut.write_fif(folder / "sub-01-epo.fif", eeg_BCT, metadata=metadata).read_bytes()
    yield Target(name="cut-fif", suffix="-epo.fif", seeds=[fif], read=_read_fif, inputs=20)
    labels = np.array(["a", "b"] * 8)
    arrays = io.BytesIO()
    np.savez(arrays, X=eeg_BCT.astype(np.float32), y=labels, times=np.arange(eeg_BCT.shape[2]) / 100, ch_names=np.array(cut.CH_NAMES))
    yield Target(name="cut-arrays", suffix=".npz", seeds=[arrays.getvalue()], read=_read_arrays)
    for name, write in (("mat", _write_mat), ("h5", _write_hdf5)):
        write(folder / f"a.{name}", eeg_BCT)
        seeds = [(folder / f"a.{name}").read_bytes()]
        yield Target(name=f"cut-arrays-{name}", suffix=f".{name}", seeds=seeds, read=_read_arrays, inputs=8)
    eeglab = [cut.write_eeglab(folder / "a.set", eeg_BCT, ["left"] * len(eeg_BCT)).read_bytes()]
    yield Target(name="cut-eeglab", suffix=".set", seeds=eeglab, read=_read_eeglab, inputs=8)
    savemat(folder / "order.mat", {"order": np.arange(1, 30), "names": np.array(["a"], dtype=object)}, do_compression=True)
    yield Target(name="lookup-vector", suffix=".mat", seeds=[(folder / "order.mat").read_bytes()], read=_look_up, inputs=8)
    yield Target(
        name="trial-table-json",
        suffix=".json",
        seeds=[b'[{"image": "a", "n": 1}, {"image": "b"}]', b'{"y": [1, 2], "z": ["a", null]}'],
        read=read_trial_table,
    )
    yield Target(
        name="trial-table-csv", suffix=".csv", seeds=[b"image,session\na/1.jpg,1\nb/2.jpg,2\n", b"y\tz\n1\t2\n"], read=read_trial_table
    )
    table = pyarrow.table({"image": ["a/1.jpg", "b/2.jpg"] * 20, "n": list(range(40)), "when": [1.5, None] * 20})
    parquet = io.BytesIO()
    pyarrow.parquet.write_table(table, parquet)
    yield Target(name="trial-table-parquet", suffix=".parquet", seeds=[parquet.getvalue()], read=_read_parquet, inputs=10)
    yield Target(name="trial-table-eve", suffix=".eve", seeds=[b"# MNE\n100 0 1\n200 0 2\n"], read=read_trial_table)


def _read_fif(path: Path) -> None:
    opened = open_fif(path)
    opened.read(range(opened.num_trials), range(len(opened.header.ch_names)))


def _write_mat(file: Path, eeg_BCT: np.ndarray) -> None:
    savemat(file, {"X": eeg_BCT, "y": np.array(["a", "b"] * 8, dtype=object), "ch_names": np.array(cut.CH_NAMES, dtype=object)})


def _write_hdf5(file: Path, eeg_BCT: np.ndarray) -> None:
    with h5py.File(file, "w") as content:
        content.create_dataset("X", data=eeg_BCT, chunks=(2, 4, 50), compression="gzip")
        content["y"] = ["a", "b"] * 8
        content["ch_names"] = list(cut.CH_NAMES)


def _read_arrays(path: Path) -> None:
    facts: dict[str, Any] = {"sfreq": 100.0, "tmin": 0.0, "unit": "microvolts"}
    with in_forks():
        opened = ArraysReaderConfig(root=str(path.parent), files=f"{{subject}}{path.suffix}", **facts).open_file(path, {}, None)
    opened.read(range(opened.num_trials), range(len(opened.header.ch_names)))


def _read_eeglab(path: Path) -> None:
    with in_forks():
        opened = EpochsReaderConfig(root=str(path.parent), files="{subject}.set").open_file(path, {}, None)
    opened.read(range(opened.num_trials), range(len(opened.header.ch_names)))


def _read_parquet(path: Path) -> None:
    with in_forks():
        read_trial_table(path)


def _look_up(path: Path) -> None:
    with in_forks():
        Lookup([LookupConfig(file=path.name, variable="order")], path.parent)


def _published() -> Iterator[Target]:
    rows = [
        list(COLUMNS),
        ["mine", "", "", "https://e.org", "", "", "CC0", "words"],
        ["mine", "p", "a/b", "https://e.org/{path}", "3", "unknown", "", ""],
    ]
    yield Target(name="sources-table", suffix=".tsv", seeds=["\n".join("\t".join(row) for row in rows).encode()], read=read_sources)
    zipped, tarred = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/a.txt", b"a" * 500)
        archive.writestr("x/b/c.txt", b"b" * 20)
    with tarfile.open(fileobj=tarred, mode="w") as archive_of_tar:
        info = tarfile.TarInfo("x/a.txt")
        info.size = 500
        archive_of_tar.addfile(info, io.BytesIO(b"a" * 500))
    yield Target(name="unpack-zip", suffix=".zip", seeds=[zipped.getvalue()], read=_unpack)
    yield Target(name="unpack-tar", suffix=".tar", seeds=[tarred.getvalue()], read=_unpack)


def _unpack(path: Path) -> None:
    target = folder_of(path)
    assert target is not None
    shutil.rmtree(target, ignore_errors=True)
    before = set(path.parent.iterdir())
    try:
        unpack(path)
    finally:
        new = set(path.parent.iterdir()) - before
        assert new <= {target}, new
        shutil.rmtree(target, ignore_errors=True)
