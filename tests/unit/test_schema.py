"""The contract itself: names, hashes, atomic files, and which repetition is in which part."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_prep.contract import schema
from data_prep.contract.errors import StudyError
from data_prep.contract.files import canonical_json, write_json
from data_prep.contract.manifest import Embedding, Quality, read_manifest
from data_prep.contract.repetitions import RepetitionTable, read_shard_tables, repetition_table
from data_prep.contract.split import Split, assign_parts
from tests.helpers.tiny_study import write_tiny_study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_study(tmp_path_factory.mktemp("studies") / "tiny", vary_reps=True)


def table_of(root: Path) -> RepetitionTable:
    manifest = read_manifest(root)
    pairs = [read_shard_tables(root, manifest, shard) for shard in manifest.shards]
    return repetition_table([i for i, _ in pairs], [t for _, t in pairs])


def test_keys_have_no_dots_and_refuse_separators() -> None:
    assert schema.stimulus_sample_key("01", 123) == "sub-01_stim-000123"
    assert schema.trial_sample_key("01", "02", "03", 42) == "sub-01_ses-02_run-03_trial-00042"
    for bad in ("a/b", "..", "a.b", ""):
        with pytest.raises(StudyError, match="letters and digits only"):
            schema.stimulus_sample_key(bad, 0)


@pytest.mark.parametrize("name", ["eeg", "json", "txt", "Clip", "1clip", "clip.b", "../clip", ""])
def test_embedding_names_that_a_tar_cannot_hold_are_refused(name: str) -> None:
    with pytest.raises(StudyError, match="embedding name"):
        schema.check_embedding_name(name)


def test_index_columns_follow_the_members() -> None:
    names = schema.index_dtype(["clip", "dino"], captions=True).names
    assert names == (
        *("eeg_offset", "eeg_bytes", "clip_offset", "clip_bytes", "dino_offset", "dino_bytes", "txt_offset", "txt_bytes"),
        *("json_offset", "json_bytes", "n_reps", "subject", "stimulus", "concept"),
    )
    assert "txt_offset" not in schema.index_dtype([], captions=False).names


def test_a_failed_atomic_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "f.json"
    write_json(file, {"a": 1})

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_json(file, {"a": 2})
    assert json.loads(file.read_text()) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["f.json"]


def test_json_is_canonical_and_refuses_nan() -> None:
    assert canonical_json({"b": 1, "a": "é"}) == '{"a":"é","b":1}'.encode()
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json(float("nan"))


def test_fingerprint_is_of_content_only(study: Path) -> None:
    manifest = read_manifest(study)
    assert replace(manifest, code_version="9", quality=Quality(), preprocessing={}).fingerprint == manifest.fingerprint
    more = manifest.with_embedding("other", Embedding(dim=2, sha256="0"))
    assert more.fingerprint != manifest.fingerprint
    assert more.rows_hash == manifest.rows_hash
    renamed = replace(manifest, tables=replace(manifest.tables, subjects=["01", "03"]))
    assert renamed.fingerprint != manifest.fingerprint


def test_repetition_table_counts_through_the_study(study: Path) -> None:
    table = table_of(study)
    n_reps = np.array([4 - (i % 3 == 2) for i in range(12)] * 2)
    assert np.array_equal(table.sample, np.repeat(np.arange(24), n_reps))
    assert np.array_equal(table.repetition, np.concatenate([np.arange(n) for n in n_reps]))
    assert np.array_equal(table.subject, np.repeat(np.repeat([0, 1], 12), n_reps))
    assert np.array_equal(table.stimulus, np.repeat(np.tile(np.arange(12), 2), n_reps))
    assert np.array_equal(table.session, table.repetition % 2)
    assert np.array_equal(table.recording, table.subject * 2 + table.repetition % 2)


def test_clauses_mean_any_of_all(study: Path) -> None:
    table = table_of(study)
    parts = {
        "train": [{"subject": [0], "stimulus": [0, 1]}, {"subject": [1], "repetition": [0]}],
        "validation": [],
        "test": [{"row": [len(table) - 1]}],
    }
    part = assign_parts(Split(name="x", policy="", rows_hash="", parts=parts), table)
    expected = ((table.subject == 0) & (table.stimulus < 2)) | ((table.subject == 1) & (table.repetition == 0))
    assert np.array_equal(part == 1, expected)
    assert np.flatnonzero(part == 3).tolist() == [len(table) - 1]
    assert not (part == 2).any()


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"train": [{"subject": [0]}], "validation": [], "test": [{"subject": [7]}]}, "part 'test' has no trials"),
        ({"train": [{"subject": [0]}], "validation": [], "test": [{"stimulus": [0]}]}, "are in both 'train' and 'test'"),
        ({"train": [{"colour": [0]}], "validation": [], "test": []}, "has fields"),
        ({"train": [{}], "validation": [], "test": []}, "has fields"),
    ],
)
def test_contradictory_parts_are_refused(study: Path, parts: dict, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        assign_parts(Split(name="x", policy="", rows_hash="", parts=parts), table_of(study))


def test_an_unfinished_or_altered_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"no manifest\.json"):
        read_manifest(tmp_path)
    root = write_tiny_study(tmp_path / "s", n_stimuli=6, n_test=2, n_subjects=1)
    text = (root / "manifest.json").read_text()
    (root / "manifest.json").write_text(text.replace("microvolts", "zscore"))
    with pytest.raises(StudyError, match="altered"):
        read_manifest(root)
    (root / "manifest.json").write_text(text.replace('"schema_version": 1', '"schema_version": 2'))
    with pytest.raises(StudyError, match="schema version 2, expected 1"):
        read_manifest(root)
    (root / "manifest.json").write_text(text[: len(text) // 2])
    with pytest.raises(StudyError, match="not valid JSON"):
        read_manifest(root)
