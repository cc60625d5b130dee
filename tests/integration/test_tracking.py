"""MLflow stores as runs meet them: made by several at once, moved, in odd places, and behind a server that goes and comes back."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.distributed.launcher import ROOT, free_port
from tests.helpers.tiny_study import write_tiny_study
from trainer.callbacks.mlflow import MlflowTracking
from trainer.callbacks.mlflow_evaluation import Evaluation, log_evaluation
from trainer.callbacks.mlflow_store import experiment_id, open_store
from trainer.data.config import DataConfig
from trainer.training.completed import Completed, write_completed
from trainer.training.config import TrainConfig
from trainer.training.run_folder import RunFolder, read_lines
from trainer.training.state import TrainState
from trainer.training.tracking import MlflowConfig, sqlite_uri

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_study(tmp_path_factory.mktemp("studies") / "study")


class Run:
    """A training as a callback sees it."""

    def __init__(self, study: Path, folder: Path, config: MlflowConfig) -> None:
        from data_prep.contract.manifest import read_manifest
        from trainer.tasks.contrastive.config import ContrastiveConfig

        folder.mkdir(parents=True, exist_ok=True)
        train = TrainConfig(steps=30, global_batch_size=8)
        embedding = next(iter(read_manifest(study).embeddings))
        plain = ContrastiveConfig(
            run=str(folder), data=DataConfig(study=str(study), split="tiny", embedding=embedding), train=train, mlflow=config
        )
        facts = {"fingerprint": "f" * 64, "split_hash": "5" * 64, "embedding_sha256": "e" * 64}
        self.folder, self.tracking = RunFolder(folder), MlflowTracking(config)
        for name in ("config.yaml", "identity.json"):
            (folder / name).write_text("{}")
        self.folder.event("start")
        self.loop: Any = SimpleNamespace(
            world=SimpleNamespace(rank=0, size=1), folder=self.folder, state=TrainState(), config=plain, study=facts
        )

    def step(self, count: int = 1) -> None:
        for _ in range(count):
            self.loop.state.step += 1
            self.folder.metrics(self.loop.state.step, {"loss": 1 / self.loop.state.step})
            self.tracking.on_metrics(self.loop, {})

    def losses(self, client: Any) -> list[tuple[int, float]]:
        return sorted((m.step, m.value) for m in client.get_metric_history(self.loop.state.tracking_run_id, "train/loss"))

    def arrived(self, client: Any, count: int) -> bool:
        self.tracking.on_metrics(self.loop, {})
        return bool(self.loop.state.tracking_run_id) and len(self.losses(client)) == count

    @property
    def written(self) -> list[tuple[int, float]]:
        return [(line["step"], line["loss"]) for line in read_lines(self.folder.path / "metrics.jsonl")]


def wait_for(condition: Any, seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


MAKING = """
import sys
from trainer.callbacks.mlflow_store import experiment_id, open_store
sys.stdin.readline()
client = open_store(sys.argv[1], 5)
run = client.create_run(experiment_id(client, "shared", sys.argv[1]))
client.log_text(run.info.run_id, "text", "note.txt")
print(run.info.run_id)
"""


@pytest.mark.long
def test_any_number_of_processes_begin_on_a_store_that_is_not_there_yet(tmp_path: Path) -> None:
    uri = sqlite_uri(tmp_path / "what? 100%25 #1" / "mlflow.db")
    argv = [sys.executable, "-c", MAKING, uri]
    processes = [subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(3)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    made = [process.communicate(timeout=120)[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0] * 3
    client = open_store(uri, 5)
    (experiment,) = [found for found in client.search_experiments() if found.name == "shared"]
    assert {run.info.run_id for run in client.search_runs([experiment.experiment_id])} == set(made)
    assert {path.name for path in tmp_path.iterdir()} == {"what? 100%25 #1"}, "a folder of another name was made"
    assert {path.name for path in (tmp_path / "what? 100%25 #1").iterdir()} == {"mlflow.db", "mlflow.db.lock", "mlartifacts"}
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"


@pytest.mark.parametrize(
    ("before", "after", "how"), [("runs", "elsewhere", "copied"), ("a b", "50% #2?", "moved"), ("what?", "plain/deep", "moved")]
)
def test_a_folder_that_is_moved_or_copied_stays_itself(study: Path, tmp_path: Path, before: str, after: str, how: str) -> None:
    run = Run(study, tmp_path / before / "one", MlflowConfig())
    run.tracking.on_begin(run.loop)
    run.step(3)
    (run.folder.export).mkdir()
    (run.folder.export / "weights").write_text("the export")
    run.tracking.on_end(run.loop, "finished")
    completed = Completed(step=3, best_score=None, best_step=3, score_name=None, tracking_run_id=run.loop.state.tracking_run_id)
    write_completed(run.folder.path, completed)
    (tmp_path / after).parent.mkdir(exist_ok=True)
    (shutil.move if how == "moved" else shutil.copytree)(tmp_path / before, tmp_path / after)
    there = tmp_path / after / "one"
    (there / "report.html").write_text("a report")
    assert log_evaluation(there / "export", Evaluation(folder="test", metrics={"test/top1": 0.5}, files=(there / "report.html",))) == ""
    client = open_store(MlflowConfig().uri(there), 5)
    found = client.get_run(run.loop.state.tracking_run_id)
    assert (found.info.status, found.data.metrics["test/top1"]) == ("FINISHED", 0.5)
    for artifact, text in (("export/weights", "the export"), ("test/report.html", "a report")):
        assert Path(client.download_artifacts(found.info.run_id, artifact)).read_text() == text
    assert len(list((tmp_path / after / "mlartifacts").rglob("report.html"))) == 1
    if how == "copied":
        assert not list((tmp_path / before).rglob("report.html")), "the original was written into"


def test_an_mlflow_user_finds_what_a_run_is(study: Path, tmp_path: Path) -> None:
    run = Run(study, tmp_path / "runs" / "one", MlflowConfig(experiment="aligned"))
    run.tracking.on_begin(run.loop)
    run.step()
    run.tracking.on_end(run.loop, "finished")
    client = open_store(MlflowConfig().uri(run.folder.path), 5)
    found = client.get_run(run.loop.state.tracking_run_id)
    assert found.data.tags["mlflow.source.name"] == "python -m trainer contrastive"
    assert found.data.tags["mlflow.source.type"] == "LOCAL"
    expected = {"simulated": "false", "study": "study", "split": "tiny", "audit": "unknown"}
    assert {name: found.data.tags[name] for name in expected} == expected
    assert "**study**" in found.data.tags["mlflow.note.content"]
    (used,) = found.inputs.dataset_inputs
    assert json.loads(used.dataset.source)["uri"] == study.as_uri()
    assert [field["name"] for field in schema(used)] == ["eeg", run.loop.config.data.embedding]
    assert found.data.params["train.seed"] == "0"


@pytest.mark.parametrize("when", ["in training", "at the end"])
def test_a_run_that_somebody_deletes_is_told_and_another_one_gets_every_point(
    study: Path, tmp_path: Path, when: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(study, tmp_path / "runs" / "one", MlflowConfig())
    run.tracking.on_begin(run.loop)
    run.step(3)
    client = open_store(MlflowConfig().uri(run.folder.path), 5)
    wait_for(lambda: run.arrived(client, 3))
    deleted = run.loop.state.tracking_run_id
    client.delete_run(deleted)
    if when == "in training":
        run.step()
        wait_for(lambda: run.loop.state.tracking_run_id != deleted and run.arrived(client, 4))
        run.step(2)
    run.tracking.on_end(run.loop, "finished")
    new = run.loop.state.tracking_run_id
    assert new != deleted
    assert (run.losses(client), client.get_run(new).info.status) == (run.written, "FINISHED")
    events = read_lines(run.folder.path / "events.jsonl")
    assert [event["run_id"] for event in events if event["event"] == "tracking" and "run_id" in event] == [deleted, new]
    assert [deleted in event["message"] for event in events if event["event"] == "fault"] == [True]
    assert " ".join(capsys.readouterr().err.split()).count(f"the run {deleted} is deleted") == 1


@pytest.mark.parametrize("restored", [False, True])
def test_a_deleted_experiment_is_a_sentence_and_once_restored_has_every_point(
    study: Path, tmp_path: Path, restored: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(study, tmp_path / "runs" / "one", MlflowConfig(experiment="faces"))
    uri = MlflowConfig().uri(run.folder.path)
    client = open_store(uri, 5)
    deleted = experiment_id(client, "faces", uri)
    client.delete_experiment(deleted)
    run.tracking.on_begin(run.loop)
    run.step(2)
    wait_for(lambda: any(event["event"] == "fault" for event in read_lines(run.folder.path / "events.jsonl")))
    if restored:
        client.restore_experiment(deleted)
        run.step()
        wait_for(lambda: run.arrived(client, 3))
    run.tracking.on_end(run.loop, "finished")
    said = " ".join(capsys.readouterr().err.split())
    assert f"'faces' is deleted in {uri}" in said
    assert f"`mlflow experiments restore --experiment-id {deleted}`" in said
    assert "MlflowException" not in said
    assert ("ended: its experiment is deleted" in said) is not restored
    if restored:
        assert (run.losses(client), client.get_run(run.loop.state.tracking_run_id).info.status) == (run.written, "FINISHED")


def test_scores_of_a_deleted_run_are_not_logged_in_a_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "one"
    folder.mkdir(parents=True)
    uri = MlflowConfig().uri(folder)
    client = open_store(uri, 5)
    run_id = client.create_run(experiment_id(client, "contrastive", uri)).info.run_id
    write_completed(folder, Completed(step=3, best_score=None, best_step=3, score_name=None, tracking_run_id=run_id))
    scores = Evaluation(folder="test", metrics={"test/top1": 0.5})
    client.delete_run(run_id)
    said = log_evaluation(folder, scores)
    assert said.startswith(f"Not logged to MLflow: the run {run_id} of the training is deleted in {uri}")
    assert f"`mlflow runs restore --run-id {run_id}`" in said
    client.restore_run(run_id)
    assert log_evaluation(folder, scores) == ""
    assert client.get_run(run_id).data.metrics == {"test/top1": 0.5}


def test_a_start_that_fails_makes_no_run_and_the_run_of_one_that_breaks_is_named(study: Path, tmp_path: Path) -> None:
    run = Run(study, tmp_path / "runs" / "one", MlflowConfig())
    run.tracking.on_start(run.loop)
    run.tracking.on_fault(run.loop, "SystemExit: 75")
    assert not (tmp_path / "runs" / "mlflow.db").exists()
    run.tracking.on_begin(run.loop)
    wait_for(lambda: run.loop.state.tracking_run_id)
    run.tracking.on_fault(run.loop, "it broke at once")
    client = open_store(MlflowConfig().uri(run.folder.path), 5)
    (made,) = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert made.info.status == "FAILED"
    assert any(event.get("run_id") == made.info.run_id for event in read_lines(run.folder.path / "events.jsonl"))


def test_what_a_kill_has_left_of_a_database_is_swept_and_nothing_else(tmp_path: Path) -> None:
    left = [f".mlflow.db.{n:032x}.new{ending}" for n, ending in enumerate(("", "-journal", "-wal", "-shm"))]
    others = [".mlflow.db.new", f".other.db.{1:032x}.new", f".mlflow.db.{1:032x}.new.txt", "mlflow.db.notes", f".mlflow.db.{1:031x}.new"]
    for name in (*left, *others):
        (tmp_path / name).write_text("x")
    (tmp_path / f".mlflow.db.{9:032x}.new").mkdir()
    open_store(sqlite_uri(tmp_path / "mlflow.db"), 5)
    found = {path.name for path in tmp_path.iterdir()}
    assert not found & set(left)
    assert found >= {*others, f".mlflow.db.{9:032x}.new"}


def schema(used: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(used.dataset.schema)["mlflow_colspec"]
    return found


@contextlib.contextmanager
def server(home: Path, port: int) -> Iterator[None]:
    """A real ``mlflow server`` that answers; gone afterwards."""
    argv = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", sqlite_uri(home / "server.db"), "--workers", "1"]
    argv += ["--artifacts-destination", str(home / "files"), "--port", str(port)]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (home / "server.log").open("a") as log:
        process = subprocess.Popen(argv, cwd=home, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for(lambda: process.poll() is not None or answers(port), 120)
        assert process.poll() is None, (home / "server.log").read_text()
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.mark.long
def test_a_server_that_restarts_in_training_or_at_its_end_has_the_whole_run(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    config = MlflowConfig(tracking_uri=f"http://127.0.0.1:{port}", timeout_seconds=5)
    away, late = (Run(study, tmp_path / name, config) for name in ("away", "late"))
    with server(tmp_path, port):
        away.tracking.on_begin(away.loop)
        late.tracking.on_begin(late.loop)
        away.step(5)
        late.step(2)
        client = open_store(config.tracking_uri, 5)
        for run, count in ((away, 5), (late, 2)):
            wait_for(lambda run=run, count=count: run.arrived(client, count))
    began = time.monotonic()
    away.step(20)
    assert time.monotonic() - began < 1, "training waited for a server"
    late.step(3)
    late.tracking.on_end(late.loop, "finished")  # it waits a while, and ends
    completed = Completed(step=5, best_score=None, best_step=5, score_name=None, tracking_run_id=late.loop.state.tracking_run_id)
    write_completed(late.folder.path, completed)
    (late.folder.path / "config.yaml").write_text(json.dumps({"mlflow": {"tracking_uri": config.tracking_uri, "timeout_seconds": 5}}))
    assert capsys.readouterr().err.count("tracking is off from step") == 2, "each says once that it is away"
    with server(tmp_path, port):

        def interval() -> bool:
            away.step()
            time.sleep(0.2)
            return len(away.losses(client)) >= 25

        wait_for(interval)
        away.tracking.on_end(away.loop, "finished")
        assert away.losses(client) == away.written
        assert client.get_run(away.loop.state.tracking_run_id).info.status == "FINISHED"
        assert client.get_run(late.loop.state.tracking_run_id).info.status == "RUNNING"
        assert log_evaluation(late.folder.path, Evaluation(folder="test", metrics={})) == ""
        assert late.losses(client) == late.written
        assert client.get_run(late.loop.state.tracking_run_id).info.status == "FINISHED"


def test_scores_report_and_plots_of_an_evaluation_lie_in_the_run_that_trained_the_encoder(study: Path, tmp_path: Path) -> None:
    from tests.integration.test_serving import make_run
    from trainer.evaluate.retrieval.command import run as evaluate_retrieval
    from trainer.evaluate.retrieval.config import EvaluateRetrievalConfig

    folder = make_run(tmp_path)
    uri = MlflowConfig().uri(folder)
    client = open_store(uri, 5)
    run_id = client.create_run(experiment_id(client, "contrastive", uri)).info.run_id
    write_completed(folder, Completed(step=3, best_score=None, best_step=3, score_name=None, tracking_run_id=run_id))
    output = tmp_path / "report"
    config = EvaluateRetrievalConfig(
        export=str(folder / "export"), output=str(output), baselines=[], num_resamples=20, num_permutations=9, part="test"
    )
    evaluate_retrieval(config)
    found = client.get_run(run_id)
    results = json.loads((output / "retrieval.json").read_text())
    for metric, value in results["summary"]["model"].items():
        assert found.data.metrics[f"test/{metric}"] == pytest.approx(value)
    assert found.data.tags["test.study"] == results["study"]
    assert found.data.tags["test.simulated"] == str(results["simulated"]).lower()
    names = {item.path for item in client.list_artifacts(run_id, "test")}
    assert names >= {"test/retrieval.html", "test/retrieval.json", "test/figure-1.png"}
