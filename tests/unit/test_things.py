"""The THINGS-EEG2 folder reader: what is read, and what is refused in a sentence."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from data_prep.contract import safe_load
from data_prep.contract.errors import StudyError
from data_prep.contract.files import read_json
from data_prep.studies.things import BareArrays, ThingsReaderConfig
from data_prep.studies.trials import TrialsConfig
from tests.helpers.simulation import small_study

TRAINING, TEST = "sub-01/preprocessed_eeg_training.npy", "sub-01/preprocessed_eeg_test.npy"


@pytest.fixture
def study(tmp_path) -> Path:
    root = tmp_path / "study"
    shutil.copytree(small_study(), root)
    return root


def change(file: Path, *, as_pickle: bool = True, **changes) -> None:
    content = {**safe_load.load(file), **changes}
    if as_pickle:
        file.write_bytes(pickle.dumps(content))
    else:
        np.save(file, np.array(content, dtype=object), allow_pickle=True)


def test_rows_follow_the_metadata_and_eeg_is_what_was_written():
    source = ThingsReaderConfig(root=str(small_study())).open()
    facts = source.facts
    assert (facts.sfreq, facts.tmin, facts.n_times, facts.n_chans, facts.unit) == (100.0, -0.2, 100, 17, "microvolts")
    assert len(source.samples) == 12 * 3 + 8
    assert [s.concept for s in facts.stimuli] == [i // 3 for i in range(36)] + list(range(12, 20))
    assert {s.part for s in facts.stimuli[:36]} == {"training"}
    assert {s.part for s in facts.stimuli[36:]} == {"test"}
    written = safe_load.load(small_study() / TEST)["preprocessed_eeg_data"]
    np.testing.assert_array_equal(source.eeg(36 + 5), written[5])
    assert source.eeg(3).shape == (4, 17, 100)
    assert source.samples[36].key == "sub-01_stim-000036"
    assert facts.sessions == ["unknown"]
    assert facts.preprocessing["simulated"]["simulated"] is True
    assert facts.preprocessing["ceiling"]["gallery"] == 8
    assert all(name in facts.captions[0][1] for name in facts.concepts[0].split("_")[:1])


def test_plain_pickles_and_object_arrays_are_the_same_study(study):
    before = ThingsReaderConfig(root=str(study)).open()
    expected = before.eeg(7)
    change(study / TRAINING)
    after = ThingsReaderConfig(root=str(study)).open()
    np.testing.assert_array_equal(expected, after.eeg(7))
    with pytest.raises(StudyError, match="changed while it was read"):
        before.eeg(8)
    assert after.source_hash != before.source_hash


def test_source_hash_is_of_content_not_place(study):
    assert ThingsReaderConfig(root=str(study)).open().source_hash == ThingsReaderConfig(root=str(small_study())).open().source_hash


def test_times_longer_than_data_describe_the_end(study):
    for file in (TRAINING, TEST):
        change(study / file, times=np.arange(-70, 80) / 100)
    facts = ThingsReaderConfig(root=str(study)).open().facts
    assert (facts.sfreq, facts.tmin) == (100.0, -0.2)


@pytest.mark.parametrize(("changes", "message"), [
    ({"times": np.arange(50) / 100}, "50 times for 100 points of EEG"),
    ({"times": np.arange(100)[::-1] / 100}, "not evenly spaced"),
    ({"times": np.r_[np.arange(99) / 100, 5]}, "not evenly spaced"),
    ({"ch_names": ["Pz"]}, "17 channels of EEG and 1 ch_names"),
    ({"preprocessed_eeg_data": np.zeros((5, 4, 17, 100))}, "5 stimuli, image_metadata.npy lists 36 training images"),
    ({"preprocessed_eeg_data": np.zeros((36, 17, 100))}, "expected \\(stimuli, repetitions, channels, times\\)"),
])  # fmt: skip
def test_contradictions_are_refused(study, changes, message):
    change(study / TRAINING, **changes)
    with pytest.raises(StudyError, match=message) as caught:
        ThingsReaderConfig(root=str(study)).open()
    assert "preprocessed_eeg_training.npy" in str(caught.value)


def test_parts_at_different_rates_are_refused(study):
    change(study / TEST, times=np.arange(-50, 50) / 250)
    with pytest.raises(StudyError, match=r"250 Hz.*100 Hz"):
        ThingsReaderConfig(root=str(study)).open()


def test_a_configured_rate_that_contradicts_the_file_is_refused():
    ThingsReaderConfig(root=str(small_study()), expect_sfreq=100.0).open()
    with pytest.raises(StudyError, match="sampled at 100 Hz by its times, expect_sfreq is 500 Hz"):
        ThingsReaderConfig(root=str(small_study()), expect_sfreq=500.0).open()


def test_a_missing_image_is_named_unless_images_are_optional(study):
    image = next((study / "images" / "test_images").glob("*/*.jpg"))
    image.unlink()
    with pytest.raises(StudyError, match=f"{image.name}: no such image \\(1 of 44 are missing\\)"):
        ThingsReaderConfig(root=str(study)).open()
    shutil.rmtree(study / "images")
    assert ThingsReaderConfig(root=str(study), require_images=False).open().facts.image_root is None


def test_metadata_that_leads_outside_the_study_is_refused(study):
    metadata = safe_load.load(study / "image_metadata.npy")
    metadata["train_img_files"][0] = "../../../../etc/passwd"
    np.save(study / "image_metadata.npy", np.array(metadata, dtype=object), allow_pickle=True)
    with pytest.raises(StudyError, match="lies outside"):
        ThingsReaderConfig(root=str(study)).open()


def test_bare_arrays_need_their_facts(study):
    for file in (TRAINING, TEST):
        np.save(study / file, safe_load.load(study / file)["preprocessed_eeg_data"])
    with pytest.raises(StudyError, match="without ch_names and times"):
        ThingsReaderConfig(root=str(study)).open()
    names = tuple(f"C{i}" for i in range(17))
    source = ThingsReaderConfig(root=str(study), bare=BareArrays(sfreq=250.0, tmin=-0.1, ch_names=names)).open()
    assert (source.facts.sfreq, source.facts.tmin, source.facts.ch_names) == (250.0, -0.1, list(names))


def test_a_window_and_channels_may_be_chosen():
    config = ThingsReaderConfig(root=str(small_study()), trials=TrialsConfig(tmin=0.0, tmax=0.5, channels=("Oz", "Pz")))
    source = config.open()
    whole = ThingsReaderConfig(root=str(small_study())).open()
    order = [whole.facts.ch_names.index(name) for name in ("Oz", "Pz")]
    assert (source.facts.n_times, source.facts.tmin) == (50, 0.0)
    np.testing.assert_allclose(source.eeg(0), whole.eeg(0)[:, order, 20:70])
    assert len(source.facts.positions) == 2


def test_a_missing_subject_is_named():
    with pytest.raises(StudyError, match="no sub-07 folder; it has 01"):
        ThingsReaderConfig(root=str(small_study()), subjects=("07",)).open()


def test_malicious_eeg_file_executes_nothing(study):
    marker = study / "executed"

    class Malice:
        def __reduce__(self):
            return Path.touch, (marker,)

    (study / TEST).write_bytes(pickle.dumps({"preprocessed_eeg_data": Malice()}))
    with pytest.raises(StudyError, match="refused"):
        ThingsReaderConfig(root=str(study)).open()
    assert not marker.exists()


def test_captions_must_cover_every_stimulus(study):
    captions = read_json(study / "captions.json")
    name = sorted(captions)[0]
    del captions[name]
    (study / "captions.json").write_text(json.dumps(captions))
    with pytest.raises(StudyError, match=f"has no caption for '{name}'"):
        ThingsReaderConfig(root=str(study)).open()


def test_images_without_captions_are_allowed_on_request(study):
    captions = read_json(study / "captions.json")
    gone, empty, blank = sorted(captions)[:3]
    del captions[gone]
    captions |= {empty: [], blank: " "}
    (study / "captions.json").write_text(json.dumps(captions))
    facts = ThingsReaderConfig(root=str(study), captions_missing="allow").open().facts
    without = {s.id for s, lines in zip(facts.stimuli, facts.captions, strict=True) if not lines}
    assert without == {gone, empty, blank}
    captions[empty] = [7]
    (study / "captions.json").write_text(json.dumps(captions))
    with pytest.raises(StudyError, match="is not a caption or a list of captions"):
        ThingsReaderConfig(root=str(study), captions_missing="allow").open()
    with pytest.raises(ValueError, match="captions_missing is 'drop', expected refuse or allow"):
        ThingsReaderConfig(root=str(study), captions_missing="drop")
