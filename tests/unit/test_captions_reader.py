"""Captions of a study are those that were written, and missing ones are counted, refused or left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_prep.contract.errors import CommandError
from tests.helpers.tiny_study import write_tiny_study
from trainer.data.captions import StudyCaptions
from trainer.data.index import StudyIndex


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> StudyIndex:
    root = tmp_path_factory.mktemp("captions") / "study"
    return StudyIndex.open(write_tiny_study(root, n_stimuli=12, n_reps=1, uncaptioned=(3, 7)))


def test_every_stimulus_has_its_own_captions(index: StudyIndex) -> None:
    captions = StudyCaptions.open(index)
    for number, stimulus in enumerate(index.manifest.tables.stimuli):
        expected = [] if number in (3, 7) else [f"a picture of {stimulus.id}", "a second caption"]
        assert captions.of(number) == expected
    assert captions.has(np.array([3, 4, 4, 7])).tolist() == [False, True, True, False]


def test_missing_captions_are_counted_refused_or_dropped(index: StudyIndex) -> None:
    captions, stimuli = StudyCaptions.open(index), index.manifest.tables.stimuli
    assert captions.check(index, np.array([0, 1, 2]), "refuse", "train") == 0
    assert captions.check(index, np.arange(12), "drop", "train") == 2
    with pytest.raises(CommandError) as error:
        captions.check(index, np.arange(12), "refuse", "train")
    assert "2 of 12 train stimuli have no caption" in str(error.value)
    assert repr(stimuli[3].id) in str(error.value)
    with pytest.raises(CommandError, match="2 of 2 validation stimuli"):  # nothing would be left
        captions.check(index, np.array([3, 7]), "drop", "validation")


def test_a_study_without_captions_is_refused(tmp_path: Path) -> None:
    index = StudyIndex.open(write_tiny_study(tmp_path / "study", n_subjects=1, n_reps=1, captions=False))
    with pytest.raises(CommandError, match="has no captions: shard it with captions"):
        StudyCaptions.open(index)
