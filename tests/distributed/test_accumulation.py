"""A contrastive step in several forwards a rank, under every ZeRO stage, is the step of one process and one forward."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_prep.contract.files import read_json
from tests.distributed.accumulation_worker import CASES
from tests.distributed.launcher import launch
from tests.distributed.training import by_step, events, make_study, train

LIMIT = 1e-5
pytestmark = pytest.mark.timeout(400)


@pytest.mark.parametrize("ranks", [pytest.param(1, marks=pytest.mark.long), 2])
def test_forwards_of_ranks_are_one_forward_of_one_process(tmp_path: Path, ranks: int) -> None:
    output = tmp_path / "errors.json"
    done = launch("tests.distributed.accumulation_worker", [str(output)], ranks=ranks, timeout_seconds=240)
    assert done.returncode == 0, done.stdout[-4000:]
    found = json.loads(output.read_text())
    assert found["world_size"] == ranks
    assert len(found["errors"]) == len(CASES)
    for case, errors in found["errors"].items():
        for name in ("loss", "gradient", "weight", "next_loss", "running_statistics"):
            assert errors[name] < LIMIT, f"{name} of {case}"
        assert errors["running_statistics_between_ranks"] == 0, case
        assert errors["num_gradients"] > 10
        assert errors["stepped"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("accumulation")
    make_study(folder)
    return folder


@pytest.fixture(scope="module")
def whole(home: Path) -> Path:
    """Undisturbed, on 2 ranks, each of which takes its 4 items at once."""
    return done(home, "whole", ranks=2)


def done(home: Path, name: str, *arguments: str, ranks: int) -> Path:
    """A run to the end."""
    run = home / name
    asked = ("--train.steps", "12", "--train.validate_every_steps", "6", "--checkpoint.every_steps", "6")
    output = train(run, *asked, *arguments, ranks=ranks, config=home / "config.yaml")
    assert (run / "completed.json").is_file(), output
    return run


def assert_same(run: Path, whole: Path, *, after: int = 0) -> None:
    """Items, losses and scores of every step ``after`` one, and the best of them."""
    for name in ("items", "loss", "validation_mrr", "logit_scale"):
        found, wanted = (by_step(path, "items.jsonl" if name == "items" else "metrics.jsonl", name) for path in (run, whole))
        steps = [step for step in wanted if step > after]
        assert len(steps) > 0
        for step in steps:
            assert found[step] == pytest.approx(wanted[step], rel=1e-5), f"{name} at {step}"
    assert read_json(run / "completed.json")["best_step"] == read_json(whole / "completed.json")["best_step"]


@pytest.mark.long
def test_a_run_in_smaller_forwards_is_the_same_run(home: Path, whole: Path) -> None:
    assert_same(done(home, "smaller", "--train.micro_batch_size", "2", ranks=2), whole)


def test_with_a_rank_less_forwards_of_the_same_size_change_no_loss(home: Path, whole: Path) -> None:
    checkpoint = whole / "checkpoints" / "step-00000006"
    run = done(home, "lost", "--train.micro_batch_size", "4", "--resume", str(checkpoint), ranks=1)
    assert events(run, "resume")[0]["world_size"] == 1
    assert_same(run, whole, after=6)
