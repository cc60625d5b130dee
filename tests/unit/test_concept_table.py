"""Words for what was seen: prediction, means, files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_prep.contract.errors import CommandError
from trainer.models.concepts import FILE, ConceptTable, as_words


def images(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Concept and unit-norm embedding of 40 images of 5 concepts, which share most of their direction, as image embeddings do."""
    rng = np.random.default_rng(seed)
    concept_N = np.repeat(np.arange(5), 8)
    embedding = 5 + rng.standard_normal((5, 16))[concept_N] + 0.1 * rng.standard_normal((40, 16))
    return concept_N, (embedding / np.linalg.norm(embedding, axis=1, keepdims=True)).astype(np.float32)


NAMES = ["00001_red_star", "00002_blue_ring", "dotted_disc", "house", "00005_dark_blue_arrow", "unseen"]


def test_images_are_named_by_their_own_concept_and_concepts_without_images_are_no_candidates() -> None:
    concept_N, embedding_NP = images()
    table = ConceptTable.make(NAMES, concept_N, embedding_NP)
    assert table.names == NAMES[:5]
    predicted = table.predict(embedding_NP, 3)
    assert predicted.shape == (40, 3)
    np.testing.assert_array_equal(predicted[:, 0], concept_N)
    assert table.predict(embedding_NP, 99).shape == (40, 5)
    assert table.words([0, 4]) == ["red star", "dark blue arrow"]


def test_a_concept_can_be_left_out_row_by_row() -> None:
    concept_N, embedding_NP = images()
    table = ConceptTable.make(NAMES, concept_N, embedding_NP)
    assert table.rows(["house", "unseen", NAMES[0]]).tolist() == [3, -1, 0]
    all_NC = table.predict(embedding_NP, 5)
    without_N = np.where(np.arange(40) % 2, table.rows(NAMES)[concept_N], -1)
    found_NC = table.predict(embedding_NP, 4, without_B=without_N)
    np.testing.assert_array_equal(found_NC[::2], all_NC[::2, :4])
    np.testing.assert_array_equal(found_NC[1::2], all_NC[1::2, 1:])


def test_what_all_concepts_share_is_subtracted_from_both_sides() -> None:
    concept_N, embedding_NP = images()
    table = ConceptTable.make(NAMES, concept_N, embedding_NP)
    np.testing.assert_allclose(np.linalg.norm(table.embedding_CP, axis=1), 1, atol=1e-6)
    # An embedding is scored by how it differs from the mean: a length along the mean alone changes nothing of the order.
    faint = table.mean_P + 1e-3 * (embedding_NP - table.mean_P)
    np.testing.assert_array_equal(table.predict(faint, 5), table.predict(embedding_NP, 5))


def test_a_concept_lies_where_its_mean_image_does() -> None:
    concept_N, embedding_NP = images()
    means = np.stack([embedding_NP[concept_N == c].mean(axis=0) for c in (3, 1)])
    points = ConceptTable.make(NAMES, concept_N, embedding_NP).points(np.array([3, 1]))
    np.testing.assert_allclose(points, means / np.linalg.norm(means, axis=1, keepdims=True), atol=1e-6)


def test_a_single_concept_is_predicted_always() -> None:
    table = ConceptTable.make(["cat"], np.zeros(3, int), np.eye(3, dtype=np.float32))
    assert table.predict(np.eye(3, dtype=np.float32), 2).tolist() == [[0], [0], [0]]


def test_a_file_gives_the_same_table_and_another_file_is_refused(tmp_path: Path) -> None:
    concept_N, embedding_NP = images()
    table = ConceptTable.make([name + " é😀" for name in NAMES], concept_N, embedding_NP)
    table.write(tmp_path)
    again = ConceptTable.read(tmp_path)
    assert again.names == table.names
    np.testing.assert_array_equal(again.predict(embedding_NP, 5), table.predict(embedding_NP, 5))
    for broken in (b"", b"PK\x03\x04 cut", b"no zip at all"):
        (tmp_path / FILE).write_bytes(broken)
        with pytest.raises(CommandError, match="not a table of concepts"):
            ConceptTable.read(tmp_path)
    (tmp_path / FILE).unlink()
    with pytest.raises(CommandError, match="not a table of concepts"):
        ConceptTable.read(tmp_path)


@pytest.mark.parametrize(
    ("name", "words"), [("00012_red_star", "red star"), ("aircraft_carrier", "aircraft carrier"), ("3d_glasses", "3d glasses")]
)
def test_names_become_words(name: str, words: str) -> None:
    assert as_words(name) == words
