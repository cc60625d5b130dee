"""What is not finite ends a run or a step alike on all ranks, and never reaches what a run keeps."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from data_prep.contract.cli import main
from data_prep.contract.errors import UserError
from data_prep.contract.files import read_json
from tests.distributed.launcher import launch
from tests.distributed.training import by_step, events, make_study, train
from trainer.__main__ import COMMANDS
from trainer.data.index import StudyIndex
from trainer.tasks.contrastive.task import ContrastiveTask
from trainer.training.checkpoint import read_checkpoint
from trainer.training.run_folder import read_lines
from trainer.training.verify import verify

pytestmark = pytest.mark.timeout(300)
STAGES = ("0", "1", "2", "3")
BY_SIZE = ("--data.verify", "sizes")
"""A shard that was altered is not told by its hash before its numbers are looked at."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("not-finite")
    make_study(folder)
    return folder


def contrastive(home: Path, run: Path, *arguments: str) -> int:
    return main("trainer", "", COMMANDS, ["contrastive", "--config", str(home / "config.yaml"), "--run", str(run), *arguments])


@pytest.fixture
def forwards() -> list[int]:
    """One for each that there was."""
    return []


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch, forwards: list[int]) -> set[int]:
    """Steps (from 1) whose forward makes no numbers, running statistics included, though the inputs are."""
    steps: set[int] = set()
    losses = ContrastiveTask.losses

    def fail(task: ContrastiveTask, model: Any, batch: Any) -> Any:
        forwards.append(1)
        if len(forwards) in steps:
            for name, buffer in model.module.named_buffers():
                if "running" in name:
                    buffer.fill_(math.nan)
        found = losses(task, model, batch)
        return {name: value * math.nan for name, value in found.items()} if len(forwards) in steps else found

    monkeypatch.setattr(ContrastiveTask, "losses", fail)
    return steps


@pytest.mark.parametrize("stage", STAGES)
def test_skipped_steps_leave_no_trace_are_counted_said_and_bounded(
    home: Path, tmp_path: Path, failing: set[int], stage: str, capfd: pytest.CaptureFixture[str]
) -> None:
    failing |= {2, 5, 7}  # 5: also a step that is to be saved
    run = tmp_path / "run"
    short = ("--zero.stage", stage, "--train.steps", "10", "--train.validate_every_steps", "0", "--data.split", "no-validation")
    assert contrastive(home, run, *short, "--train.max_skipped_steps", "3", "--checkpoint.keep_last", "9") == 0
    said = capfd.readouterr().out
    assert [event["step"] for event in events(run, "skipped")] == [2, 5, 7]
    assert "step 5/10  skipped: its gradients were not finite" in said
    assert by_step(run, "metrics.jsonl", "skipped_steps") == {1: 0, 2: 1, 3: 1, 4: 1, 5: 2, 6: 2, 7: 3, 8: 3, 9: 3, 10: 3}
    assert sorted(by_step(run, "metrics.jsonl", "loss")) == [1, 3, 4, 6, 8, 9, 10], "a step without a loss has none in the metrics"
    assert [path.name for path in sorted((run / "checkpoints").glob("step-*"))] == ["step-00000006", "step-00000010"]
    kept = [run / "export" / "model.safetensors", *(run / "checkpoints").glob("*/buffers.safetensors")]
    assert all(value.isfinite().all() for file in kept for value in load_file(file).values())


def test_one_skipped_step_too_many_ends_the_run_and_a_resumed_one_goes_on(
    home: Path, tmp_path: Path, failing: set[int], capfd: pytest.CaptureFixture[str]
) -> None:
    failing |= {6, 8}
    run = tmp_path / "run"
    asked = ("--train.max_skipped_steps", "1", "--train.max_rollbacks", "0", "--train.steps", "12")
    assert contrastive(home, run, *asked, "--train.log_every_steps", "50") == 1
    said = capfd.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: 2 optimizer steps until step 8 were skipped because their gradients were not finite, train.max_skipped")
    assert [path.name for path in (run / "checkpoints").glob("step-*")] == ["step-00000005"]
    assert not (run / "completed.json").exists()
    assert contrastive(home, run, *asked, "--resume", "latest") == 0


@pytest.mark.parametrize("stage", STAGES)
def test_too_many_skipped_steps_wind_a_run_back_and_on_with_other_items(
    home: Path, tmp_path: Path, failing: set[int], forwards: list[int], stage: str, capfd: pytest.CaptureFixture[str]
) -> None:
    failing |= {8, 9, 12}  # the 12th forward is step 9 once more
    run, steady = tmp_path / "run", tmp_path / "steady"
    asked = ("--zero.stage", stage, "--train.steps", "12", "--train.validate_every_steps", "6", "--data.split", "no-validation")
    asked = (*asked, "--checkpoint.every_steps", "6")
    assert contrastive(home, run, *asked, "--train.max_skipped_steps", "1") == 0
    assert "too many steps were skipped: back to step 6, on with other items" in capfd.readouterr().out
    (event,) = events(run, "rolled_back")
    assert (event["step"], event["to"], event["samples_seen"]) == (9, 6, 9 * 8)
    assert [event["step"] for event in events(run, "skipped")] == [9], "what is wound back is in undone/"
    assert [line["step"] for line in read_lines(run / "undone" / "events.jsonl") if line["event"] == "skipped"] == [8, 9]
    state = read_checkpoint(run / "checkpoints" / "step-00000012").state
    assert (state.step, state.samples_seen, state.rollbacks, state.skipped_steps) == (12, 15 * 8, 1, 1)
    assert verify(run) == []
    forwards.clear()
    failing |= {7}
    assert contrastive(home, steady, *asked, "--train.max_skipped_steps", "2") == 0, "nothing was learnt between 6 and the rollback"
    for name in ("items", "loss"):
        found, expected = (by_step(path, "items.jsonl" if name == "items" else "metrics.jsonl", name) for path in (run, steady))
        assert found.keys() == expected.keys()
        for step in found:
            assert found[step] == pytest.approx(expected[step], rel=1e-6), f"{name} at {step}"


def test_after_its_rollbacks_a_run_ends_with_a_report(home: Path, tmp_path: Path, failing: set[int], capfd: Any) -> None:
    failing |= {6, 7, 8, 9}
    run = tmp_path / "run"
    assert contrastive(home, run, "--train.max_skipped_steps", "1", "--train.steps", "12") == 1
    said = capfd.readouterr().err.strip().splitlines()[-1]
    assert "2 optimizer steps until step 7 were skipped" in said
    assert "train.max_skipped_steps allows 1, after 1 rollback: " in said
    assert said.endswith("reports/not-finite.json has them")
    report = read_json(run / "reports" / "not-finite.json")
    assert [(line["step"], line["samples_seen"]) for line in report["skipped"]] == [(6, 48), (7, 56), (6, 64), (7, 72)]
    assert [(line["step"], line["to"]) for line in report["rolled_back"]] == [(7, 5)]
    assert report["metrics"][-1]["step"] == 6, "the step that ended it has no metrics"


@pytest.mark.long
@pytest.mark.parametrize("stage", ["1", "3"])
def test_a_run_that_was_on_other_ranks_is_wound_back_to_what_these_have_saved(
    home: Path, tmp_path: Path, failing: set[int], stage: str, capfd: Any
) -> None:
    asked = ("--zero.stage", stage, "--train.steps", "8", "--data.split", "no-validation", "--checkpoint.every_steps", "2")
    train(tmp_path / "two", *asked, "--checkpoint.keep_last", "4", ranks=2, config=home / "config.yaml")
    asked = (*asked, "--train.max_skipped_steps", "1", "--resume", str(tmp_path / "two" / "checkpoints" / "step-00000002"))
    failing |= {1, 2, 5, 6}  # steps 3 and 4; of the second run, in which there are 2 forwards before, 5 and 6
    assert contrastive(home, tmp_path / "early", *asked) == 1
    assert "until step 4 were skipped" in capfd.readouterr().err, "one rank cannot load what two have saved"
    assert contrastive(home, tmp_path / "late", *asked) == 0
    assert [(event["step"], event["to"]) for event in events(tmp_path / "late", "rolled_back")] == [(6, 4)]


@pytest.mark.parametrize("stage", ["0", "2"])
def test_two_ranks_are_wound_back_alike(home: Path, tmp_path: Path, stage: str) -> None:
    run = tmp_path / "run"
    term = "[{class_path: tests.distributed.sometimes.Sometimes, init_args: {calls: [7, 8]}}]"
    asked = ("--zero.stage", stage, "--train.max_skipped_steps", "1", "--train.steps", "12", "--train.validate_every_steps", "6")
    output = train(run, *asked, "--train.accumulation", "2", "--loss.terms", term, ranks=2, config=home / "config.yaml")
    assert (run / "completed.json").is_file(), output
    assert [(event["step"], event["to"]) for event in events(run, "rolled_back")] == [(8, 6)]
    assert sorted(by_step(run, "metrics.jsonl", "loss")) == list(range(1, 13))


def test_a_checkpoint_whose_statistics_are_no_numbers_is_not_resumed(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    run = tmp_path / "run"
    assert contrastive(home, run, "--train.steps", "10") == 0
    monkeypatch.setattr("trainer.training.checkpoint.load_file", lambda file: {k: v * math.nan for k, v in load_file(file).items()})
    assert contrastive(home, run, "--train.steps", "20", "--resume", "latest") == 1
    assert "step-00000010: model.encoder" in (said := capfd.readouterr().err.strip().splitlines()[-1])
    assert said.endswith("is not finite: resume from an earlier checkpoint")


def test_statistics_that_are_no_numbers_are_neither_saved_nor_exported(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    count = [0]

    def spoil(task: ContrastiveTask, model: Any) -> None:
        count[0] += 1
        if count[0] == 8:
            next(buffer for name, buffer in model.named_buffers() if "running_var" in name)[1] = math.inf

    monkeypatch.setattr(ContrastiveTask, "constrain", spoil)
    run = tmp_path / "run"
    assert contrastive(home, run, "--data.split", "no-validation", "--train.steps", "10") == 1
    assert "the weights after step 10 are not finite (first model.encoder" in capfd.readouterr().err
    assert [path.name for path in (run / "checkpoints").glob("step-*")] == ["step-00000005"]
    assert not (run / "export").exists()


def test_a_score_that_is_no_number_is_no_best_score(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    monkeypatch.setattr(ContrastiveTask, "validate", lambda *_: {"top1": 0.5, "mrr": math.nan})
    assert contrastive(home, tmp_path / "run", "--train.steps", "10", "--train.validate_every_steps", "4") == 1
    assert "error: validation at step 4: mrr is nan, expected a number" in capfd.readouterr().err
    assert not (tmp_path / "run" / "best").exists()

    def nowhere(*_: Any) -> None:
        raise UserError("row 0 of the first embeddings has no direction (norm 0)")

    monkeypatch.setattr(ContrastiveTask, "validate", nowhere)
    assert contrastive(home, tmp_path / "run2", "--train.steps", "10", "--train.validate_every_steps", "4") == 1
    assert "error: validation at step 4: row 0 of the first embeddings has no direction (norm 0): lower" in capfd.readouterr().err


@pytest.mark.parametrize(("stage", "normalise"), [("0", "none"), ("1", "channel_zscore"), ("2", "trial_zscore"), ("3", "none")])
def test_a_trial_that_is_no_numbers_ends_a_run_with_its_name(tmp_path: Path, stage: str, normalise: str, capfd: Any) -> None:
    spoil(make_study(tmp_path), sample=int(stage) * 3 + 1)
    run = tmp_path / "run"
    assert contrastive(tmp_path, run, "--zero.stage", stage, "--data.normalise", normalise, "--data.split", "no-validation", *BY_SIZE) == 1
    said = capfd.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: ")
    assert f"sub-01_stim-{int(stage) * 3 + 1:06d} (subject 01, stimulus train/{int(stage) * 3 + 1:04d})" in said
    assert not (run / "completed.json").exists()
    assert not (run / "export").exists()


def spoil(root: Path, sample: int) -> None:
    index = StudyIndex.open(root)
    with index.tar_path(int(index.samples[sample]["shard"])).open("r+b") as tar:
        tar.seek(int(index.samples[sample]["eeg_offset"]) + 2 * 9)
        tar.write(np.array(np.nan, "<f2").tobytes())


def test_on_one_of_two_ranks_it_ends_both_with_the_same_sentence(tmp_path: Path) -> None:
    spoil(make_study(tmp_path), sample=3)
    output = train(
        tmp_path / "run",
        "--data.split",
        "no-validation",
        "--train.log_every_steps",
        "50",
        *BY_SIZE,
        ranks=2,
        config=tmp_path / "config.yaml",
    )
    said = [line for line in output.splitlines() if line.startswith("error: ")]
    assert said
    assert all("sub-01_stim-000003 (subject 01, stimulus train/0003), repetition 0: EEG is not finite" in line for line in said), output
    (fault,) = events(tmp_path / "run", "fault")
    assert "EEG is not finite" in fault["message"], "rank 0 writes the events, whichever rank had the trial"


def test_two_ranks_skip_alike_and_bounded_parameters_leave_their_bound_under_every_stage(tmp_path: Path) -> None:
    done = launch("tests.distributed.not_finite_worker", [str(tmp_path / "found.json")], ranks=2, timeout_seconds=120)
    assert done.returncode == 0, done.stdout[-4000:]
    for stage, found in json.loads((tmp_path / "found.json").read_text()).items():
        assert found["applied"] == [[True, True], [False, False], [True, True]], stage
        assert found["unchanged"], stage
        assert found["scales"][0] == [pytest.approx(15.0, rel=1e-6)] * 2, "brought back to the limit by the first step"
        assert found["scales"][-1][0] == found["scales"][-1][1] < 14.9, f"two steps inwards under ZeRO {stage}"
        assert found["master"] == pytest.approx(found["log_scale"]), "the optimizer steps from where the model is"


@pytest.fixture(autouse=True)
def _alone() -> Any:
    yield
    torch.use_deterministic_algorithms(False)
