"""Trials before whose onset nothing else was shown: from a reader through the tables to a split."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from data_prep.contract import schema
from data_prep.contract.errors import StudyError
from data_prep.contract.split import assign_parts
from data_prep.shards.open import open_study
from data_prep.shards.reindex import rebuild_tables
from data_prep.shards.write import ShardConfig, write_study
from data_prep.splits.config import SplitConfig
from data_prep.splits.split import write_split
from data_prep.splits.transforms import fit_transform
from tests.helpers.tiny_study import TinyReader, TinySource


@dataclass(frozen=True, kw_only=True)
class CleanReader(TinyReader):
    """The first repetition of every sample is clean, the second is not, of others it is unknown."""

    def open(self) -> TinySource:
        source = super().open()
        source.samples = [replace(s, clean_baseline=[True, False, None, None][: s.n_reps]) for s in source.samples]
        return source


@pytest.fixture
def study(tmp_path: Path) -> Path:
    write_study(ShardConfig(reader=CleanReader(vary_reps=True), output=str(tmp_path), samples_per_shard=5))
    return tmp_path


def test_the_column_is_read_back_and_rebuilt_from_the_tar(study: Path) -> None:
    opened = open_study(study)
    assert opened.manifest.clean_baseline
    expected = np.array([1, 0, -1, -1])[opened.table.repetition]
    np.testing.assert_array_equal(opened.table.clean_baseline, expected)
    assert opened.description(0)["clean_baseline"] == [True, False, "unknown", "unknown"][: len(opened.description(0)["session"])]
    for shard in opened.manifest.shards:
        _, trials = rebuild_tables(study / f"{shard.name}.tar", opened.manifest)
        np.testing.assert_array_equal(trials, np.load(study / f"{shard.name}.trials.npy"))


def test_a_split_takes_clean_trials_for_the_parts_that_ask(study: Path) -> None:
    split, _ = write_split(SplitConfig(study=str(study), policy="zero-shot", clean_baseline=("train",)))
    opened = open_study(study)
    part = assign_parts(split, opened.table)
    assert set(opened.table.clean_baseline[part == 1]) == {1}
    assert set(opened.table.clean_baseline[part == 3]) == {1, 0, -1}


def test_a_study_that_does_not_know_keeps_its_tables_and_refuses_such_a_split(tmp_path: Path) -> None:
    write_study(ShardConfig(reader=TinyReader(), output=str(tmp_path)))
    opened = open_study(tmp_path)
    assert np.load(tmp_path / "000000.trials.npy").dtype == schema.TRIALS_DTYPE
    assert set(opened.table.clean_baseline) == {-1}
    assert "clean_baseline" not in opened.description(0)
    with pytest.raises(StudyError, match="does not say which trials have a clean baseline"):
        write_split(SplitConfig(study=str(tmp_path), policy="zero-shot", clean_baseline=("train",)))
    with pytest.raises(ValueError, match="clean_baseline is"):
        SplitConfig(study=str(tmp_path), policy="zero-shot", clean_baseline=("training",))  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class LostReader(TinyReader):
    """The sessions of training images are lost, those of test images are not."""

    def open(self) -> TinySource:
        source = super().open()
        source.facts = replace(source.facts, sessions=[*source.facts.sessions, schema.UNKNOWN])
        lost = len(source.facts.sessions) - 1
        parts = [stimulus.part for stimulus in source.facts.stimuli]
        source.samples = [replace(s, session=[lost] * s.n_reps) if parts[s.stimulus] == "training" else s for s in source.samples]
        return source


@pytest.mark.parametrize("kind", ["mvnn", "zscore"])
def test_sessions_of_the_test_take_what_was_fitted_where_the_training_trials_sessions_are_unknown(tmp_path: Path, kind: str) -> None:
    write_study(ShardConfig(reader=LostReader(), output=str(tmp_path)))
    split, _ = write_split(SplitConfig(study=str(tmp_path), policy="zero-shot"))
    found = fit_transform(open_study(tmp_path), split, kind)
    groups = {(int(s), int(k)): matrix for s, k, matrix in zip(found["subject"], found["session"], found["matrix"], strict=True)}
    assert set(groups) == {(subject, session) for subject in (0, 1) for session in (0, 1, 2)}
    np.testing.assert_array_equal(groups[0, 0], groups[0, 2])
    assert not np.array_equal(groups[0, 0], groups[1, 0])
