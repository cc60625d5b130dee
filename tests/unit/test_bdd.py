"""Brain Download Datasets: records as their software writes them, and what is refused in a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.contract import cli
from data_prep.contract.errors import StudyError
from data_prep.embed.classes import ClassesConfig
from data_prep.shards.open import open_study
from data_prep.shards.write import ShardConfig, write_study
from data_prep.splits.config import SplitConfig
from data_prep.splits.split import write_split
from data_prep.studies.bdd import BddReaderConfig, read_header
from data_prep.studies.cutting import CuttingConfig
from tests.helpers.bdd import EXPERIMENTS, save, write_layout, write_record
from tests.helpers.readme import ROOT

PLAIN = CuttingConfig(band_hz=None, tmin=0.0, tmax=1.9)


def opened(root: Path, **options: Any):
    return BddReaderConfig(root=str(root), **options).open()


@pytest.fixture
def record(tmp_path: Path) -> tuple[Path, np.ndarray]:
    file = tmp_path / "Image-Blank/a.csv"
    return file, write_record(file, ("Blank", "Image"), [0, 1, 1, 0, 1], rng=np.random.default_rng(0))


def test_every_stretch_of_tick_is_a_trial_of_the_class_that_the_header_names(tmp_path: Path, record: tuple[Path, np.ndarray]) -> None:
    _, table = record
    source = opened(tmp_path, trials=PLAIN)
    facts = source.facts
    assert (facts.sfreq, facts.tmin, facts.n_times, facts.unit) == (128.0, 0.0, 243, "microvolts")
    assert facts.ch_names == ["AF3", "AF4", "T7", "T8", "Pz"]
    assert facts.positions is not None
    assert [facts.concepts[plan.stimulus] for plan in source.samples] == ["Blank", "Image", "Image", "Blank", "Image"]
    for i in range(5):
        np.testing.assert_allclose(source.eeg(i)[0], table[255 * i : 255 * i + 243, [1, 5, 2, 4, 3]].T, rtol=1e-6)


def test_all_experiments_with_their_classes_sessions_and_recordings(tmp_path: Path) -> None:
    write_layout(tmp_path)
    source = opened(tmp_path)
    facts = source.facts
    assert set(facts.concepts) == {"Closed", "Open", *(name for names in EXPERIMENTS.values() for name in names)}
    assert facts.sessions == ["Baseline", "ImageBlank", "LeftRightArrows", "VisualQA"]
    assert facts.recordings[:3] == ["sub-01_ses-Baseline_run-01", "sub-01_ses-Baseline_run-02", "sub-01_ses-ImageBlank_run-01"]
    assert len(source.samples) == 8 * (2 + 3 * 3)
    assert np.abs(np.mean([source.eeg(i).mean() for i in range(8)])) < 5, "the amplifier's offset is filtered away"
    only = opened(tmp_path, experiments=("Left-Right_Arrows",))
    assert sorted(only.facts.concepts) == ["Center", "Left", "Right"]


def test_lost_packets_and_poor_contact_cost_trials_which_are_counted(tmp_path: Path, record: tuple[Path, np.ndarray]) -> None:
    file, table = record
    table[300, 8] = 75.0
    lost = np.delete(table, [600, 601], axis=0)
    save(file, ("Blank", "Image"), lost)
    source = opened(tmp_path, trials=PLAIN)
    counts = source.facts.preprocessing["trials"]
    assert (counts["marked"], counts["bad_segment"], counts["across_a_break"], counts["kept"]) == (5, 1, 1, 3)
    assert source.facts.preprocessing["trials_by_recording"][0]["file"] == {"lost_packets_at": 1}
    assert opened(tmp_path, trials=PLAIN, min_contact_quality=0.0).facts.preprocessing["trials"]["kept"] == 4


def test_normalised_and_saved_with_validation_apart_from_test(tmp_path: Path) -> None:
    write_layout(tmp_path / "bdd")
    reader = BddReaderConfig(root=str(tmp_path / "bdd"), experiments=("Image-Blank",))
    write_study(ShardConfig(reader=reader, output=str(tmp_path / "study"), embeddings={"classes": ClassesConfig()}))
    _, audit = write_split(SplitConfig(study=str(tmp_path / "study"), policy="recording", transform="zscore"))
    assert [audit.parts[part]["recordings"] for part in ("train", "validation", "test")] == [1, 1, 1]
    study = open_study(tmp_path / "study")
    fitted = np.load(tmp_path / "study/transforms/recording.npz")
    [train] = [row for row in range(3) if study.manifest.tables.recordings[row] not in audit_labels(study)]
    rows = np.flatnonzero(study.table.recording == train)
    eeg = np.concatenate([study.eeg(int(study.table.sample[row])).astype(np.float64) for row in rows])
    scaled = np.einsum("cd,rdt->rct", fitted["matrix"][0], eeg - fitted["mean"][0][:, None])
    np.testing.assert_allclose(scaled.std(axis=(0, 2)), 1, atol=1e-3)
    np.testing.assert_allclose(np.load(tmp_path / "study/embeddings/classes.npy"), np.eye(2))


def audit_labels(study: Any) -> set[str]:
    """Recordings of validation and test."""
    from data_prep.contract.split import assign_parts, read_split

    part = assign_parts(read_split(study.root, study.manifest, "recording"), study.table)
    return {study.manifest.tables.recordings[row] for row in np.unique(study.table.recording[part > 1])}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda text: text.replace("TICK", "TOCK"), "TICK is not there once"),
        (lambda text: text.replace("MARKERS", "MARKS"), "MARKERS is not there once"),
        (lambda text: text.replace("AF3", "T7", 1), "each once"),
        (lambda text: text.replace("AF3", "", 1), "each once"),
        (lambda text: text.rsplit(",", 1)[0], "not a table of numbers"),
        (lambda text: text.split("\n")[0] + "\n", "expected a record"),
        (lambda text: "", "has columns , expected COUNTER"),
        (lambda text: text.replace(", TICK", "").replace("ContactQuality", "TICK, ContactQuality, more"), "not a table|its header 10"),
    ],
)
def test_records_of_another_form(tmp_path: Path, record: tuple[Path, np.ndarray], edit: Any, message: str) -> None:
    file, _ = record
    file.write_text(edit(file.read_text()))
    with pytest.raises(StudyError, match=message) as caught:
        opened(tmp_path)
    assert str(file) in str(caught.value)


def test_markers_that_contradict(tmp_path: Path, record: tuple[Path, np.ndarray]) -> None:
    file, table = record
    for column, rows, value, message in (
        (6, slice(0, 255), 2, r"MARKERS is 2 in row 2, expected 0 to 1: the header names Blank, Image"),
        (6, slice(10, 20), 1, "MARKERS changes between rows 2 and 256 while TICK does not"),
        (7, slice(None), 0, "TICK is 0 in all 1275 rows"),
    ):
        changed = table.copy()
        changed[rows, column] = value
        save(file, ("Blank", "Image"), changed)
        with pytest.raises(StudyError, match=message):
            opened(tmp_path)


def test_folders_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="has no records of any experiment"):
        opened(tmp_path)
    write_layout(tmp_path, records=1)
    (tmp_path / "Baseline/._Open.csv").write_bytes(b"x")
    with pytest.raises(StudyError, match="has no records of Other; it has Baseline, Image-Blank"):
        opened(tmp_path, experiments=("Other",))
    with pytest.raises(ValueError, match="expected class"):
        BddReaderConfig(root="x", stimulus_level="image")


def test_a_header_with_a_byte_order_mark_and_upper_case_ending(tmp_path: Path, record: tuple[Path, np.ndarray]) -> None:
    file, _ = record
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    file = file.rename(file.with_suffix(".CSV"))
    assert read_header(file)[1] == ["Blank", "Image"]
    assert len(opened(tmp_path).samples) == 5


def test_the_shipped_configs_name_what_there_is() -> None:
    config = cli.parse(ShardConfig, ["--config", str(ROOT / "configs/data_prep/shard_bdd.yaml")])
    assert isinstance(config.reader, BddReaderConfig)
    assert isinstance(config.embeddings["classes"], ClassesConfig)
    assert cli.parse(SplitConfig, ["--config", str(ROOT / "configs/data_prep/split_bdd.yaml")]).transform == "zscore"
