"""EEGCVPR40 as Thought2Text has it: what is read, and what is refused in a sentence."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_prep.contract import safe_load
from data_prep.contract.errors import StudyError
from data_prep.contract.split import assign_parts
from data_prep.shards.open import open_study
from data_prep.shards.write import ShardConfig, write_study
from data_prep.splits.config import SplitConfig
from data_prep.splits.split import write_split
from data_prep.studies.eegcvpr40 import Eegcvpr40ReaderConfig, Eegcvpr40Source
from data_prep.studies.trials import TrialsConfig
from tests.helpers.eegcvpr40 import WNIDS, content, splits_by_image, write_layout
from tests.helpers.shared_data import shared_data


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    root = tmp_path_factory.mktemp("eegcvpr40")
    return root, write_layout(root)


def saved(tmp_path: Path, whole: Any, **options: Any) -> Path:
    torch.save(whole, tmp_path / "eeg.pth", **options)
    return tmp_path / "eeg.pth"


def opened(tmp_path: Path, whole: Any, **options: Any) -> Eegcvpr40Source:
    return Eegcvpr40ReaderConfig(path=str(saved(tmp_path, whole)), **options).open()


def small(**changes: Any) -> dict[str, Any]:
    return {**content(subjects=1, images_per_class=2, classes=2), **changes}


def test_trials_images_and_captions_belong_together(layout: tuple[Path, dict[str, Any]]) -> None:
    root, whole = layout
    source = Eegcvpr40ReaderConfig(path=str(root / "block/eeg_55_95_std.pth"), images=str(root / "images"), captions="refuse").open()
    facts = source.facts
    assert (facts.unit, facts.sfreq, facts.tmin, facts.n_times, facts.n_chans) == ("zscore", 1000.0, 0.02, 440, 128)
    assert facts.concepts == ["German shepherd", "Egyptian cat", "lycaenid butterfly"]
    assert facts.subjects == ["01", "02"]
    assert len(source.samples) == len(whole["dataset"]) == 36
    for i, plan in enumerate(source.samples):
        [trial] = plan.trial
        entry = whole["dataset"][trial]
        name = whole["images"][entry["image"]]
        stimulus = facts.stimuli[plan.stimulus]
        assert (stimulus.id, stimulus.image) == (name, f"{name.split('_')[0]}/{name}.JPEG")
        assert stimulus.concept == entry["label"]
        assert facts.captions is not None
        assert facts.captions[plan.stimulus] == [f"A picture of thing {entry['image']}."]
        np.testing.assert_array_equal(source.eeg(i)[0], entry["eeg"][:, 20:460].numpy())
        assert facts.recordings[plan.recording[0]] == f"sub-{entry['subject']:02d}_block-{whole['labels'][entry['label']]}"


def test_sketches_are_another_picture_of_the_same_image(layout: tuple[Path, dict[str, Any]]) -> None:
    root, _ = layout
    source = Eegcvpr40ReaderConfig(path=str(root / "block/eeg_55_95_std.pth"), images=str(root / "images"), image="sketch").open()
    assert all(str(stimulus.image).endswith("_sketch.JPEG") for stimulus in source.facts.stimuli)
    assert source.facts.captions is None


def test_official_split_is_a_view_and_the_audit_says_block_design(layout: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    root, whole = layout
    reader = Eegcvpr40ReaderConfig(path=str(root / "block/eeg_55_95_std.pth"), lengths=(480, 600))
    write_study(ShardConfig(reader=reader, output=str(tmp_path / "study")))
    file = str(root / "block/block_splits_by_image_all.pth")
    split, audit = write_split(SplitConfig(study=str(tmp_path / "study"), policy="official", file=file, name="by-image"))
    study = open_study(tmp_path / "study")
    part = assign_parts(split, study.table)
    trials = [trial for sample in range(len(study.samples)) for trial in study.description(sample)["trial"]]
    kept = {i for i, entry in enumerate(whole["dataset"]) if entry["eeg"].shape[1] >= 480}
    assert set(trials) == kept != set(range(len(whole["dataset"])))
    for number, name in ((1, "train"), (2, "val"), (3, "test")):
        assert {trials[row] for row in np.flatnonzero(part == number)} == kept & set(splits_by_image(whole)["splits"][0][name])
    assert audit.verdict == "unsound"
    [finding] = [finding for finding in audit.findings if finding.kind == "block_design"]
    assert "Li et al. 2021" in finding.message
    assert study.manifest.preprocessing["trials"] == {"in_file": 36, "of_other_length": 36 - len(kept), "kept": len(kept)}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zipped", [True, False])
def test_every_protocol_and_both_formats_of_torch(tmp_path: Path, protocol: int, zipped: bool) -> None:
    whole = small()
    path = saved(tmp_path, whole, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    source = Eegcvpr40ReaderConfig(path=str(path)).open()
    assert safe_load.load(path)["labels"] == whole["labels"]
    expected = {entry["image"]: entry["eeg"][:, 20:460].numpy() for entry in whole["dataset"]}
    for i, plan in enumerate(source.samples):
        np.testing.assert_array_equal(source.eeg(i)[0], expected[whole["images"].index(source.facts.stimuli[plan.stimulus].id)])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.bfloat16, torch.int16, torch.int32])
def test_every_dtype_of_numbers_is_read(tmp_path: Path, dtype: torch.dtype) -> None:
    whole = content(subjects=1, images_per_class=2, classes=2, dtype=dtype, scale=20.0)
    source = opened(tmp_path, whole, unit="microvolts")
    assert (source.facts.unit, source.eeg(0).dtype) == ("microvolts", np.float32)
    np.testing.assert_allclose(source.eeg(0)[0], whole["dataset"][0]["eeg"][:, 20:460].to(torch.float32).numpy())


def test_tensors_that_are_views_of_others_are_what_they_show(tmp_path: Path) -> None:
    whole = small()
    for entry in whole["dataset"]:
        entry["eeg"] = entry["eeg"].t().contiguous().t()  # another order in memory, the same array
    big = torch.stack([entry["eeg"][:, :470] for entry in whole["dataset"]])
    for i, entry in enumerate(whole["dataset"]):
        entry["eeg"] = big[i]
    source = opened(tmp_path, whole)
    np.testing.assert_array_equal(source.eeg(1)[0], big[source.samples[1].trial[0]][:, 20:460].numpy())


def test_indices_may_be_tensors_and_arrays_and_lists_of_names_arrays(tmp_path: Path) -> None:
    whole = small()
    for entry in whole["dataset"]:
        entry |= {"image": torch.tensor(entry["image"]), "label": torch.tensor([entry["label"]]), "subject": np.int64(entry["subject"])}
    assert len(opened(tmp_path, whole).samples) == 4


def test_an_image_seen_twice_is_one_sample_of_two_repetitions(tmp_path: Path) -> None:
    whole = small()
    whole["dataset"].append({**whole["dataset"][0], "eeg": whole["dataset"][0]["eeg"] + 0.1})
    source = opened(tmp_path, whole)
    assert sorted(plan.n_reps for plan in source.samples) == [1, 1, 1, 2]


def test_lengths_and_crop_decide_and_are_counted(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    whole = small()
    lengths = [449, 450, 459, 460, 600, 601, 500, *rng.integers(300, 700, 20).tolist()]
    whole["dataset"] = [
        {"eeg": torch.tensor(rng.normal(0, 1, (128, length)), dtype=torch.float32), "image": i % 4, "label": i % 2, "subject": i}
        for i, length in enumerate(lengths)
    ]
    source = opened(tmp_path, whole)
    kept = [i for i, length in enumerate(lengths) if 460 <= length <= 600]
    assert sorted(trial for plan in source.samples for trial in plan.trial) == kept
    counts = source.facts.preprocessing["trials"]
    assert counts["shorter_than_crop"] == sum(450 <= length < 460 for length in lengths) >= 2
    assert sum(counts[name] for name in ("kept", "of_other_length", "shorter_than_crop")) == counts["in_file"] == len(lengths)


def test_the_unit_is_measured(tmp_path: Path) -> None:
    assert opened(tmp_path, small()).facts.preprocessing["unit"] == "measured: z-scores"
    for factor, fits in ((20.0, "microvolts"), (2e-5, "volts")):
        whole = content(subjects=1, images_per_class=2, classes=2, scale=factor)
        with pytest.raises(StudyError, match=f"no z-scores, as .*{fits}.*: say the reader's field unit"):
            opened(tmp_path, whole)
    uneven = small()
    for entry in uneven["dataset"]:
        entry["eeg"] = entry["eeg"] * torch.linspace(0.3, 3, 128)[:, None]  # a narrow band in microvolts
    with pytest.raises(StudyError, match="no z-scores"):
        opened(tmp_path, uneven)
    assert opened(tmp_path, uneven, unit="microvolts").facts.unit == "microvolts"
    volts = content(subjects=1, images_per_class=2, classes=2, scale=2e-5)
    source = opened(tmp_path, volts, unit="volts")
    assert 15 < source.eeg(0).std() < 25
    with pytest.raises(StudyError, match=r"as microvolts 2e-05 µV, expected 0.2 to 2000 µV: unit .*volts"):
        opened(tmp_path, volts, unit="microvolts")


def test_trials_config_follows_the_crop(tmp_path: Path) -> None:
    source = opened(tmp_path, small(), trials=TrialsConfig(resample_hz=250.0, channels=("E003", "E001"), tmax=0.42))
    assert (source.facts.sfreq, source.facts.ch_names, source.facts.n_times) == (250.0, ["E003", "E001"], 100)
    assert source.eeg(0).shape == (1, 2, 100)


def test_images_that_are_not_there(tmp_path: Path) -> None:
    whole = write_layout(tmp_path, small())
    path, images = str(tmp_path / "block/eeg_55_95_std.pth"), tmp_path / "images"
    first = whole["images"][0]
    (images / WNIDS[0] / f"{first}.JPEG").rename(images / WNIDS[0] / f"{first}.jpg")  # another spelling is the same image
    (images / WNIDS[0] / f"._{first}.JPEG").write_bytes(b"x")
    assert Eegcvpr40ReaderConfig(path=path, images=str(images)).open().facts.stimuli[0].image == f"{WNIDS[0]}/{first}.jpg"
    (images / WNIDS[0] / f"{first}.jpg").unlink()
    with pytest.raises(StudyError, match=rf"has no photo of '{first}' \(1 of 4 are missing\)"):
        Eegcvpr40ReaderConfig(path=path, images=str(images)).open()
    source = Eegcvpr40ReaderConfig(path=path, images=str(images), images_missing="drop").open()
    assert (len(source.samples), source.facts.preprocessing["trials"]["without_image"]) == (3, 1)
    (images / WNIDS[1] / f"{whole['images'][1]}_caption.txt").unlink()
    with pytest.raises(StudyError, match="has no caption of"):
        Eegcvpr40ReaderConfig(path=path, images=str(images), images_missing="drop", captions="refuse").open()
    allowed = Eegcvpr40ReaderConfig(path=path, images=str(images), images_missing="drop", captions="allow").open().facts.captions
    assert allowed is not None
    assert sorted(map(len, allowed)) == [0, 1, 1]


def broken(what: str) -> Any:
    whole = small()
    first = whole["dataset"][0]
    changes: dict[str, Any] = {
        "image": {"image": 9}, "negative image": {"image": -1}, "label": {"label": 2}, "half": {"subject": 1.5},
        "transposed": {"eeg": first["eeg"].t()}, "channels": {"eeg": first["eeg"][:64]}, "flat": {"eeg": first["eeg"][0]},
        "text": {"eeg": "x"}, "nan": {"eeg": first["eeg"] * float("nan")}, "bool": {"eeg": first["eeg"] > 0}, "contradiction": {"label": 1},
    }  # fmt: skip
    if what in changes:
        first |= changes[what]
    elif what == "no eeg":
        del first["eeg"]
    elif what in ("dataset", "labels", "images"):
        del whole[what]
    elif what == "empty":
        whole["dataset"] = []
    elif what == "name":
        whole["images"][0] = "../../etc/passwd"
    elif what == "twice":
        whole["images"][1] = whole["images"][0]
    elif what == "fewer names":
        whole["images"] = whole["images"][:3]
    elif what == "list":
        whole = whole["dataset"]
    return whole


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("image", "has image 9, expected 0 to 3: images has 4 names"),
        ("negative image", "has image -1, expected 0 to 3"),
        ("label", "has label 2, expected 0 to 1: labels has 2 names"),
        ("half", "subject is '1.5', expected a whole number"),
        ("transposed", r"shape \(\d+, 128\), expected \(128 channels, time points\): it is transposed"),
        ("channels", r"shape \(64, \d+\), expected \(128 channels"),
        ("flat", r"shape \(\d+,\), expected \(128 channels"),
        ("text", "has an eeg of str, expected"),
        ("nan", "values that are not finite numbers"),
        ("bool", "has an eeg of bool, expected numbers"),
        ("contradiction", "label 1, which is 'n02124075', and image 'n02106662_100': expected an image of that class"),
        ("no eeg", "lacks eeg; it has image, label, subject"),
        ("dataset", "lacks dataset; it has labels, images"),
        ("labels", "lacks labels"),
        ("images", "lacks images"),
        ("empty", "dataset is empty"),
        ("name", r"images has '\.\./\.\./etc/passwd', expected names such as"),
        ("twice", "images has 'n02106662_100' twice"),
        ("fewer names", "has image 3, expected 0 to 2: images has 3 names"),
        ("list", "holds a list, expected a dict with dataset, labels and images"),
    ],
)
def test_what_contradicts_is_one_sentence(tmp_path: Path, what: str, message: str) -> None:
    with pytest.raises(StudyError, match=message) as caught:
        opened(tmp_path, broken(what))
    assert str(tmp_path / "eeg.pth") in str(caught.value)


def test_files_of_other_kinds_and_damaged_ones(tmp_path: Path) -> None:
    path = saved(tmp_path, small())
    whole = path.read_bytes()
    for cut in (0, 3, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(StudyError, match=r"eeg\.pth"):
            Eegcvpr40ReaderConfig(path=str(path)).open()
    path.write_bytes(pickle.dumps({"dataset": []}))
    with pytest.raises(StudyError, match="lacks labels, images"):
        Eegcvpr40ReaderConfig(path=str(path)).open()
    with pytest.raises(StudyError, match="no such file"):
        Eegcvpr40ReaderConfig(path=str(tmp_path / "absent.pth")).open()


@pytest.fixture(scope="module")
def study(layout: tuple[Path, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, _ = layout
    output = tmp_path_factory.mktemp("sharded") / "study"
    write_study(ShardConfig(reader=Eegcvpr40ReaderConfig(path=str(root / "block/eeg_55_95_std.pth")), output=str(output)))
    return output


PARTS = {"train": list(range(20)), "val": [20, 21], "test": list(range(22, 36))}


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"splits": [{**PARTS, "test": [22, 36]}]}, r"test has trial 36 \(1 such\), expected 0 to 35"),
        ({"splits": [{**PARTS, "train": [-1]}]}, "train has trial -1"),
        ({"splits": [{**PARTS, "test": [0, 22]}]}, "trial 0 is in train and test"),
        ({"splits": [{**PARTS, "test": [22, 22]}]}, "trial 22 is in test twice"),
        ({"splits": [{"train": [0], "val": [1]}]}, "a split lacks test; it has train, val"),
        ({"splits": []}, "has 0 splits, split_number is 0"),
        ({"splits": [PARTS["train"]]}, "expected splits, each with train, val and test"),
        ({"splits": [{**PARTS, "test": [22.5]}]}, "expected a list of whole trial numbers"),
        ({"splits": [{**PARTS, "test": ["a"]}]}, "expected a list of whole trial numbers"),
        ({"splits": [{**PARTS, "test": []}]}, "part 'test' has no trials"),
    ],
)
def test_splits_that_cannot_be(study: Path, tmp_path: Path, split: Any, message: str) -> None:
    torch.save(split, tmp_path / "splits.pth")
    with pytest.raises(StudyError, match=message):
        write_split(SplitConfig(study=str(study), policy="official", file=str(tmp_path / "splits.pth"), name="official"))


def test_splits_may_be_tensors_or_json_and_lack_validation(study: Path, tmp_path: Path) -> None:
    torch.save({"splits": [PARTS, {name: torch.tensor(rows) for name, rows in PARTS.items() if name != "val"}]}, tmp_path / "splits.pth")
    config = SplitConfig(study=str(study), policy="official", file=str(tmp_path / "splits.pth"), split_number=1, name="second")
    split, _ = write_split(config)
    assert not split.has("validation")
    (tmp_path / "splits.json").write_text('{"train": [0, 1], "test": [2]}')
    split, audit = write_split(SplitConfig(study=str(study), policy="official", file=str(tmp_path / "splits.json"), name="third"))
    assert audit.parts["train"]["trials"] == 2


def test_the_published_split_of_some_subjects_alone(layout: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    root, whole = layout
    reader = Eegcvpr40ReaderConfig(path=str(root / "block/eeg_55_95_std.pth"), subjects=(2,))
    write_study(ShardConfig(reader=reader, output=str(tmp_path / "study")))
    file = str(root / "block/block_splits_by_image_all.pth")
    _, audit = write_split(SplitConfig(study=str(tmp_path / "study"), policy="official", file=file))
    of_two = {i for i, entry in enumerate(whole["dataset"]) if entry["subject"] == 2}
    [parts] = splits_by_image(whole)["splits"]
    found = [audit.parts[part]["trials"] for part in ("train", "validation", "test")]
    assert found == [len(of_two & set(parts[part])) for part in ("train", "val", "test")]


def test_a_subject_in_another_unit_is_refused_and_the_file_named(tmp_path: Path) -> None:
    whole = content(subjects=2, images_per_class=3, classes=2)
    for entry in whole["dataset"]:
        entry["eeg"] *= 1e-5 if entry["subject"] == 2 else 1
    path = saved(tmp_path, whole)
    with pytest.raises(StudyError, match=r"eeg\.pth: sub-02.*looks like volts"):
        write_study(ShardConfig(reader=Eegcvpr40ReaderConfig(path=str(path), unit="zscore"), output=str(tmp_path / "study")))


def test_case_s02_thought2text_pth(tmp_path: Path) -> None:
    data = shared_data() / "cases/s02_thought2text_pth/data"
    path = str(data / "eeg_55_95_std.pth")
    with pytest.raises(StudyError, match="none of 8 trials has 450 to 600 time points and at least 460, they have 20 to 22"):
        Eegcvpr40ReaderConfig(path=path).open()
    reader = Eegcvpr40ReaderConfig(path=path, lengths=(20, 22), crop=(2, 20))
    write_study(ShardConfig(reader=reader, output=str(tmp_path / "study")))
    file = str(data / "block_splits_by_image_all.pth")
    _, audit = write_split(SplitConfig(study=str(tmp_path / "study"), policy="official", file=file))
    assert [audit.parts[part]["trials"] for part in ("train", "validation", "test")] == [4, 2, 2]


@pytest.mark.parametrize(
    "options",
    [{"lengths": (600, 450)}, {"crop": (20, 20)}, {"ch_names": ("a",)}, {"captions": "refuse"}, {"subjects": ()}, {"sfreq": 0.0}],
)
def test_configs_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Eegcvpr40ReaderConfig(path="x.pth", **options)
