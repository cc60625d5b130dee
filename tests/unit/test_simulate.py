"""The simulator: the same seed gives the same bytes, and the ceiling is what the known model reaches."""

from __future__ import annotations

import hashlib
import re

import numpy as np
import pytest

from data_prep.contract import cli, safe_load
from data_prep.contract.errors import CommandError, ConfigError
from data_prep.contract.files import read_json
from data_prep.contract.ranking import top_k
from data_prep.simulate import ceiling, forward, images
from data_prep.simulate.study import SimulateConfig, run
from tests.helpers.simulation import small_config, small_study


def _hashes(root):
    return {p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(root.rglob("*")) if p.is_file()}


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    run(small_config(tmp_path / "again"))
    assert _hashes(tmp_path / "again") == _hashes(small_study())


def test_files_are_those_of_things_eeg2():
    root = small_study()
    training = safe_load.load(root / "sub-01" / "preprocessed_eeg_training.npy")
    test = safe_load.load(root / "sub-01" / "preprocessed_eeg_test.npy")
    assert set(training) == {"preprocessed_eeg_data", "ch_names", "times"}
    assert training["preprocessed_eeg_data"].shape == (36, 4, 17, 100)
    assert test["preprocessed_eeg_data"].shape == (8, 6, 17, 100)
    assert np.allclose(np.diff(training["times"]), 0.01)
    metadata = safe_load.load(root / "image_metadata.npy")
    for part, prefix in (("training", "train"), ("test", "test")):
        for folder, file in zip(metadata[f"{prefix}_img_concepts"], metadata[f"{prefix}_img_files"], strict=True):
            assert (root / "images" / f"{part}_images" / folder / file).is_file()


def test_results_call_themselves_simulated_and_have_a_ceiling_for_each_number_of_repetitions():
    results = read_json(small_study() / "ceiling.json")
    assert results["simulated"] is True
    assert [row["repetitions"] for row in results["mean"]["ceiling"]] == [1, 2, 5, 6]
    assert read_json(small_study() / "study.json")["unit"] == "microvolts"


def test_a_finished_study_is_not_overwritten():
    with pytest.raises(CommandError, match="holds a finished study already"):
        run(small_config(small_study()))


@pytest.mark.parametrize(("changes", "message"), [
    ({"num_test_concepts": 1}, "num_test_concepts is 1"),
    ({"num_train_concepts": 10**6}, "no more can be drawn"),
    ({"noise_microvolts": 0.0}, "noise_microvolts is 0.0"),
    ({"num_drives": 30}, "num_drives is 30 with 36 training images"),
])  # fmt: skip
def test_impossible_configs_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        small_config(tmp_path, **changes)


def test_another_drive_is_refused_in_a_line():
    with pytest.raises(ConfigError, match="drive"):
        cli.parse(SimulateConfig, ["--output", "x", "--drive", "realistic"])


def test_concepts_are_distinct_and_pictures_differ_inside_a_concept():
    train, test = images.draw_concepts(300, 100, 5)
    assert len({c.name for c in train + test}) == 400
    first, captions = images.render(train[0], 48, np.random.default_rng(0))
    second, _ = images.render(train[0], 48, np.random.default_rng(1))
    assert first.size == (48, 48)
    assert np.abs(np.asarray(first, int) - np.asarray(second, int)).mean() > 1
    assert train[0].colour in captions[0]
    assert train[0].shape in captions[0]


def test_attributes_are_recovered_from_captions_by_their_phrases():
    phrases = read_json(small_study() / "attributes.json")
    assert set(phrases) == {"colour", "fill", "shape", "background", "size", "place"}
    assert len(phrases["place"]) == 9
    assert "" not in phrases["fill"]

    def found(attribute, caption):
        hits = [p for p in phrases[attribute] if re.search(rf"\b{re.escape(p)}\b", caption)]
        return max(hits, key=len, default=None)

    concepts = images.draw_concepts(400, 0, 1)[0]
    places = set()
    for number, concept in enumerate(concepts):
        _, (full, middle, short) = images.render(concept, 8, np.random.default_rng(number))
        for caption in (full, middle, short):
            assert found("colour", caption) == concept.colour
            assert found("shape", caption) == concept.shape
            assert found("fill", caption) == (None if concept.fill == "plain" else concept.fill)
        assert found("background", full) == found("background", middle) == images.BACKGROUNDS[concept.background]
        size, column, row = _drawn(number)
        assert found("size", full) == ("small", "medium-sized", "large")[min(int((size - 0.16) / 0.06), 2)]
        assert found("size", middle) is None
        vertical, horizontal = ("top", "", "bottom")[int((row - 0.32) / 0.12)], ("left", "", "right")[int((column - 0.32) / 0.12)]
        assert found("place", full) == f"at the {' '.join(filter(None, (vertical, horizontal))) or 'centre'}"
        places.add(found("place", full))
    assert places == set(phrases["place"])


def _drawn(seed):
    rng = np.random.default_rng(seed)
    return rng.uniform(0.16, 0.34), rng.uniform(0.32, 0.68), rng.uniform(0.32, 0.68)


def test_drawn_noise_has_the_stated_covariance_and_whitening_makes_it_white():
    noise = forward.make_noise(montage=17, sfreq=100, n_times=20, microvolts=10.0, floor_microvolts=2.0, seed=0)
    trials = noise.draw(8000, np.random.default_rng(0))
    expected = np.kron(noise.space_CC, noise.time_TT) + 4 * np.eye(17 * 20)
    found = np.cov(trials.reshape(len(trials), -1).T)
    assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < 0.1
    assert np.sqrt(np.trace(noise.space_CC) / 17) == pytest.approx(10.0)
    white = noise.whiten(trials[:5000])
    assert white.var() == pytest.approx(1.0, rel=0.02)


def test_ceiling_agrees_with_the_known_decoder_on_fresh_trials():
    noise = forward.make_noise(montage=17, sfreq=100, n_times=20, microvolts=10.0, floor_microvolts=2.0, seed=0)
    rng = np.random.default_rng(1)
    signal = 0.3 * rng.standard_normal((30, 17, 20))
    rows = ceiling.identification_ceiling(signal, noise, repetitions=(1, 4), draws=60, seed=0)
    for row in rows:
        own = np.repeat(np.arange(30), 40)
        trials = signal[own] + noise.draw(len(own), rng) / np.sqrt(row["repetitions"])
        found = top_k(ceiling.oracle_scores(trials, signal, noise), own, 1)
        assert row["top1"] == pytest.approx(found, abs=0.04)
    assert rows[0]["top1"] < rows[1]["top1"]


def test_subjects_differ_but_share_what_drives_them():
    args = {"num_drives": 6, "decay": 0.5, "montage": 17, "sfreq": 100.0, "tmin": -0.2, "n_times": 100, "information": 4.8, "seed": 0}
    one, two = forward.make_subjects(2, **args)
    a, b = one.response_KCT.ravel(), two.response_KCT.ravel()
    assert 0.3 < np.corrcoef(a, b)[0, 1] < 0.99
    noise = forward.make_noise(montage=17, sfreq=100.0, n_times=100, microvolts=10.0, floor_microvolts=2.0, seed=0)
    assert 3.8 < noise.information(one.response_KCT) < 6.0
    before_onset = np.abs(one.response_KCT[..., :20]).max()
    assert before_onset < 0.05 * np.abs(a).max()
    np.testing.assert_array_equal(forward.make_subjects(1, **args)[0].response_KCT, one.response_KCT)


def test_63_channels_contain_the_17():
    assert set(forward.THINGS_17) < set(forward.THINGS_63)
    assert len(set(forward.THINGS_63)) == 63
    whole, part = forward.electrode_positions(63), forward.electrode_positions(17)
    np.testing.assert_allclose(whole[forward.THINGS_63.index("Oz")], part[forward.THINGS_17.index("Oz")])
