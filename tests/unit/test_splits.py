"""Splits keep their promise, validation repeats the test's claim, the audit tells, transforms see training trials only."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.contract import schema
from data_prep.contract.errors import StudyError
from data_prep.contract.files import read_json
from data_prep.contract.records import to_json
from data_prep.contract.split import assign_parts, read_split
from data_prep.shards.open import StudyFolder, open_study
from data_prep.splits import transforms
from data_prep.splits.audit import audit
from data_prep.splits.config import SplitConfig
from data_prep.splits.policies import find
from data_prep.splits.split import folds, make_split, run, write_split
from tests.helpers.shared_data import shared_data
from tests.helpers.tiny_study import write_tiny_study


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("studies")
    return {
        "image": write_tiny_study(root / "image", n_subjects=4, n_stimuli=48, n_test=4, images_per_concept=4, samples_per_shard=64),
        "class": write_tiny_study(root / "class", stimulus_level="class", n_recordings=4, n_reps=10, samples_per_shard=64),
    }


@pytest.fixture(scope="module")
def image(folders: dict[str, Path]) -> StudyFolder:
    return open_study(folders["image"])


@pytest.fixture(scope="module")
def classes(folders: dict[str, Path]) -> StudyFolder:
    return open_study(folders["class"])


def parts(study: StudyFolder, field: str, **fields: Any) -> list[set[int]]:
    """Ids of ``field`` in train, validation and test."""
    split = make_split(SplitConfig(study=str(study.root), **fields), "x", study)
    part = assign_parts(split, study.table)
    return [set(study.table.column(field)[part == number].tolist()) for number in (1, 2, 3)]


def disjoint(sets: list[set[int]]) -> bool:
    return sum(map(len, sets)) == len(set().union(*sets))


def test_zero_shot_validates_on_unseen_concepts(image: StudyFolder) -> None:
    concepts = parts(image, "concept", policy="zero-shot", num_validation_concepts=3)
    assert disjoint(concepts)
    assert [len(c) for c in concepts] == [8, 3, 4]
    assert parts(image, "stimulus", policy="zero-shot")[2] == {44, 45, 46, 47}
    assert parts(image, "concept", policy="zero-shot", num_test_concepts=5)[2] != {11, 12, 13, 14}
    assert len(parts(image, "row", policy="zero-shot", num_validation_concepts=0)[1]) == 0
    assert parts(image, "subject", policy="zero-shot", subjects=["02"]) == [{1}, {1}, {1}]


def test_choices_follow_the_seed(image: StudyFolder) -> None:
    first, again, other = (
        make_split(SplitConfig(study=str(image.root), policy="zero-shot", num_validation_concepts=3, seed=seed), "x", image)
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first.hash != other.hash


def test_subject_validates_on_another_subject(image: StudyFolder) -> None:
    assert disjoint(parts(image, "subject", policy="subject", test_subjects=["02"]))
    assert parts(image, "subject", policy="subject", test_subjects=["02"])[2] == {1}
    # as published: the test images are unseen, too, and so are validation's
    assert disjoint(parts(image, "concept", policy="subject"))
    seen = parts(image, "stimulus", policy="subject", unseen_stimuli=False)
    assert seen[0] == seen[1] == seen[2] == set(range(48))


def test_closed_set_tests_new_images_of_known_concepts(image: StudyFolder) -> None:
    stimuli = parts(image, "stimulus", policy="closed-set")
    assert disjoint(stimuli)
    assert [len(s) for s in stimuli] == [22 + 4, 11, 11]  # a concept of one image is only trained on
    train, validation, test = parts(image, "concept", policy="closed-set")
    assert validation <= train
    assert test <= train


def test_recording_validates_on_another_recording(classes: StudyFolder) -> None:
    recordings = parts(classes, "recording", policy="recording", test_recordings=["sub-01_run-02"])
    assert disjoint(recordings)
    assert recordings[2] == {1}
    assert recordings[1] < {0, 2, 3}
    assert parts(classes, "recording", policy="recording")[2] == {3, 7}


def test_folds_test_every_recording_once(folders: dict[str, Path]) -> None:
    study = open_study(folders["class"])
    run(SplitConfig(study=str(study.root), policy="recording", name="loro", folds=True, subjects=["01"]))
    seen = []
    for number in range(4):
        split = read_split(study.root, study.manifest, f"loro-{number:02d}")
        part = assign_parts(split, study.table)
        seen += np.unique(study.table.recording[part == 3]).tolist()
        assert set(study.table.subject[part > 0].tolist()) == {0}
        assert read_json(study.root / "splits" / f"loro-{number:02d}.audit.json")["verdict"] == "sound"
    assert seen == [0, 1, 2, 3]


EVERY = [f"sub-{s:02d}_run-{r:02d}" for s in (1, 2) for r in (1, 2, 3, 4)]


@pytest.mark.parametrize("subjects", [["01"], ["03"]])
def test_one_subject_is_no_fold(image: StudyFolder, subjects: list[str]) -> None:
    for count in (0, 1):
        config = SplitConfig(study=str(image.root), policy="subject", folds=True, subjects=subjects, num_validation_subjects=count)
        (fold,) = folds(config, image)
        with pytest.raises(StudyError, match=f"subject {subjects[0]} as the test no subject is left to train on"):
            make_split(fold, "x", image)


@pytest.mark.parametrize("num_train", [2, 3, 4, 5, 19, 25])
def test_a_part_of_one_image_is_not_chosen_where_two_can_be_and_is_audited(tmp_path: Path, num_train: int) -> None:
    root = write_tiny_study(tmp_path / "study", n_subjects=1, n_stimuli=num_train + 1, n_test=1, images_per_concept=1, n_reps=1)
    study = open_study(root)
    split = make_split(SplitConfig(study=str(root), policy="zero-shot"), "x", study)
    found = {finding.message: finding.level for finding in audit(study, split).findings if finding.kind == "alone"}
    alone = {name: f"the {name} part shows a single image: there is nothing to tell apart" for name in schema.PARTS}
    expected = {alone["test"]: "problem"}
    expected |= {alone["train"]: "problem"} if num_train == 2 else {}
    expected |= {alone["validation"]: "caution"} if num_train < 4 else {}
    assert found == expected


@pytest.mark.parametrize(
    ("which", "fields", "message"),
    [
        ("class", {"policy": "zero-shot"}, "names no test images"),
        ("class", {"policy": "closed-set"}, "no concept has 3 images"),
        ("class", {"policy": "recording", "test_recordings": ["run-9"]}, "'run-9' is not in this study"),
        ("class", {"policy": "recording", "test_recordings": ["sub-02_run-01"], "subjects": ["01"]}, "no trials of the chosen subjects"),
        ("class", {"policy": "recording", "num_validation_recordings": 4}, "num_validation_recordings is 4"),
        ("class", {"policy": "recording", "num_validation_recordings": 3, "subjects": ["01"]}, "expected at most 2"),
        ("class", {"policy": "subject"}, "num_validation_subjects is 1, expected at most 0: .*, set num_validation_subjects to 0"),
        (
            "class",
            {"policy": "subject", "num_validation_subjects": 0, "test_subjects": ["01", "02"]},
            "no subject is left to train on",
        ),
        ("class", {"policy": "subject", "subjects": ["01"]}, "subject 01 as the test no subject is left to train on"),
        ("class", {"policy": "recording", "num_validation_recordings": 0, "test_recordings": EVERY}, "no recording is left to train on"),
        ("image", {"policy": "zero-shot", "num_validation_concepts": 11}, "num_validation_concepts is 11, expected at most 10"),
        ("image", {"policy": "zero-shot", "subjects": ["9"]}, "subjects: '9' is not in this study"),
    ],
)
def test_impossible_splits_are_one_sentence(folders: dict[str, Path], which: str, fields: dict, message: str) -> None:
    study = open_study(folders[which])
    with pytest.raises(StudyError, match=message) as caught:
        make_split(SplitConfig(study=str(study.root), **fields), "x", study)
    assert "\n" not in str(caught.value)


def test_what_a_refusal_says_to_set_is_accepted(folders: dict[str, Path]) -> None:
    study = open_study(folders["class"])
    split = make_split(SplitConfig(study=str(study.root), policy="subject", num_validation_subjects=0), "x", study)
    assert split.parts["validation"] == []


def test_a_label_that_is_not_there_lists_those_that_are_and_counts_the_rest() -> None:
    with pytest.raises(StudyError, match=r"test_recordings: 'run-9' is not in this study, expected some of 0, 1, .*, 19 and 1,980 more$"):
        find("test_recordings", ["run-9"], [str(number) for number in range(2000)])
    with pytest.raises(StudyError, match=r"expected some of 0, 1$"):
        find("test_recordings", ["run-9"], ["0", "1"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"policy": "zero-shot", "folds": True}, "folds is true with policy 'zero-shot'"),
        ({"policy": "recording", "test_subjects": ["01"]}, "test_subjects is given with policy 'recording'"),
        ({"policy": "subject", "transform": "mvnn"}, "transform is 'mvnn' with policy 'subject'"),
        ({"policy": "closed-set", "test_share": 0.0}, "test_share is 0.0"),
        ({"policy": "zero-shot", "name": "../x"}, "split name '../x'"),
    ],
)
def test_contradictory_configs_name_the_field(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SplitConfig(study="s", **fields)


def test_a_different_split_of_that_name_is_not_replaced_silently(folders: dict[str, Path]) -> None:
    config = SplitConfig(study=str(folders["image"]), policy="zero-shot", name="mine", num_validation_concepts=3)
    split, _ = write_split(config)
    assert write_split(config)[0] == split
    with pytest.raises(StudyError, match="a different split of this name"):
        write_split(SplitConfig(study=str(folders["image"]), policy="closed-set", name="mine"))
    assert write_split(SplitConfig(study=str(folders["image"]), policy="closed-set", name="mine", overwrite=True))[0] != split


# ------------------------------------------------------------------------------------------------------------ audit


def findings(study: StudyFolder, split: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {finding["kind"]: finding for finding in to_json(audit(study, split))["findings"]}


def test_audit_calls_a_clean_split_sound(image: StudyFolder, classes: StudyFolder) -> None:
    for study, policy in ((image, "zero-shot"), (classes, "recording")):
        report = audit(study, make_split(SplitConfig(study=str(study.root), policy=policy), "x", study))
        assert report.verdict == "sound"
        assert "shows that a model" in report.claim
        assert sum(facts["trials"] for facts in report.parts.values()) == len(study.table)


def test_audit_finds_shared_ids_that_break_the_claim(image: StudyFolder) -> None:
    split = make_split(SplitConfig(study=str(image.root), policy="zero-shot"), "x", image)
    split = replace(split, parts={"train": [{"repetition": [0, 1]}], "validation": [], "test": [{"repetition": [2, 3]}]})
    report = audit(image, split)
    assert report.verdict == "unsound"
    assert "does NOT show" in report.claim
    found = {finding.kind for finding in report.findings if finding.level == "problem"}
    assert {"stimulus_overlap", "concept_overlap"} <= found


def test_audit_finds_block_designs(image: StudyFolder, classes: StudyFolder) -> None:
    # In the tiny image study all repetitions of a concept follow each other, as in EEGCVPR40.
    blocked = make_split(SplitConfig(study=str(image.root), policy="closed-set"), "x", image)
    assert findings(image, blocked)["block_design"]["level"] == "problem"
    # Unseen concepts cannot be told by drift, and mixed labels are no blocks.
    assert "block_design" not in findings(image, make_split(SplitConfig(study=str(image.root), policy="zero-shot"), "x", image))
    mixed = make_split(SplitConfig(study=str(classes.root), policy="recording"), "x", classes)
    rows = np.arange(len(classes.table))
    mixed = replace(mixed, parts={"train": [{"row": rows[::2].tolist()}], "validation": [], "test": [{"row": rows[1::2].tolist()}]})
    report = findings(classes, mixed)
    assert "block_design" not in report
    assert report["recording_overlap"]["level"] == "problem"


def test_audit_finds_imbalance_and_missing_classes(classes: StudyFolder) -> None:
    split = make_split(SplitConfig(study=str(classes.root), policy="recording"), "x", classes)
    house, face = (np.flatnonzero(classes.table.concept == c).tolist() for c in (0, 1))
    split = replace(
        split, parts={"train": [{"row": house[:40] + face[:20]}], "validation": [{"row": face[20:40]}], "test": [{"row": face[40:60]}]}
    )
    report = findings(classes, split)
    assert report["imbalance"]["part"] == "train"
    assert report["class_missing"]["level"] == "problem"


def test_audit_says_what_the_source_has_lost_and_that_it_is_whitened(tmp_path: Path) -> None:
    study = open_study(write_tiny_study(tmp_path / "s", n_reps=20, n_subjects=1, n_chans=8))
    split = make_split(SplitConfig(study=str(study.root), policy="zero-shot"), "x", study)
    for labels in (study.manifest.tables.sessions, study.manifest.tables.recordings):
        labels[0] = schema.UNKNOWN
    study = replace(study, manifest=replace(study.manifest, signal=replace(study.manifest.signal, unit="zscore")))
    report = findings(study, split)
    assert report["session_unknown"]["level"] == report["recording_unknown"]["level"] == "caution"
    assert report["whitened_source"]["level"] == "caution"


# ------------------------------------------------------------------------------------------------------- transforms


def test_ledoit_wolf_from_sums_equals_scikit_learn() -> None:
    from sklearn.covariance import ledoit_wolf

    x = np.random.RandomState(0).standard_normal((40, 6)) @ np.random.RandomState(1).standard_normal((6, 6))
    expected, _ = ledoit_wolf(x, assume_centered=True)
    ours = transforms.ledoit_wolf(x.T @ x / 40, float(((x**2).sum(1) ** 2).mean()), 40)
    assert np.allclose(ours, expected, rtol=1e-12)


def load(study: StudyFolder, name: str) -> dict[str, np.ndarray]:
    with np.load(study.root / "transforms" / f"{name}.npz", allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def test_mvnn_whitens_the_noise_within_stimuli(image: StudyFolder) -> None:
    split, _ = write_split(SplitConfig(study=str(image.root), policy="zero-shot", name="white", transform="mvnn"))
    arrays = load(image, "white")
    assert str(arrays["split_hash"]) == split.hash
    assert str(arrays["kind"]) == "mvnn"
    assert list(zip(arrays["subject"].tolist(), arrays["session"].tolist(), strict=True)) == [(s, k) for s in range(4) for k in range(2)]
    part = assign_parts(split, image.table)
    sigma = transforms.noise_covariance(image, part, (2, 1))
    white = arrays["matrix"][5] @ sigma @ arrays["matrix"][5].T
    assert np.allclose(white, np.eye(4), atol=1e-5)
    assert abs(sigma - 0.25 * np.eye(4)).max() < 0.05  # the tiny study's noise has standard deviation 0.5


def test_mvnn_of_classes_takes_the_class_mean_out(classes: StudyFolder) -> None:
    write_split(SplitConfig(study=str(classes.root), policy="recording", name="white", transform="mvnn"))
    matrix = load(classes, "white")["matrix"]
    assert abs(matrix - 2 * np.eye(4)).max() < 0.4


def test_zscore_gives_unit_channels(classes: StudyFolder) -> None:
    split, _ = write_split(SplitConfig(study=str(classes.root), policy="recording", name="scaled", transform="zscore"))
    arrays, part = load(classes, "scaled"), assign_parts(split, classes.table)
    rows = np.flatnonzero((part == 1) & (classes.table.subject == 1))
    eeg = np.concatenate([classes.eeg(i) for i in classes.table.sample[rows]]).astype(np.float64)
    y = arrays["matrix"][1] @ (eeg - arrays["mean"][1][:, None])
    assert np.allclose(y.mean(axis=(0, 2)), 0, atol=1e-3)
    assert np.allclose(y.std(axis=(0, 2)), 1, atol=1e-3)


def test_a_transform_reads_training_trials_only(image: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    split = make_split(SplitConfig(study=str(image.root), policy="zero-shot"), "x", image)
    read, eeg = set(), StudyFolder.eeg
    monkeypatch.setattr(StudyFolder, "eeg", lambda self, sample: (read.add(int(sample)), eeg(self, sample))[1])
    transforms.fit_transform(image, split, "mvnn")
    assert read == set(image.table.sample[assign_parts(split, image.table) == 1].tolist())


def test_a_session_without_training_trials_is_refused(image: StudyFolder) -> None:
    # In the tiny image study a recording is a session.
    config = SplitConfig(study=str(image.root), policy="recording", name="no", transform="zscore", num_validation_recordings=0)
    with pytest.raises(StudyError, match="session 02 has no training trials"):
        write_split(config)
    assert not (image.root / "splits" / "no.json").exists()


def test_mvnn_without_repetitions_is_refused(tmp_path: Path) -> None:
    study = open_study(write_tiny_study(tmp_path / "s", n_reps=1, n_sessions=1))
    with pytest.raises(StudyError, match="no stimulus has two training repetitions"):
        write_split(SplitConfig(study=str(study.root), policy="zero-shot", transform="mvnn"))


def test_transform_files_are_reproducible(classes: StudyFolder) -> None:
    arrays = load(classes, "white") if (classes.root / "transforms" / "white.npz").exists() else {"a": np.eye(2)}
    first = transforms.write_transform(classes.root, "once", arrays).read_bytes()
    assert transforms.write_transform(classes.root, "twice", arrays).read_bytes() == first


# -------------------------------------------------------------------------------------------------- real recordings


@pytest.mark.long
def test_real_recordings_from_csv_to_audited_folds(tmp_path: Path) -> None:
    from data_prep.shards.verify import verify
    from data_prep.shards.write import ShardConfig, write_study
    from data_prep.studies.muse import MuseReaderConfig

    reader = MuseReaderConfig(root=str(shared_data() / "muse_visual" / "eeg" / "N170"), subjects=("1",))
    write_study(ShardConfig(reader=reader, output=str(tmp_path / "muse")))
    run(SplitConfig(study=str(tmp_path / "muse"), policy="recording", folds=True, transform="mvnn"))
    assert verify(tmp_path / "muse") == []
    reports = [read_json(path) for path in sorted((tmp_path / "muse" / "splits").glob("*.audit.json"))]
    assert [report["verdict"] for report in reports] == ["sound"] * 6
    assert sum(report["parts"]["test"]["trials"] for report in reports) == len(open_study(tmp_path / "muse").table)
