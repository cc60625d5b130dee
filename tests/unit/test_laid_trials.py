"""Trials that stay in their file are those that would be kept elsewhere, and none of another file takes their place."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep.contract.errors import StudyError
from data_prep.contract.files import sha256_file
from data_prep.studies.arrays import SIDES, ArraysReaderConfig
from data_prep.studies.channels import ChannelsConfig
from data_prep.studies.cut_study import CutSource
from data_prep.studies.event_names import EventsNaming
from data_prep.studies.laid_trials import laid_trials, state_of
from data_prep.studies.trials import TrialsConfig

NAMES = ("Fz", "Cz", "Pz", "Oz", "EOG")
NUM, TIMES = 90, 120


class KeptElsewhere(ArraysReaderConfig):
    """As if no file had its trials one after the other."""

    def open_file(self, *args: Any) -> Any:
        return replace(super().open_file(*args), laid=None)


def make(root: Path, array_BCT: np.ndarray, order: tuple[int, ...] = (0, 1, 2)) -> dict[str, Any]:
    np.save(root / "sub-01.npy", np.ascontiguousarray(array_BCT.transpose(order)))
    (root / "sub-01.csv").write_text("image,run\n" + "".join(f"image{i % 7},{1 + i % 2}\n" for i in range(len(array_BCT))))
    return {
        "root": str(root),
        "files": "sub-{subject}.npy",
        "table": "{stem}.csv",
        "sfreq": 100.0,
        "tmin": -0.2,
        "unit": "microvolts",
        "ch_names": NAMES,
        "axes": tuple(SIDES[side] for side in order),
        "stimulus_level": "image",
        "concepts": "image",
        "events": EventsNaming(column="image"),
    }


def noise(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1000, (NUM, len(NAMES), TIMES))


CHANGES: list[dict[str, Any]] = [
    {},
    {"trials": TrialsConfig(tmin=-0.1, tmax=0.6)},
    {"trials": TrialsConfig(baseline_seconds=(-0.2, 0.0), resample_hz=50.0)},
    {"trials": TrialsConfig(band_hz=(2.0, 20.0))},
    {"zscore": "trial"},
    {"unit": "nanovolts"},
    {"channels": ChannelsConfig(drop=("Cz", "EOG"))},
]


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["<f4", "<f8", ">f4", "<f2", "<i2", "<i4"]),
    st.sampled_from([(0, 1, 2), (0, 2, 1), (1, 0, 2), (2, 1, 0)]),
    st.sampled_from(CHANGES),
)
def test_a_study_is_that_of_trials_kept_elsewhere(tmp_path: Path, dtype: str, order: tuple[int, ...], changes: dict[str, Any]) -> None:
    config = make(tmp_path, noise().astype(dtype), order) | changes
    source, kept = ArraysReaderConfig(**config).open(), KeptElsewhere(**config).open()
    assert source.facts == replace(kept.facts, preprocessing={**kept.facts.preprocessing, "reader": "arrays"})
    assert source.samples == kept.samples
    assert source.source_hash == kept.source_hash
    sent = pickle.loads(pickle.dumps(source)) if order[0] == 0 else source
    for i in range(len(source.samples)):
        assert source.eeg(i).dtype == np.float32
        for each in (source, sent):
            np.testing.assert_array_equal(each.eeg(i).view(np.uint32), kept.eeg(i).view(np.uint32))


def test_nothing_is_written_where_a_file_has_its_trials_one_after_the_other(tmp_path: Path) -> None:
    config = make(tmp_path, noise()) | {"scratch": str(tmp_path)}
    before = sorted(tmp_path.iterdir())
    source = ArraysReaderConfig(**config).open()
    assert sorted(tmp_path.iterdir()) == before
    source.eeg(0)
    assert sorted(tmp_path.iterdir()) == before


def cut_short(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 4 * TIMES)


def emptied(file: Path) -> None:
    os.truncate(file, 0)


def written_over(file: Path) -> None:
    with file.open("r+b") as stream:
        stream.seek(-4, os.SEEK_END)
        stream.write(b"\0\0\0\0")


def replaced(file: Path) -> None:
    other = file.with_name("other")
    np.save(other, noise(1))
    os.replace(f"{other}.npy", file)


@pytest.mark.parametrize("change", [cut_short, emptied, written_over, replaced, Path.unlink])
def test_a_file_that_is_another_one_than_was_opened_is_named(tmp_path: Path, change: Callable[[Path], None]) -> None:
    source: CutSource = ArraysReaderConfig(**make(tmp_path, noise())).open()
    sent = pickle.dumps(source)
    last = len(source.samples) - 1
    source.eeg(last)
    os.utime(tmp_path / "sub-01.npy", ns=(1, 1))
    with pytest.raises(StudyError, match=r"sub-01\.npy: changed while it was read"):
        source.eeg(last)
    source = ArraysReaderConfig(**make(tmp_path, noise())).open()
    change(tmp_path / "sub-01.npy")
    for each in (source, pickle.loads(sent)):
        for i in (0, last):
            with pytest.raises(StudyError, match=r"sub-01\.npy: changed while it was read"):
                each.eeg(i)


@pytest.mark.parametrize("column", range(len(NAMES)))
def test_a_gap_is_refused_where_it_is_in_the_study_alone(tmp_path: Path, column: int) -> None:
    gap = noise()
    gap[60, column, 5] = np.nan
    config = make(tmp_path, gap) | {"channels": ChannelsConfig(drop=("EOG",))}
    if NAMES[column] == "EOG":
        assert np.isfinite(ArraysReaderConfig(**config).open().eeg(0)).all()
        return
    for reader in (ArraysReaderConfig, KeptElsewhere):
        with pytest.raises(StudyError, match="trial 60 holds values that are no finite numbers, as do 0 more of 45"):
            reader(**config).open()


def test_a_file_that_is_read_whole_has_the_hash_of_its_bytes(tmp_path: Path) -> None:
    file = tmp_path / "a.npy"
    np.save(file, np.random.default_rng(0).normal(size=(700, 5, 333)))
    with file.open("ab") as stream:
        stream.write(b"\0" * 3)
    array = np.memmap(file, "<f8", "r", offset=128, shape=(700, 5, 333))
    laid = laid_trials(file, array, state_of(file))
    assert laid is not None
    assert laid.survey().sha256 == sha256_file(file)
    np.testing.assert_array_equal(laid.read([3, 4, 5, 2, 699], [4, 0]), array[[3, 4, 5, 2, 699]][:, [4, 0]])
    assert laid_trials(file, array[::2], state_of(file)) is None
    assert laid_trials(file, np.array(array), state_of(file)) is None


@pytest.mark.parametrize("matlab", [False, True])
@pytest.mark.parametrize("how", [{}, {"chunks": True}, {"compression": "gzip"}])
def test_hdf5_in_one_piece_is_read_where_it_lies(tmp_path: Path, how: dict[str, Any], matlab: bool) -> None:
    array_BCT = np.random.default_rng(0).normal(0, 20, (NUM, 64, 1000)).astype(np.float32)  # more than is read as names or times
    with h5py.File(tmp_path / "sub-01.h5", "w", userblock_size=512 if matlab else 0) as file:
        file.create_dataset("other", data=np.arange(5.0))
        node = file.create_dataset("eeg", data=array_BCT, **how)
        if matlab:
            node.attrs["MATLAB_class"] = np.bytes_("single")
    config = make(tmp_path, noise()) | {
        "files": "sub-{subject}.h5",
        "ch_names": [f"E{c}" for c in range(64)],
        "axes": ("times", "channels", "trials") if matlab else ("trials", "channels", "times"),
        "scratch": str(tmp_path / "scratch"),
    }
    (tmp_path / "sub-01.csv").write_text("image\n" + "".join(f"image{i % 7}\n" for i in range(NUM)))
    if how:
        with pytest.raises(FileNotFoundError):  # there is no such folder to keep them in
            ArraysReaderConfig(**config).open()
        config["scratch"] = str(tmp_path)
    source = ArraysReaderConfig(**config).open()
    np.testing.assert_array_equal(source.eeg(3), array_BCT[3::7])
    if not how:
        os.truncate(tmp_path / "sub-01.h5", 2**20)
        with pytest.raises(StudyError, match=r"sub-01\.h5: changed while it was read"):
            source.eeg(3)


def test_of_two_files_with_faults_the_first_is_named(tmp_path: Path) -> None:
    gap = noise()
    gap[4, 0, 0] = np.inf
    config = make(tmp_path, gap)
    np.save(tmp_path / "sub-02.npy", noise()[:, :3])  # fewer channels
    (tmp_path / "sub-02.csv").write_text((tmp_path / "sub-01.csv").read_text())
    with pytest.raises(StudyError, match=r"sub-01\.npy: trial 4 holds values that are no finite numbers"):
        ArraysReaderConfig(**config).open()
    np.save(tmp_path / "sub-01.npy", noise())
    with pytest.raises(StudyError, match=r"sub-02\.npy"):
        ArraysReaderConfig(**config).open()
