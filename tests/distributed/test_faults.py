"""What ends a training run is what is said of it, whatever goes wrong while that is recorded."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from data_prep.contract.cli import main
from tests.distributed.training import by_step, events, make_study
from trainer.__main__ import COMMANDS
from trainer.callbacks.progress import ProgressLine
from trainer.tasks.contrastive.task import ContrastiveTask
from trainer.training.run_folder import RunFolder, read_lines


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults")
    make_study(folder)
    return folder


@pytest.fixture
def run(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run whose third step fails for a reason of ours."""
    losses = ContrastiveTask.losses

    def fail(task: ContrastiveTask, model: Any, batch: Any) -> Any:
        if len(read_lines(tmp_path / "run" / "metrics.jsonl")) == 2:
            raise RuntimeError("a shape is wrong")
        return losses(task, model, batch)

    monkeypatch.setattr(ContrastiveTask, "losses", fail)
    return tmp_path / "run"


def contrastive(home: Path, run: Path) -> int:
    return main("trainer", "", COMMANDS, ["contrastive", "--config", str(home / "config.yaml"), "--run", str(run)])


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_fault_is_an_event_and_its_traceback_lies_in_the_run_folder(home: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert contrastive(home, run) == 1
    assert sorted(by_step(run, "metrics.jsonl", "loss")) == [1, 2]
    (fault,) = events(run, "fault")
    assert (fault["step"], fault["message"]) == (2, "RuntimeError: a shape is wrong")
    assert str(run / "errors" / "rank-0.txt") in capsys.readouterr().err
    assert "a shape is wrong" in (run / "errors" / "rank-0.txt").read_text()


@pytest.mark.parametrize("traceback_too", [False, True])
def test_a_full_disk_does_not_stand_in_for_the_fault(
    home: Path, run: Path, traceback_too: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    event = RunFolder.event
    monkeypatch.setattr(RunFolder, "event", lambda folder, kind, **facts: (full if kind == "fault" else event)(folder, kind, **facts))
    monkeypatch.setattr(ProgressLine, "on_fault", full)
    if traceback_too:
        monkeypatch.setattr("data_prep.contract.cli.private", full)  # opens the file of the traceback
    assert contrastive(home, run) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: internal, not your fault: RuntimeError: a shape is wrong; ")
    if traceback_too:
        assert said.endswith("its traceback could not be written: run again with --debug")
    else:
        kept = (run / "errors" / "rank-0.txt").read_text()
        assert kept.count("and while that was recorded: OSError: [Errno 28] No space left on device") == 2


def test_a_line_that_finds_no_room_names_its_file(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "events.jsonl").symlink_to("/dev/full")
    assert contrastive(home, run) == 1
    assert capsys.readouterr().err.strip().splitlines()[-1] == f"error: {run}/events.jsonl: no space left on the disk"
    assert [path.name for path in run.iterdir()] == ["events.jsonl"]
