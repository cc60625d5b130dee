"""Training on tars that are not what was written: one sentence, and nothing of it is kept."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from data_prep.contract.cli import main
from tests.distributed.training import make_study, train, training, wait_for
from trainer.__main__ import COMMANDS

MANY = ("--mlflow.enabled", "false", "--train.steps", "100000", "--train.validate_every_steps", "0", "--checkpoint.every_steps", "0")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    make_study(tmp_path)
    return tmp_path


def zero(study: Path, number: int) -> None:
    tar = study / f"{number:06d}.tar"
    tar.write_bytes(bytes(tar.stat().st_size))


@pytest.mark.parametrize("number", [0, 2])
def test_a_run_on_a_zeroed_tar_leaves_no_checkpoint_no_export_and_no_score(home: Path, capfd: pytest.CaptureFixture, number: int) -> None:
    zero(home / "study", number)
    command = ["contrastive", "--config", str(home / "config.yaml"), "--run", str(home / "run"), "--mlflow.enabled", "false"]
    assert main("trainer", "", COMMANDS, command) == 1
    assert f"{number:06d}.tar: SHA-256" in capfd.readouterr().err.strip().splitlines()[-1]
    assert not list((home / "run").glob("checkpoints/step-*"))
    assert not [name for name in ("latest", "best", "export", "completed.json") if (home / "run" / name).exists()]
    metrics = home / "run" / "metrics.jsonl"
    assert "validation" not in (metrics.read_text() if metrics.is_file() else "")


def test_a_run_resumes_when_the_tar_is_what_it_was(home: Path, capfd: pytest.CaptureFixture) -> None:
    shutil.copytree(home / "study", home / "whole")
    zero(home / "study", 1)
    command = ["contrastive", "--config", str(home / "config.yaml"), "--run", str(home / "run"), "--train.steps", "4", "--resume", "auto"]
    assert main("trainer", "", COMMANDS, command) == 1
    shutil.copy(home / "whole" / "000001.tar", home / "study" / "000001.tar")
    assert main("trainer", "", COMMANDS, [*command, "--data.verify", "all"]) == 0
    assert main("trainer", "", COMMANDS, [*command, "--data.verify", "sizes", "--train.steps", "5"]) == 0


def test_a_tar_that_shrinks_in_training_ends_it_with_a_sentence(home: Path) -> None:
    run = home / "run"
    with training(run, *MANY, ranks=1, config=home / "config.yaml") as process:
        wait_for(lambda: (run / "metrics.jsonl").is_file(), process)
        for tar in (home / "study").glob("*.tar"):
            os.truncate(tar, 100)
        process.wait(60)
    assert process.returncode == 1, "not by a signal"
    assert ".tar: 100 bytes, expected" in run.with_suffix(".log").read_text().strip().splitlines()[-1]
    assert not (run / "latest").exists()


def test_on_several_ranks_none_seals_a_checkpoint_of_what_one_has_read(home: Path) -> None:
    zero(home / "study", 2)
    said = train(home / "run", "--mlflow.enabled", "false", "--checkpoint.every_steps", "1", ranks=2, config=home / "config.yaml")
    assert "000002.tar: SHA-256" in said
    assert not (home / "run" / "latest").exists()
    assert not list((home / "run").glob("checkpoints/*/manifest.json"))
