"""Every control is what its name says: noise matches, shuffles exchange, the prior is typical."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.artifacts.generations import ARMS
from trainer.generate.arms import ArmError, Material, arm_input, deranged, matched_noise, nearest, typical_caption

N, C, T = 60, 3, 8


def material(**changes: object) -> Material:
    """Two subjects see 30 stimuli of 15 concepts; the encoder is the first four values of a trial."""
    rng = np.random.default_rng(0)
    train_MP = rng.standard_normal((5, 4)).astype(np.float32)
    fields: dict = {
        "items": np.arange(N),
        "eeg_NCT": (3 + rng.standard_normal((N, C, T)) * np.arange(1, T + 1)).astype(np.float32),
        "image_NP": rng.standard_normal((N, 4)).astype(np.float32),
        "subject_N": np.repeat([0, 1], 30),
        "stimulus_N": np.tile(np.arange(30), 2),
        "concept_N": np.tile(np.arange(30) // 2, 2),
        "train_MP": train_MP,
        "train_captions": [[f"caption {row}", "another"] for row in range(5)],
        "train_concepts": [f"concept {row}" for row in range(5)],
        "prior": ["a red star", "a red ring", "a blue star", "a red star"],
        "embed": lambda eeg_ICT, subject_I: eeg_ICT.reshape(len(eeg_ICT), -1)[:, :4],
        "seed": 0,
    }
    return Material(**(fields | changes))


def concept_points(z_IP: np.ndarray) -> np.ndarray:
    return -z_IP


# --------------------------------------------------------------------------------------------------------------- noise


def test_noise_has_the_mean_and_covariance_of_the_inputs() -> None:
    rng = np.random.default_rng(1)
    mixing = rng.standard_normal((12, 12))
    eeg_NCT = (rng.standard_normal((50, 12)) @ mixing + 4).reshape(50, 3, 4).astype(np.float32)
    drawn = matched_noise(eeg_NCT, np.zeros(50, int), np.arange(20_000), np.zeros(20_000, int), seed=0).reshape(20_000, -1)
    real = eeg_NCT.reshape(50, -1)
    scale = np.cov(real.T).diagonal()
    np.testing.assert_allclose(drawn.mean(axis=0), real.mean(axis=0), atol=4 * np.sqrt(scale.max() / 20_000))
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(real.T), atol=0.05 * scale.max())
    # Gaussian, so its kurtosis is 3 whatever that of the trials is.
    standard = (drawn[:, 0] - drawn[:, 0].mean()) / drawn[:, 0].std()
    assert abs((standard**4).mean() - 3) < 0.15


def test_noise_of_an_item_depends_on_its_number_and_the_seed_only() -> None:
    m = material()
    one, items = np.zeros(N, int), np.array([7, 3])
    whole = matched_noise(m.eeg_NCT, one, np.arange(N), one, 0)
    np.testing.assert_allclose(matched_noise(m.eeg_NCT, one, items, one[items], 0), whole[[7, 3]], rtol=1e-5)
    assert np.abs(matched_noise(m.eeg_NCT, one, np.arange(N), one, 1) - whole).max() > 1
    # Nothing of the item's own trial is in it: uncorrelated over items.
    own, centre = m.eeg_NCT.reshape(N, -1), m.eeg_NCT.reshape(N, -1).mean(axis=0)
    alike = ((own - centre) * (whole.reshape(N, -1) - centre)).sum() / ((own - centre) ** 2).sum()
    assert abs(alike) < 0.2


def test_noise_is_matched_to_the_items_own_subject() -> None:
    rng = np.random.default_rng(3)
    subject_N = np.repeat([0, 1], 40)
    eeg_NCT = (rng.standard_normal((80, C, T)) * (1 + 9 * subject_N[:, None, None]) + 50 * subject_N[:, None, None]).astype(np.float32)
    numbers, subject_I = np.arange(4000), np.repeat([0, 1], 2000)
    drawn = matched_noise(eeg_NCT, subject_N, numbers, subject_I, 0).reshape(4000, -1)
    for subject in (0, 1):
        own, real = drawn[subject_I == subject], eeg_NCT[subject_N == subject].reshape(40, -1)
        np.testing.assert_allclose(own.mean(axis=0), real.mean(axis=0), atol=0.12 * real.std())
        np.testing.assert_allclose(own.std(axis=0), real.std(axis=0, ddof=1), rtol=0.08)
    with pytest.raises(ArmError, match="a single trial"):
        matched_noise(eeg_NCT[39:], subject_N[39:], numbers[:2], np.array([0, 1]), 0)


def test_noise_arms_predict_words_from_the_noise() -> None:
    m = material()
    for name in ("noise", "noise+word"):
        shown = arm_input(name, m, concept_points)
        assert shown.eeg_ICT is not None
        assert shown.z_IP is not None
        np.testing.assert_array_equal(shown.z_IP, m.embed(shown.eeg_ICT, m.subject_N))
        assert not np.allclose(shown.z_IP, m.z_IP)


# -------------------------------------------------------------------------------------------------------------- shuffles


@pytest.mark.parametrize("seed", range(5))
def test_shuffling_is_a_permutation_within_groups_that_leaves_no_stimulus_in_place(seed: int) -> None:
    rng = np.random.default_rng(seed)
    group_N = np.repeat([0, 1, 2], [12, 20, 6])
    stimulus_N = np.concatenate([rng.permutation(np.repeat([0, 1, 2], [6, 3, 3])), np.arange(20), [4, 4, 5, 5, 6, 6]])
    other = deranged(group_N, stimulus_N, seed)
    assert sorted(other) == list(range(38))
    np.testing.assert_array_equal(group_N[other], group_N)
    assert (stimulus_N[other] != stimulus_N).all()
    np.testing.assert_array_equal(other, deranged(group_N, stimulus_N, seed))
    assert (other != deranged(group_N, stimulus_N, seed + 100)).any()


def test_shuffled_takes_another_stimulus_of_the_same_subject_and_concept() -> None:
    m = material()
    row_of = {eeg.tobytes(): row for row, eeg in enumerate(m.eeg_NCT)}
    for name, within in (("shuffled", False), ("shuffled-within-concept", True)):
        shown = arm_input(name, m, concept_points)
        assert shown.eeg_ICT is not None
        other = np.array([row_of[eeg.tobytes()] for eeg in shown.eeg_ICT])
        np.testing.assert_array_equal(m.subject_N[other], m.subject_N)
        assert (m.stimulus_N[other] != m.stimulus_N).all()
        assert (m.concept_N[other] == m.concept_N).all() == within
        np.testing.assert_array_equal(shown.z_IP, m.embed(shown.eeg_ICT, m.subject_N))


def test_what_cannot_be_exchanged_is_said_in_a_sentence() -> None:
    with pytest.raises(ArmError, match="a concept has a single stimulus in this part, expected at least two"):
        arm_input("shuffled-within-concept", material(concept_N=np.tile(np.arange(30), 2)), concept_points)
    with pytest.raises(ArmError, match="a subject shows the same stimulus in 3 of its 4 trials"):
        deranged(np.zeros(4, int), np.array([1, 1, 1, 2]), 0, "a subject")


def test_fewer_items_change_neither_noise_nor_exchanges() -> None:
    few = np.array([4, 11, 40])
    for name in ("noise", "shuffled", "shuffled-within-concept"):
        whole, part = (arm_input(name, m, concept_points) for m in (material(), material(items=few)))
        assert whole.eeg_ICT is not None
        np.testing.assert_allclose(part.eeg_ICT, whole.eeg_ICT[few], rtol=1e-5)


# ---------------------------------------------------------------------------------------------------------- other arms


def test_every_arm_shows_one_row_an_item_and_one_kind_of_input() -> None:
    m = material(items=np.arange(5, 25))
    for name in ARMS:
        shown = arm_input(name, m, concept_points)
        kinds = [value for value in (shown.eeg_ICT, shown.point_IP, shown.texts) if value is not None]
        assert len(kinds) == (0 if name in ("label-only", "keywords") else 1), name
        assert all(len(value) == 20 for value in kinds), name
        assert (shown.z_IP is None) == (name in ("nearest-caption", "caption-prior")), name
    np.testing.assert_array_equal(arm_input("eeg", m, concept_points).eeg_ICT, m.eeg_NCT[5:25])
    np.testing.assert_array_equal(arm_input("image", m, concept_points).point_IP, m.image_NP[5:25])
    np.testing.assert_array_equal(arm_input("concept-mean", m, concept_points).point_IP, -m.z_IP)


def test_nearest_caption_is_the_first_one_of_the_nearest_training_stimulus() -> None:
    train_MP = np.eye(4, dtype=np.float32) + 10
    assert nearest(np.eye(4, dtype=np.float32)[[2, 0]] + 10, train_MP).tolist() == [2, 0]
    m = material()
    shown = arm_input(
        "nearest-caption", material(embed=lambda eeg_ICT, subject_I: np.tile(m.train_MP[3], (len(eeg_ICT), 1))), concept_points
    )
    assert shown.texts == ["caption 3"] * N
    assert shown.concepts == ["concept 3"] * N


def test_the_prior_is_the_caption_that_agrees_best_with_the_others() -> None:
    assert typical_caption(["a dog", "a red star on sand", "a red ring on sand", "a red star on snow", "something else entirely"]) == (
        "a red star on sand"
    )
    # How often a caption is said counts.
    assert typical_caption(["a blue ring", *["a red star"] * 3, "a blue disc"]) == "a red star"
    assert set(arm_input("caption-prior", material(), concept_points).texts or []) == {"a red star"}
    many = [f"a {colour} star number {n}" for n in range(800) for colour in ("red", "green")]
    assert typical_caption(many) == typical_caption(list(many))
