"""EEG-CLIP's folder: rows paired with images by count, and refused where counts cannot tell."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.contract.errors import StudyError
from data_prep.shards.open import open_study
from data_prep.shards.write import ShardConfig, write_study
from data_prep.studies.eeg_clip import EegClipReaderConfig
from data_prep.studies.trials import TrialsConfig
from tests.helpers.eeg_clip import write_layout
from tests.helpers.shared_data import shared_data

FILE = "eeg/sub-01/preprocessed_eeg_training.npy"


def opened(root: Path, **options: Any):
    return EegClipReaderConfig(root=str(root), **options).open()


@pytest.mark.parametrize(("concepts", "images"), [(6, 3), (1, 5), (48, 1), (7, 10)])
def test_row_i_belongs_to_image_i_and_to_concept_i_by_images_of_a_concept(tmp_path: Path, concepts: int, images: int) -> None:
    eeg = write_layout(tmp_path, concepts=concepts, images=images, n_chans=4, n_times=100, subjects=("01",))
    source = opened(tmp_path)
    assert [stimulus.concept for stimulus in source.facts.stimuli] == [i // images for i in range(concepts * images)]
    for i, plan in enumerate(source.samples):
        stimulus = source.facts.stimuli[plan.stimulus]
        concept, image = divmod(i, images)
        assert stimulus.image == f"training_images/{concept + 1:05d}_thing{concept:02d}/thing{concept:02d}_{image + 1:02d}s.jpg"
        assert source.facts.concepts[stimulus.concept] == f"thing{concept:02d}"
        np.testing.assert_array_equal(source.eeg(i), eeg[i])
    right = sum(row // images == row for row in range(concepts))
    assert source.facts.preprocessing["pairs_of_eeg_clip_itself"] == {"row_i_with_concept_i": concepts, "right": right}
    assert right == (concepts if images == 1 else 1)


def test_facts_are_the_published_ones_or_stated(tmp_path: Path) -> None:
    write_layout(tmp_path)
    facts = opened(tmp_path).facts
    assert (facts.sfreq, facts.tmin, facts.n_times, facts.unit, facts.ch_names[0]) == (100.0, -0.2, 100, "zscore", "Pz")
    assert facts.preprocessing["sfreq"].startswith("assumed")
    assert facts.preprocessing["ch_names"].startswith("assumed")
    stated = opened(tmp_path, sfreq=50.0, tmin=0.0, ch_names=tuple(f"X{i}" for i in range(17))).facts
    assert (stated.sfreq, stated.tmin, stated.ch_names[16]) == (50.0, 0.0, "X16")
    assert "sfreq" not in stated.preprocessing
    write_layout(tmp_path / "other", n_chans=5, n_times=250)
    with pytest.raises(StudyError, match="250 time points and no times, so no rate: say sfreq and tmin"):
        opened(tmp_path / "other")
    assert opened(tmp_path / "other", sfreq=250.0, tmin=-0.2).facts.ch_names == ["E001", "E002", "E003", "E004", "E005"]


@pytest.mark.parametrize("dtype", ["<f2", "<f8", ">f4", "<i2", "<i8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_dtypes_and_memory_orders(tmp_path: Path, dtype: str, order: Any) -> None:
    eeg = np.asarray(20 * write_layout(tmp_path, subjects=("01",)), dtype=dtype, order=order)
    np.save(tmp_path / FILE, eeg)
    source = opened(tmp_path, unit="microvolts")
    np.testing.assert_array_equal(source.eeg(4), eeg[4].astype(np.float32))
    with pytest.raises(StudyError, match="no z-scores, as microvolts"):
        opened(tmp_path)


def test_the_published_dict_says_channels_and_times_itself(tmp_path: Path) -> None:
    eeg = write_layout(tmp_path, subjects=("01",), n_chans=3, n_times=50)
    content = {"preprocessed_eeg_data": eeg, "ch_names": ["Pz", "Oz", "O1"], "times": np.arange(50) / 250 - 0.1}
    np.save(tmp_path / FILE, np.array(content, dtype=object), allow_pickle=True)
    facts = opened(tmp_path).facts
    assert (facts.sfreq, facts.tmin, facts.ch_names) == (250.0, -0.1, ["Pz", "Oz", "O1"])
    np.save(tmp_path / FILE, np.array({**content, "times": 1000 * content["times"]}, dtype=object), allow_pickle=True)
    converted = opened(tmp_path).facts
    assert (converted.sfreq, converted.tmin) == (250.0, -0.1)
    assert converted.preprocessing["times_unit"].startswith("times in milliseconds")
    np.save(tmp_path / FILE, np.array({**content, "times": content["times"][:40]}, dtype=object), allow_pickle=True)
    with pytest.raises(StudyError, match="40 times for 50 points"):
        opened(tmp_path)


def test_a_test_part_and_another_number_of_repetitions_are_read(tmp_path: Path) -> None:
    write_layout(tmp_path)
    write_layout(tmp_path, part="test", concepts=4, images=1, repetitions=5, seed=1)
    source = opened(tmp_path, trials=TrialsConfig(tmin=0.0))
    assert [stimulus.part for stimulus in source.facts.stimuli].count("test") == 4
    assert source.eeg(len(source.samples) - 1).shape == (5, 17, 80)
    assert len(source.samples) == 2 * (18 + 4)


def test_what_macos_leaves_and_upper_case_endings(tmp_path: Path) -> None:
    eeg = write_layout(tmp_path, subjects=("01",))
    folder = tmp_path / "images/training_images/00001_thing00"
    (folder / "._thing00_01s.jpg").write_bytes(b"x")
    (folder / "thing00_01s.jpg").rename(folder / "thing00_01s.JPG")
    (tmp_path / "images/training_images/.DS_Store").write_bytes(b"x")
    (tmp_path / "eeg/sub-01/._preprocessed_eeg_training.npy").write_bytes(b"x")
    source = opened(tmp_path)
    np.testing.assert_array_equal(source.eeg(0), eeg[0])
    assert str(source.facts.stimuli[0].image).endswith("thing00_01s.JPG")


def test_concepts_that_differ_in_their_number_alone_keep_it(tmp_path: Path) -> None:
    write_layout(tmp_path, subjects=("01",), concepts=2)
    (tmp_path / "images/training_images/00002_thing01").rename(tmp_path / "images/training_images/00002_thing00")
    assert opened(tmp_path).facts.concepts == ["00001_thing00", "00002_thing00"]


def test_a_name_without_part_is_the_training_part_where_it_is_the_only_one(tmp_path: Path) -> None:
    eeg = write_layout(tmp_path, subjects=("01",))
    (tmp_path / FILE).rename(tmp_path / "eeg/sub-01/eeg.npy")
    np.testing.assert_array_equal(opened(tmp_path).eeg(2), eeg[2])
    shutil.copy(tmp_path / "eeg/sub-01/eeg.npy", tmp_path / "eeg/sub-01/eeg2.npy")
    with pytest.raises(StudyError, match=r"holds eeg\.npy, eeg2\.npy, expected one training array"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda eeg: eeg[:-1], r"17 rows, .* has 6 concepts of 3 images: expected 18 rows"),
        (lambda eeg: eeg[:6], "6 rows"),
        (lambda eeg: np.concatenate([eeg, eeg]), "36 rows"),
        (lambda eeg: eeg[:, 0], r"shape \(18, 17, 100\) and dtype float32, expected numbers \(rows, repetitions, channels, time points\)"),
        (lambda eeg: eeg.astype(complex), "dtype complex128"),
        (lambda eeg: eeg[:, :0], r"shape \(18, 0, 17, 100\)"),
        (lambda eeg: eeg.transpose(0, 1, 3, 2), "more channels than time points: transposed"),
        (lambda eeg: np.where(np.arange(100) == 7, np.nan, eeg), "not one of 18 measured trials has finite numbers alone"),
        (lambda eeg: eeg + 1e4, "are no z-scores"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path: Path, change: Any, message: str) -> None:
    eeg = write_layout(tmp_path, subjects=("01",))
    np.save(tmp_path / FILE, change(eeg))
    with pytest.raises(StudyError, match=message):
        opened(tmp_path)


def test_transposed_arrays_are_told_by_ch_names(tmp_path: Path) -> None:
    eeg = write_layout(tmp_path, subjects=("01",))
    np.save(tmp_path / FILE, eeg.transpose(0, 1, 3, 2))
    with pytest.raises(StudyError, match="it is transposed"):
        opened(tmp_path, ch_names=tuple(f"X{i}" for i in range(17)))


def test_folders_that_do_not_fit(tmp_path: Path) -> None:
    write_layout(tmp_path)
    images = tmp_path / "images/training_images"
    (images / "00003_thing02/thing02_01s.jpg").unlink()
    with pytest.raises(StudyError, match=r"00003_thing02: has 2 images, expected 3 as 5 other concepts"):
        opened(tmp_path)
    with pytest.raises(StudyError, match="expected 10 as images_per_concept"):
        opened(tmp_path, images_per_concept=10)
    with pytest.raises(StudyError, match="has no sub-07 folder; it has 01, 02"):
        opened(tmp_path, subjects=("07",))
    shutil.rmtree(images)
    with pytest.raises(StudyError, match="images/training_images: no such folder"):
        opened(tmp_path)


def test_subjects_must_agree(tmp_path: Path) -> None:
    write_layout(tmp_path, subjects=("01",))
    write_layout(tmp_path, subjects=("02",), n_chans=16)
    with pytest.raises(StudyError, match=r"sub-02.*has 16 channels.*has 17 channels"):
        opened(tmp_path)
    write_layout(tmp_path, subjects=("02",))
    write_layout(tmp_path, subjects=("02",), part="test", images=1)
    with pytest.raises(StudyError, match="sub-02: has training, test, sub-01 training: expected the same"):
        opened(tmp_path)
    (tmp_path / "eeg/sub-02/preprocessed_eeg_test.npy").unlink()
    write_layout(tmp_path, subjects=("01",), part="test", images=1)
    with pytest.raises(StudyError, match="sub-02: has training, sub-01 training, test"):
        opened(tmp_path)


def test_case_s01_eegclip_layout(tmp_path: Path) -> None:
    root = shared_data() / "cases/s01_eegclip_layout/data"
    write_study(ShardConfig(reader=EegClipReaderConfig(root=str(root)), output=str(tmp_path / "study")))
    study = open_study(tmp_path / "study")
    assert study.manifest.tables.concepts == ["aardvark", "abacus", "accordion"]
    assert [stimulus.concept for stimulus in study.manifest.tables.stimuli] == [0, 0, 1, 1, 2, 2]
    assert study.manifest.preprocessing["pairs_of_eeg_clip_itself"] == {"row_i_with_concept_i": 3, "right": 1}


@pytest.mark.parametrize(
    "options", [{"sfreq": 100.0}, {"subjects": ()}, {"ch_names": ("a", "a")}, {"images_per_concept": 0}, {"sfreq": -1.0, "tmin": 0.0}]
)
def test_configs_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        EegClipReaderConfig(root="x", **options)
