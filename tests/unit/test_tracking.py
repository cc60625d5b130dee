"""Points reach a tracking server whatever happens to it, and an SQLite store is found wherever its folder lies."""

from __future__ import annotations

import itertools
import json
import math
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from data_prep.contract.errors import CommandError
from trainer.callbacks.mlflow_points import Points, mlflow_name, points_of
from trainer.callbacks.mlflow_store import settle
from trainer.evaluate.tracking import metrics_of, prefix_of
from trainer.training.tracking import MlflowConfig, found_again, sqlite_file, sqlite_uri


@pytest.mark.parametrize("what", ["text", "half", "folder"])
def test_what_is_no_database_is_a_sentence(tmp_path: Path, what: str) -> None:
    file = tmp_path / "mlflow.db"
    if what == "folder":
        (file / "inside").mkdir(parents=True)
    else:
        file.write_bytes(b"no database\n" * 400 if what == "text" else b"SQLite format 3\0" + b"\x10\0\1\1" + b"\xff" * 4000)
    with pytest.raises(CommandError, match=rf"tracking_uri: {file}: .*expected an SQLite database of MLflow's"):
        settle(sqlite_uri(file))


class Server:
    """A tracking server that fails as it likes, before or after it has taken what it was sent."""

    def __init__(self, draw: random.Random, failing: float) -> None:
        self.draw, self.failing = draw, failing
        self.metrics: list[Any] = []

    def log_batch(self, run_id: str, metrics: list[Any]) -> None:
        if self.draw.random() < self.failing:
            if self.draw.random() < 0.5:
                self.metrics += metrics  # the answer is lost
            raise ConnectionError
        self.metrics += metrics

    def get_run(self, run_id: str) -> Any:
        if self.draw.random() < self.failing:
            raise ConnectionError
        return SimpleNamespace(data=SimpleNamespace(metrics={metric.key: metric.value for metric in self.metrics}))

    def get_metric_history(self, run_id: str, name: str) -> list[Any]:
        if self.draw.random() < self.failing:
            raise ConnectionError
        return [metric for metric in self.metrics if metric.key == name]

    def shown(self) -> dict[tuple[str, int], float]:
        return {(m.key, m.step): m.value for m in self.metrics}


def line(draw: random.Random, step: int) -> str:
    values = {"loss": draw.choice([draw.random(), math.nan, math.inf]), "lr": 0.1 / (step + 1)}
    validation = {f"validation_{name}": draw.random() for name in ("top1", "mrr")}
    return json.dumps({"step": step, **values}) + "\n" + (json.dumps({"step": step, **validation}) + "\n" if step % 3 == 0 else "")


@pytest.mark.parametrize("seed", range(30))
def test_a_server_has_every_point_of_the_file_after_any_outages_kills_and_windings_back(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    server, file = Server(draw, failing=0.4), tmp_path / "metrics.jsonl"
    file.write_text("")
    points, step, begins = Points(file), 0, [0]
    for _ in range(draw.randrange(5, 40)):
        what = draw.random()
        if what < 0.1 and step:  # wound back: the lines after a checkpoint are gone, other values come
            step = draw.randrange(step)
            file.write_bytes(file.read_bytes()[: begins[step]])
            del begins[step + 1 :]
            points = Points(file)
        elif what < 0.2:  # killed and resumed
            points = Points(file)
        else:
            with file.open("a") as lines:
                lines.write(line(draw, step))
            step += 1
            begins.append(file.stat().st_size)
        try:
            points.send(server, "run")
        except ConnectionError:
            continue
    server.failing = 0.0
    points.send(server, "run")
    shown, held = server.shown(), points_of(file.read_text().split("\n"))
    assert {point: repr(shown.get(point)) for point in held} == {point: repr(value) for point, value in held.items()}
    before = len(server.metrics)
    points.send(server, "run")
    assert len(server.metrics) == before, "nothing is sent twice"


def test_an_undisturbed_run_sends_each_point_once_and_asks_nothing_again(tmp_path: Path) -> None:
    draw = random.Random(0)
    server, file = Server(draw, failing=0.0), tmp_path / "metrics.jsonl"
    points = Points(file)
    points.send(server, "run")  # nothing is there yet
    for step in range(9):
        with file.open("a") as lines:
            lines.write(line(draw, step))
        points.send(server, "run")
    assert len(server.metrics) == len(server.shown()) == 9 * 2 + 3 * 2


@pytest.mark.parametrize("resumed_at", [0, 2, 3, 8])
def test_steps_that_a_kill_undid_and_that_come_again_are_not_sent_twice(tmp_path: Path, resumed_at: int) -> None:
    draw = random.Random(0)
    server, file = Server(draw, failing=0.0), tmp_path / "metrics.jsonl"
    lines = [line(draw, step) for step in range(9)]
    file.write_text("".join(lines))
    Points(file).send(server, "run")
    sent = len(server.metrics)
    file.write_text("".join(lines[:resumed_at]))
    points = Points(file)
    for each in ["", *lines[resumed_at:]]:
        with file.open("a") as again:
            again.write(each)
        points.send(server, "run")
    assert len(server.metrics) == sent


def test_a_line_that_is_cut_short_is_sent_when_it_is_whole(tmp_path: Path) -> None:
    server, file = Server(random.Random(0), failing=0.0), tmp_path / "metrics.jsonl"
    points = Points(file)
    for piece in ('{"step": 1, "lo', 'ss": 0.5}\n{"step": 2, ', "\n[1]\n", '{"step": 3, "loss": 0.25}\n'):
        with file.open("a") as lines:
            lines.write(piece)
        points.send(server, "run")
    assert server.shown() == {("train/loss", 1): 0.5, ("train/loss", 3): 0.25}


def test_every_name_is_one_that_mlflow_takes() -> None:
    from mlflow.utils.validation import _validate_metric_name, _validate_param

    draw = random.Random(0)
    odd = ["a(b)c=d", "ü/x", "../x", "/abs", "a//b", "a/../b", ".", "..", "", "a/", "x" * 6000, "loss\n", "test/top1", "train/a+b", "C:\\x"]
    for name in [*odd, *("".join(draw.choices("ab./ :-_+(ü\n%", k=draw.randrange(8))) for _ in range(500))]:
        _validate_metric_name(mlflow_name(name))
        _validate_param(mlflow_name(name), "value")
    for kept in ("train/loss", "optimizer.lr", "data.select.keep", "test/ridge/top-1", "a b"):
        assert mlflow_name(kept) == kept


@pytest.mark.parametrize("name", ["retrieval", "classes"])
@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_scores_of_an_evaluation_are_apart_from_the_points_of_the_training(part: str, name: str) -> None:
    points = points_of([json.dumps({"step": 3, "loss": 0.5, "top1": 0.1, "validation_top1": 0.2, "validation_classes/top1": 0.3})])
    scores = metrics_of({"model": {"top1": 0.4, "loss": 0.4}}, prefix_of(part, name))
    assert {mlflow_name(metric) for metric in scores}.isdisjoint({metric for metric, _ in points})


def test_no_two_names_become_one() -> None:
    parts = ["a", "+", "_and_", "_and", "and_", "_", "/", ".", "#", "ü", "x" * 249]
    names = {"".join(chosen) for length in range(1, 5) for chosen in itertools.product(parts, repeat=length)}
    names |= {mlflow_name(name) for name in names}  # what another name has become is a name, too
    taken = {name: mlflow_name(name) for name in names}
    assert len(set(taken.values())) == len(names)
    assert taken["a+a"] == "a_and_a"
    assert taken["a_and_a"].startswith("a_and_a-")


NAMES = ("plain", "with space", "a%20b", "what?", "a#b", "100%", "ünï", "a&b=c;d", "%2F", "?#%25")


@pytest.mark.parametrize("name", NAMES)
def test_a_path_of_any_characters_is_that_of_its_uri(tmp_path: Path, name: str) -> None:
    from sqlalchemy.engine import make_url

    uri = MlflowConfig().uri(tmp_path / name / "run")
    assert make_url(uri).database == str(tmp_path / name / "mlflow.db")
    assert sqlite_file(uri) == tmp_path / name / "mlflow.db"
    # MLflow makes the folder that this text names.
    assert Path(uri.removeprefix("sqlite:///")).parent.exists() or "%" not in uri


def test_a_store_that_moved_with_its_folder_is_found_again(tmp_path: Path) -> None:
    old, run = sqlite_uri(tmp_path / "gone" / "mlflow.db"), tmp_path / "here?" / "run"
    run.mkdir(parents=True)
    assert found_again(old, run) == old
    (tmp_path / "here?" / "mlflow.db").touch()
    assert found_again(old, run) == sqlite_uri(tmp_path / "here?" / "mlflow.db")
    (tmp_path / "other.db").touch()
    for kept in ("http://host:5000", sqlite_uri(tmp_path / "other.db"), "sqlite:///", sqlite_uri(tmp_path / "gone" / "own.db")):
        assert found_again(kept, run) == kept


def test_the_tracker_says_nothing_to_a_rank_that_is_not_the_first() -> None:
    from trainer.callbacks.mlflow import MlflowTracking

    tracking, loop = MlflowTracking(MlflowConfig()), SimpleNamespace(world=SimpleNamespace(rank=1))
    tracking.on_begin(loop)  # type: ignore[arg-type]
    tracking.on_metrics(loop, {"loss": 1.0})  # type: ignore[arg-type]
    tracking.on_fault(loop, "it broke")  # type: ignore[arg-type]
