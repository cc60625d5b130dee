"""Feature files as other projects write them, names however they are spelled, and the order of rows proven, unproven or refused."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_prep.contract.errors import StudyError
from data_prep.contract.manifest import Stimulus
from data_prep.contract.split import read_split
from data_prep.embed.base import EmbeddingConfig
from data_prep.embed.imported import ImportedConfig
from data_prep.embed.row_order import choose, other_orders
from data_prep.shards.open import open_study
from data_prep.splits.audit import audit
from data_prep.splits.config import SplitConfig
from data_prep.splits.split import run as write_split
from data_prep.studies.base import StudyFacts
from data_prep.studies.captions import read_captions
from data_prep.studies.things import ThingsReaderConfig
from tests.helpers.shared_data import shared_data
from tests.helpers.tiny_study import write_tiny_study

CONCEPTS = ("aardvark", "Éclair", "zebra")


def facts_for(images: int = 2, test: int = 2, root: Path | None = None, concepts: tuple[str, ...] = CONCEPTS) -> StudyFacts:
    stimuli = [
        Stimulus(id=f, concept=c, image=f, part="training")
        for c, name in enumerate(concepts)
        for f in (f"training_images/{c + 1:05d}_{name}/{name}_{i:02d}s.jpg" for i in range(images))
    ]
    for c in range(test):
        f = f"test_images/{c + 1:05d}_test{c}/test{c}_00s.jpg"
        stimuli.append(Stimulus(id=f, concept=len(concepts) + c, image=f, part="test"))
    return StudyFacts(
        stimulus_level="image", unit="microvolts", sfreq=100.0, tmin=0.0, n_times=10, ch_names=["Oz"], subjects=["01"], stimuli=stimuli,
        concepts=[*concepts, *(f"test{c}" for c in range(test))], sessions=["unknown"], recordings=["unknown"], image_root=root,
    )  # fmt: skip


FACTS = facts_for()
ROWS = np.random.default_rng(0).standard_normal((len(FACTS.stimuli), 5)).astype(np.float32)
NAMES = [str(stimulus.image) for stimulus in FACTS.stimuli]


def imported(facts: StudyFacts = FACTS, **fields) -> tuple[np.ndarray, dict]:
    return ImportedConfig(**{name: str(v) if isinstance(v, Path) else v for name, v in fields.items()}).compute(facts)


# ----------------------------------------------------------------------------------------------------- kinds of files


def test_features_with_an_axis_of_concepts_are_read_where_the_counts_agree(tmp_path: Path) -> None:
    """Case e05, NeuroBridge: (concepts, images, dim), training and test apart."""
    np.save(tmp_path / "train.npy", ROWS[:6].reshape(3, 2, 5))
    np.save(tmp_path / "test.npy", ROWS[6:].reshape(2, 1, 5))
    table, facts = imported(path=tmp_path / "train.npy", test_path=tmp_path / "test.npy")
    np.testing.assert_array_equal(table, ROWS)
    assert facts["row_order"] == "unproven"
    np.save(tmp_path / "turned.npy", ROWS[:6].reshape(3, 2, 5).transpose(1, 0, 2))
    with pytest.raises(StudyError, match=r"turned\.npy: shape \(2, 3, dim\).*the study has 3 concepts of 2 images: are the axes swapped"):
        imported(path=tmp_path / "turned.npy", test_path=tmp_path / "test.npy")


def test_the_case_e05_reads(tmp_path: Path) -> None:
    data = shared_data() / "cases" / "e05_concept_x_image_axis" / "data"
    facts = ThingsReaderConfig(root=str(data)).open().facts
    table, order = imported(facts, path=data / "features.npy", test_path=data / "test.npy")
    np.testing.assert_array_equal(table[:6], np.load(data / "features.npy").reshape(6, 5))
    assert (order["row_order"], order["row_order_reason"]) == (
        "unproven",
        "test images: 2 images are too few to tell, expected at least 40",
    )


def test_training_and_test_files_given_the_wrong_way_round_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "train.npy", ROWS[:6])
    np.save(tmp_path / "test.npy", ROWS[6:])
    with pytest.raises(StudyError, match="expected a row in path for each training image"):
        imported(path=tmp_path / "test.npy", test_path=tmp_path / "train.npy")


def test_files_of_atm_hold_images_and_texts(tmp_path: Path) -> None:
    import torch

    texts = np.random.default_rng(1).standard_normal((5, 4)).astype(np.float32)
    torch.save({"text_features": torch.from_numpy(texts), "img_features": torch.from_numpy(ROWS)}, tmp_path / "atm.pt")
    np.testing.assert_array_equal(imported(path=tmp_path / "atm.pt")[0], ROWS)
    table, _ = imported(path=tmp_path / "atm.pt", key="text_features", rows="concept")
    np.testing.assert_array_equal(table, texts[[s.concept for s in FACTS.stimuli]])
    with pytest.raises(StudyError, match="5 rows, the study has 8 stimuli: expected one row a stimulus, or rows: concept"):
        imported(path=tmp_path / "atm.pt", key="text_features")


def test_training_and_test_features_of_one_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", test=ROWS[6:], train=ROWS[:6].reshape(3, 2, 5))
    np.testing.assert_array_equal(imported(path=tmp_path / "f.npz")[0], ROWS)
    np.save(tmp_path / "test.npy", ROWS[6:])
    with pytest.raises(StudyError, match=r"holds training and test features, and test_path names .*test\.npy: expected one of the two"):
        imported(path=tmp_path / "f.npz", test_path=tmp_path / "test.npy")


def test_names_of_one_part_alone_are_not_passed_over(tmp_path: Path) -> None:
    np.savez(tmp_path / "train.npz", features=ROWS[:6], names=NAMES[5::-1])
    np.save(tmp_path / "test.npy", ROWS[6:])
    with pytest.raises(StudyError, match=r"test\.npy: its rows have no names, and those of the other part have"):
        imported(path=tmp_path / "train.npz", test_path=tmp_path / "test.npy")


@pytest.mark.parametrize("nested", [False, True])
def test_dicts_from_paths_to_vectors_are_looked_up_by_name(tmp_path: Path, nested: bool) -> None:
    """UBP: in whatever order, with whatever root, with slashes of another system."""
    import torch

    order = np.random.default_rng(2).permutation(len(NAMES))
    vectors = {"D:\\THINGS\\images\\" + NAMES[i].replace("/", "\\"): torch.from_numpy(ROWS[i]) for i in order}
    torch.save({"img_features": vectors, "text_features": {"a": torch.ones(3)}} if nested else vectors, tmp_path / "ubp.pt")
    table, facts = imported(path=tmp_path / "ubp.pt")
    np.testing.assert_array_equal(table, ROWS)
    assert facts["row_order"] == "names"


def test_dicts_by_concept_and_file_or_by_number(tmp_path: Path) -> None:
    import torch

    by_file: dict[str, dict[str, torch.Tensor]] = {}
    for name, row in list(zip(NAMES, ROWS, strict=True))[::-1]:
        by_file.setdefault(name.split("/")[1], {})[name.split("/")[2]] = torch.from_numpy(row)
    torch.save(by_file, tmp_path / "nested.pt")
    table, facts = imported(path=tmp_path / "nested.pt")
    np.testing.assert_array_equal(table, ROWS)
    assert facts["row_order"] == "names"
    torch.save({i: torch.from_numpy(ROWS[i]) for i in range(8)[::-1]}, tmp_path / "numbers.pt")
    table, facts = imported(path=tmp_path / "numbers.pt")
    np.testing.assert_array_equal(table, ROWS)
    assert facts["row_order"] == "unproven"
    blocks = {name: torch.from_numpy(ROWS[2 * c : 2 * c + 2]) for c, name in enumerate(CONCEPTS)}
    torch.save(dict(reversed(blocks.items())), tmp_path / "blocks.pt")
    table, facts = imported(facts_for(test=0), path=tmp_path / "blocks.pt")
    np.testing.assert_array_equal(table, ROWS[:6])
    assert facts["row_order"] == "unproven", "the order inside concepts has no names"


@given(
    st.permutations(range(8)),
    st.sampled_from(["f2", "f4", "f8", "i4"]),
    st.sampled_from(["npz", "npy and text", "npy and json", "pt"]),
    st.sampled_from(["as is", "NFD", "upper", "backslashes", "absolute", "without number", "no ending", "png"]),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_rows_in_any_order_find_their_images_by_names_however_spelled(tmp_path_factory, order, dtype, kind, spelling, middle) -> None:
    import json

    import torch

    folder = tmp_path_factory.mktemp("spelled")
    wanted = np.round(ROWS * 8).astype(dtype)
    wanted[~wanted.any(1)] = 1
    rows = wanted[list(order)][:, None] if middle else wanted[list(order)]
    spell = {
        "as is": str, "NFD": lambda n: unicodedata.normalize("NFD", n), "upper": str.upper, "backslashes": lambda n: n.replace("/", "\\"),
        "absolute": lambda n: f"/data/x/{n}", "without number": lambda n: "/".join(p[6:] if p[0] == "0" else p for p in n.split("/")),
        "no ending": lambda n: n.removesuffix(".jpg"), "png": lambda n: n.replace(".jpg", ".png"),
    }  # fmt: skip
    names = [spell[spelling](NAMES[i]) for i in order]
    fields = {"path": folder / "f.npy", "order": "names"}
    if kind == "npz":
        fields["path"] = folder / "f.npz"
        np.savez(folder / "f.npz", features=rows, names=np.array(names))
    elif kind == "pt":
        fields["path"] = folder / "f.pt"
        torch.save({"img_features": torch.from_numpy(rows.copy()), "paths": names}, folder / "f.pt")
    else:
        np.save(folder / "f.npy", rows)
        fields["names"] = folder / ("names.txt" if "text" in kind else "names.json")
        fields["names"].write_text("\n".join(names) if "text" in kind else json.dumps(names))
    table, facts = imported(**fields)
    np.testing.assert_array_equal(table, wanted.astype(np.float32))
    assert facts["row_order"] == "names"


@pytest.mark.parametrize(("content", "message"), [
    ({"a": np.ones((8, 5)), "b": np.ones((8, 5))}, "names no array of features; it has a, b"),
    ({}, "an empty dict|names no array"),
    ({"x.jpg": np.ones(3), "y.jpg": np.ones(4), "z.jpg": np.ones(3)}, "'y.jpg' has 4 dimensions, 'x.jpg' has 3"),
    ({0: np.ones(3), 1: np.ones(3), 3: np.ones(3)}, "numbered 0, 1, 3, expected 0 to 2"),
    ([np.ones(3), np.ones(4)], "a list of vectors of shapes"),
    (np.ones((8, 5, 2, 2)), r"shape \(8, 5, 2, 2\), expected"),
    (np.ones((8, 5), bool), "holds no array of numbers"),
    ("text", "holds no array of numbers but a str"),
])  # fmt: skip
def test_what_holds_no_features_is_one_sentence(tmp_path: Path, content, message: str) -> None:
    import pickle

    (tmp_path / "f.npy").write_bytes(pickle.dumps(content))
    with pytest.raises(StudyError, match=message) as error:
        imported(path=tmp_path / "f.npy")
    assert "f.npy" in str(error.value)


# --------------------------------------------------------------------------------------- names that fit several images


def test_a_name_that_fits_several_images_is_refused(tmp_path: Path) -> None:
    """Case e01: the same file names in every concept's folder, rows by bare name; case e02: captions."""
    stimuli = [Stimulus(id=f, concept=c, image=f, part=None) for c, f in enumerate(("a/001.jpg", "b/001.jpg", "b/002.jpg"))]
    facts = replace(FACTS, stimuli=stimuli)
    np.savez(tmp_path / "f.npz", features=ROWS[:2], names=["001.jpg", "002.jpg"])
    with pytest.raises(
        StudyError, match=r"row '001\.jpg' fits 2 images \(a/001\.jpg, b/001\.jpg\), expected one: give names with their folders"
    ):
        imported(facts, path=tmp_path / "f.npz", order="names")
    (tmp_path / "c.json").write_text('{"001.jpg": "x", "002.jpg": "y"}')
    with pytest.raises(StudyError, match=r"c\.json: caption '001\.jpg' fits 2 images"):
        read_captions(tmp_path / "c.json", stimuli)
    (tmp_path / "c.json").write_text('{"b/001.jpg": "b1", "A/001.JPG": "a1", "002.jpg": "b2"}')
    assert read_captions(tmp_path / "c.json", stimuli) == [["a1"], ["b1"], ["b2"]]
    np.savez(tmp_path / "f.npz", features=ROWS[:3], names=["001.jpg", "001.jpg", "002.jpg"])
    assert imported(facts, path=tmp_path / "f.npz")[1]["row_order"] == "unproven", "names that contradict nothing prove nothing"


@pytest.mark.parametrize("case", ["e01_same_names_flat_features", "e02_same_names_captions"])
def test_the_cases_of_same_names_are_refused(case: str) -> None:
    data = shared_data() / "cases" / case / "data"

    def read() -> None:
        facts = ThingsReaderConfig(root=str(data), require_images=False).open().facts
        imported(facts, path=data / "features.npy", names=data / "names.txt", order="names")

    with pytest.raises(StudyError, match=r"'001\.jpg' fits 3 images"):
        read()


def test_names_that_differ_in_case_or_ending_only_are_told_apart(tmp_path: Path) -> None:
    stimuli = [Stimulus(id=f, concept=0, image=f, part=None) for f in ("Zebra.jpg", "zebra.jpg", "photo.png", "photo.jpg")]
    np.savez(tmp_path / "f.npz", features=ROWS[:4], names=["photo.jpg", "zebra.jpg", "Zebra.jpg", "photo.png"])
    table, _ = imported(replace(FACTS, stimuli=stimuli), path=tmp_path / "f.npz", order="names")
    np.testing.assert_array_equal(table, ROWS[[2, 1, 3, 0]])


# ------------------------------------------------------------------------------------------------- order, by measuring


@dataclass(frozen=True, kw_only=True)
class Colours(EmbeddingConfig):
    """An encoder of the tests: the image in 6 x 6 pixels."""

    def compute(self, facts: StudyFacts) -> tuple[np.ndarray, dict]:
        rows = []
        for stimulus in facts.stimuli:
            with Image.open(Path(facts.image_root) / str(stimulus.image)) as image:
                rows.append(np.asarray(image.resize((6, 6)), np.float32).ravel())
        return np.stack(rows), {"model": "colours"}


CONCEPTS_SHOWN = tuple(f"thing{c:02d}" for c in range(20))


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyFacts, np.ndarray]:
    """A study of 20 concepts of 8 images and 48 test images; and features of them by another encoder, with noise of its own."""
    root, rng = tmp_path_factory.mktemp("seen"), np.random.default_rng(0)
    facts = facts_for(images=8, test=48, root=root, concepts=CONCEPTS_SHOWN)
    base = {c: rng.uniform(0, 255, (4, 4, 3)) for c in range(len(facts.concepts))}
    rows, mixing = [], rng.standard_normal((48, 24))
    for stimulus in facts.stimuli:
        small = (0.6 * base[stimulus.concept] + 0.4 * rng.uniform(0, 255, (4, 4, 3))).astype(np.uint8)
        file = root / str(stimulus.image)
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(small).resize((24, 24), Image.Resampling.BICUBIC).save(file, quality=95)
        rows.append(np.tanh(small.ravel() / 128.0 - 1) @ mixing + 2 * rng.standard_normal(24))
    return facts, np.stack(rows).astype(np.float32)


def shuffled(facts: StudyFacts, what: str) -> np.ndarray:
    rng = np.random.default_rng(5)
    training = np.arange(160)
    order = np.arange(len(facts.stimuli))
    if what == "inside concepts":
        order[:160] = np.concatenate([rng.permutation(block) for block in training.reshape(20, 8)])
    elif what == "concepts":
        order[:160] = training.reshape(20, 8)[rng.permutation(20)].ravel()
    elif what == "everything":
        order[:160] = rng.permutation(160)
    elif what == "test":
        order[160:] = 160 + rng.permutation(48)
    elif what == "one later":
        order[:160] = np.roll(training, 1)
    elif what == "one row twice halfway":
        order[81:160] = training[80:159]
    elif what == "image by image":
        order[:160] = training.reshape(20, 8).T.ravel()
    elif what == "i // 8":
        order[:160] = training // 8
    return order


def measured(seen: tuple[StudyFacts, np.ndarray], folder: Path, order: np.ndarray) -> dict:
    np.save(folder / "f.npy", seen[1][order])
    return imported(seen[0], path=folder / "f.npy", prove_with=Colours())[1]


def test_rows_in_order_are_measured_to_be(seen, tmp_path: Path) -> None:
    facts = measured(seen, tmp_path, shuffled(seen[0], "nothing"))
    assert facts["row_order"] == "measured", facts
    test, training = facts["row_order_measured"]
    assert (test["part"], test["images"], test["p_images"], test["encoder"]) == ("test images", 48, None, "colours")
    assert test["p_concepts"] <= 0.01
    assert max(training["p_concepts"], training["p_images"]) <= 0.01
    assert training["agreement"] > 0.2


@pytest.mark.parametrize(("what", "said"), [
    ("everything", "no better than shuffled rows do"),
    ("concepts", "no better than shuffled rows do"),
    ("one later", "better with the images one row later than in the order claimed"),
    ("one row twice halfway", "better with the images one row later .* than in the order claimed"),
    ("image by image", "image by image|no better than"),
    ("i // 8", "no better than shuffled rows do"),
])  # fmt: skip
def test_rows_in_another_order_are_refused(seen, tmp_path: Path, what: str, said: str) -> None:
    with pytest.raises(StudyError, match=rf"f\.npy: .*{said}.*training images, held against colours.*expected row i to be of stimulus i"):
        measured(seen, tmp_path, shuffled(seen[0], what))


@pytest.mark.parametrize("what", ["inside concepts", "test"])
def test_what_measuring_cannot_tell_is_unproven(seen, tmp_path: Path, what: str) -> None:
    facts = measured(seen, tmp_path, shuffled(seen[0], what))
    assert facts["row_order"] == "unproven"
    assert ("inside them" if what == "inside concepts" else "test images: the rows hardly agree") in facts["row_order_reason"]


def test_unproven_where_images_are_missing_or_it_is_not_wanted(seen, tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", seen[1])
    gone = imported(replace(seen[0], image_root=tmp_path), path=tmp_path / "f.npy")[1]
    assert (gone["row_order"], gone["row_order_reason"][:38]) == ("unproven", "48 of 48 sampled images are not there,")
    assert imported(seen[0], path=tmp_path / "f.npy", prove=False)[1]["row_order_reason"] == "it was not to be proven (prove: false)"


def test_samples_are_whole_concepts_spread_over_all_rows() -> None:
    facts = facts_for(images=10, test=0, concepts=tuple(f"c{c}" for c in range(300)))
    rows = choose(facts.stimuli, np.arange(3000), 400)
    assert len(rows) == 400
    assert np.array_equal(rows.reshape(40, 10) - rows[::10, None], np.tile(np.arange(10), (40, 1)))
    assert (rows[0], rows[-1]) == (0, 2999)
    many = facts_for(images=500, test=0, concepts=("face", "house"))
    assert 300 <= len(choose(many.stimuli, np.arange(1000), 400)) <= 500


def test_other_orders_are_orders() -> None:
    orders = other_orders(FACTS.stimuli)
    assert len(orders) == 11
    for name, order in orders.items():
        assert sorted(order.tolist()) == list(range(8)), name
    assert orders["image by image over concepts (2 images a concept)"].tolist() == [0, 3, 1, 4, 2, 5, 6, 7]
    assert orders["with the parts the other way round"].tolist() == [2, 3, 4, 5, 6, 7, 0, 1]


# --------------------------------------------------------------------------------------------------------- the audit


def test_the_audit_says_that_an_order_is_unproven(tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", np.random.default_rng(0).standard_normal((12, 5)))
    study = write_tiny_study(tmp_path / "study", embeddings={"mine": ImportedConfig(path=str(tmp_path / "f.npy"))})
    write_split(SplitConfig(study=str(study), policy="zero-shot", num_test_concepts=2, num_validation_concepts=1))
    opened = open_study(study)
    report = audit(opened, read_split(study, opened.manifest, "zero-shot"))
    found = [finding for finding in report.findings if finding.kind == "row_order_unproven"]
    assert (len(found), found[0].level) == (1, "caution")
    assert "embedding 'mine': which image a row is of is unproven (no images were given" in found[0].message
    assert report.verdict != "sound"
