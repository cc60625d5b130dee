"""What an audit says of each claim, of sessions, and of what time alone gives away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.__main__ import COMMANDS
from data_prep.contract.audit import Audit, read_audit
from data_prep.contract.cli import main
from data_prep.contract.errors import StudyError
from data_prep.contract.split import assign_parts
from data_prep.shards.open import open_study
from data_prep.splits.config import SplitConfig
from data_prep.splits.split import write_split
from data_prep.splits.time_baseline import time_baseline
from tests.helpers.tiny_study import write_tiny_study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_study(
        tmp_path_factory.mktemp("claims") / "s", n_stimuli=24, n_test=8, n_subjects=10, n_sessions=3, n_reps=3, images_per_concept=4
    )


def audited(study: Path, policy: str, **fields: Any) -> Audit:
    config = SplitConfig(study=str(study), policy=policy, overwrite=True, **fields)  # type: ignore[arg-type]
    return write_split(config)[1]


HOLDS = {
    "zero-shot": {"new concepts", "new images"},
    "session": {"new sessions", "new recordings"},
    "recording": {"new sessions", "new recordings"},  # a recording is a session here
    "subject": {"new subjects", "new sessions", "new recordings", "new concepts", "new images"},
    "closed-set": set(),  # its images were shown concept by concept: time tells them
    "eeg-clip/by-subject": {"new subjects", "new sessions", "new recordings"},
}
NEW = {"new concepts", "new images", "new recordings", "new sessions", "new subjects"}


@pytest.mark.parametrize("policy", HOLDS)
def test_each_claim_has_its_own_verdict(study: Path, policy: str) -> None:
    report = audited(study, policy)
    verdicts = {claim.name: claim.verdict for claim in report.claims}
    assert {name for name in NEW if verdicts[name] == "sound"} == HOLDS[policy]
    assert all(claim.reasons for claim in report.claims if claim.verdict != "sound")
    assert verdicts["untouched test"] == "sound"
    assert verdicts["responses, not time"] == ("unsound" if policy == "closed-set" else "sound")
    again = read_audit(study, report.name)
    assert again is not None
    assert again.claims == report.claims


def test_without_validation_the_choice_is_the_tests(study: Path) -> None:
    report = audited(study, "zero-shot", name="bare", num_validation_concepts=0)
    verdicts = {claim.name: claim for claim in report.claims}
    assert verdicts["new concepts"].verdict == "caution"
    assert "overfitted" in verdicts["untouched test"].reasons[0]


@pytest.mark.parametrize(("saw", "verdict"), [("yes", "unsound"), ("no", "sound"), ("unknown", "sound")])
def test_whitening_that_saw_the_test_is_told(tmp_path: Path, saw: str, verdict: str) -> None:
    made = {"whitening_saw_test": saw, "whitening": "the mean of both covariances"}
    report = audited(write_tiny_study(tmp_path / "s", n_stimuli=24, n_test=8, preprocessing=made), "zero-shot")
    claims = {claim.name: claim for claim in report.claims}
    assert claims["untouched test"].verdict == verdict
    assert claims["new concepts"].verdict == ("caution" if saw == "yes" else "sound")
    assert ("covariance of the test's trials, too (the mean of both covariances)" in str(claims["untouched test"].reasons)) == (
        saw == "yes"
    )


def test_of_classes_nothing_is_said_of_images(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    root = write_tiny_study(tmp_path / "s", stimulus_level="class", n_reps=6)
    report = audited(root, "recording")
    verdicts = {claim.name: claim.verdict for claim in report.claims}
    assert verdicts["new concepts"] == verdicts["new images"] == verdicts["right pairs"] == "not made"
    assert verdicts["new recordings"] == "sound"
    assert main("data_prep", "", COMMANDS, ["audit", "--study", str(root), "--split", "recording"]) == 0
    assert "claim 'new recordings', that a model decodes recordings that it was never trained on: sound" in capsys.readouterr().out


@pytest.mark.parametrize("test_sessions", [None, ["01"], ["01", "03"]])
def test_sessions_are_held_out_by_subject(study: Path, test_sessions: list[str] | None) -> None:
    fields: dict[str, Any] = {} if test_sessions is None or len(test_sessions) == 1 else {"num_validation_sessions": 0}
    split, report = write_split(
        SplitConfig(study=str(study), policy="session", name="some", overwrite=True, test_sessions=test_sessions, **fields)
    )
    opened = open_study(study)
    part = assign_parts(split, opened.table)
    sessions = {number: {opened.manifest.tables.sessions[s] for s in opened.table.session[part == number]} for number in (1, 3)}
    assert sessions[3] == {*(test_sessions or ["03"])}
    for subject in range(10):
        own = opened.table.subject == subject
        assert not set(opened.table.session[own & (part == 1)]) & set(opened.table.session[own & (part == 3)])
    assert not [finding for finding in report.findings if finding.kind == "session_overlap"]


def test_sessions_that_cannot_be_held_out_are_refused(study: Path, tmp_path: Path) -> None:
    for words, match in {
        ("01", "02", "03"): "no session of subject 01 is left to train on",
        ("09",): "'09' is not in this study",
        ("01", "02"): "num_validation_sessions is 1, expected at most 0",
    }.items():
        with pytest.raises(StudyError, match=match):
            audited(study, "session", name="no", test_sessions=[*words])
    lost = write_tiny_study(tmp_path / "s", n_sessions=1)
    with pytest.raises(StudyError, match="no session of subject 01 is left"):
        audited(lost, "session")


def test_folds_leave_every_session_out_once(study: Path) -> None:
    words = ["split", "--study", str(study), "--policy"]
    assert main("data_prep", "", COMMANDS, [*words, "session", "--name", "each", "--folds", "true"]) == 0
    assert [read_audit(study, f"each-{n:02d}") is not None for n in range(3)] == [True] * 3
    assert main("data_prep", "", COMMANDS, [*words, "eeg-clip/by-subject"]) == 0
    assert read_audit(study, "eeg-clip-by-subject") is not None


@pytest.mark.parametrize("num_labels", [2, 5, 40])
def test_time_tells_labels_that_come_in_blocks_and_no_others(num_labels: int) -> None:
    rng = np.random.default_rng(num_labels)
    recordings, trials = 4, 200
    recording_N, time_N = np.repeat(np.arange(recordings), trials), np.tile(np.arange(trials, dtype=float), recordings)
    test_N = rng.random(recordings * trials) < 0.2
    blocks_N = np.concatenate([np.repeat(rng.permutation(num_labels), trials // num_labels) for _ in range(recordings)])
    told = time_baseline(recording_N, time_N, blocks_N, ~test_N, test_N)
    assert told is not None
    assert told.tells
    assert told.accuracy > 0.6
    for seed in range(20):
        shuffled_N = np.random.default_rng(seed).integers(num_labels, size=len(blocks_N))
        told = time_baseline(recording_N, time_N, shuffled_N, ~test_N, test_N)
        assert told is not None
        assert not told.tells
        assert abs(told.accuracy - told.chance) < 0.2


@pytest.mark.parametrize("period", [2, 3, 7])
def test_labels_in_turn_are_told_by_time_though_neighbours_differ(period: int) -> None:
    """Odd trials trained on, even ones tested, each label twice in a row: neighbours agree only half of the time."""
    label_N = np.repeat(np.tile(np.arange(period), 30), 2)
    place_N = np.arange(len(label_N), dtype=float)
    told = time_baseline(np.zeros(len(label_N), int), place_N, label_N, place_N % 2 == 1, place_N % 2 == 0)
    assert told is not None
    assert told.accuracy >= 0.5
    assert told.tells == (period > 2)


def test_without_a_shared_recording_time_tells_nothing() -> None:
    recording_N = np.repeat([0, 1], 10)
    assert time_baseline(recording_N, np.arange(20.0), np.zeros(20, int), recording_N == 0, recording_N == 1) is None
