"""Whoever opens a study reads it by one function, with the same checks; values in sentences stay short."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.contract.errors import StudyError
from data_prep.contract.manifest import read_manifest, write_manifest
from data_prep.contract.open_study import read_study
from data_prep.contract.words import short
from data_prep.shards import ustar
from data_prep.shards.open import open_study
from tests.helpers.tiny_study import write_tiny_study
from trainer.data.index import StudyIndex

OPENERS = [read_study, open_study, StudyIndex.open]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return write_tiny_study(tmp_path / "study")


def test_all_see_the_same_samples(study: Path) -> None:
    ours, theirs = open_study(study), StudyIndex.open(study)
    assert np.array_equal(ours.samples, theirs.samples)
    assert ours.samples["shard"].max() == len(ours.manifest.shards) - 1
    assert len(ours.samples) == sum(shard.rows for shard in ours.manifest.shards)


@pytest.mark.parametrize("opener", OPENERS)
def test_no_shards_is_refused(study: Path, opener: Callable[[Path], Any]) -> None:
    write_manifest(study, replace(read_manifest(study), shards=[]))
    with pytest.raises(StudyError, match="lists no shards"):
        opener(study)


def rewrite(study: Path, kind: str, column: str, row: int, change: Callable[[Any], Any]) -> None:
    """Hashes and sizes agree, the content does not: a writer of another version, or by hand."""
    manifest = read_manifest(study)
    first = manifest.shards[0]
    path = study / f"{first.name}.{kind}.npy"
    table = np.load(path)
    table[column][row] = change(table[column][row])
    path.write_bytes(ustar.npy_bytes(table))
    sealed = {f"{kind}_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    write_manifest(study, replace(manifest, shards=[replace(first, **sealed), *manifest.shards[1:]]))  # type: ignore[arg-type]


@pytest.mark.parametrize("beyond", [-2, -1, 0, 1, 2**31 - 1])
@pytest.mark.parametrize(
    ("kind", "column"),
    [("index", "subject"), ("index", "stimulus"), ("index", "concept"), ("trials", "session"), ("trials", "recording")],
)
def test_an_id_that_no_table_has_is_refused_before_any_batch(study: Path, kind: str, column: str, beyond: int) -> None:
    size = len(read_manifest(study).tables.labels(column))
    number = beyond if beyond < 0 or beyond > size else size + beyond
    rewrite(study, kind, column, 1, lambda _: number)
    with pytest.raises(
        StudyError, match=rf"000000\.{kind}\.npy: {column} of row 1 is {number}, the manifest's table has rows 0 to {size - 1}"
    ):
        read_study(study)


@pytest.mark.parametrize("opener", OPENERS)
def test_bytes_of_eeg_that_are_not_its_repetitions_are_refused(study: Path, opener: Callable[[Path], Any]) -> None:
    rewrite(study, "index", "eeg_bytes", 1, lambda found: found - 2)
    with pytest.raises(StudyError, match=r"index\.npy: row 1 has \d+ bytes of EEG, expected n_reps"):
        opener(study)


def test_values_in_sentences_are_one_short_line() -> None:
    assert short(None) == "None"
    assert short(["a", 1]) == "a, 1"
    assert short("two\nlines") == "two lines"
    assert short("x" * 60) == "x" * 60
    assert short("x" * 61) == "x" * 59 + "…"


@pytest.mark.parametrize(
    ("made", "says"), [(False, "there is no such folder"), (True, "there is no manifest.json (sharding not run, or not finished)")]
)
def test_a_study_that_was_moved_away_is_told_from_an_unfinished_one(tmp_path: Path, made: bool, says: str) -> None:
    if made:
        (tmp_path / "study").mkdir()
    with pytest.raises(StudyError, match=re.escape(f"{tmp_path / 'study'}: not a finished study: {says}")):
        read_manifest(tmp_path / "study")
