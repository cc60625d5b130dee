"""A text evaluation in the MLflow run that trained the model: a real SQLite store, read back through MLflow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.helpers import generations as made
from trainer.callbacks.mlflow_evaluation import training_run
from trainer.evaluate.text.command import run
from trainer.evaluate.text.config import EvaluateTextConfig
from trainer.training.completed import Completed, write_completed


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A completed run folder and the id of its MLflow run."""
    from mlflow import MlflowClient

    home = tmp_path_factory.mktemp("runs")
    client = MlflowClient(tracking_uri=f"sqlite:///{home / 'mlflow.db'}")
    experiment = client.create_experiment("text", artifact_location=(home / "mlartifacts").as_uri())
    run_id = client.create_run(experiment).info.run_id
    client.set_terminated(run_id, "FINISHED")
    folder = home / "one"
    (folder / "export").mkdir(parents=True)
    write_completed(folder, Completed(step=3, best_score=None, best_step=3, score_name=None, tracking_run_id=run_id))
    (folder / "config.yaml").write_text(yaml.safe_dump({"run": "one", "mlflow": {"experiment": "text"}}))
    return folder, run_id


def evaluation(folder: Path, generations: Path, **changes: object) -> EvaluateTextConfig:
    fields = {"metrics": ["bleu", "concepts"], "resamples": 50} | changes
    return EvaluateTextConfig(generations=[str(generations)], output=str(folder / "reports"), **fields)  # type: ignore[arg-type]


def test_scores_verdicts_table_and_report_lie_in_the_training_s_run(tracked: tuple[Path, str], tmp_path: Path) -> None:
    import mlflow
    from mlflow import MlflowClient

    folder, run_id = tracked
    rows = made.records(12, made.ARMS | {"eeg+concept": 0.7})
    rows[0]["generated"] = 'two\nlines, "quotes" and 😺'
    run(evaluation(tmp_path, made.write(tmp_path / "g", rows, config={"export": str(folder / "export")})))
    run(evaluation(tmp_path, tmp_path / "g"))  # again: takes the place of the first
    client = MlflowClient(tracking_uri=f"sqlite:///{folder.parent / 'mlflow.db'}")
    logged = client.get_run(run_id)
    results = json.loads((tmp_path / "reports" / "text.json").read_text())
    assert logged.info.status == "FINISHED"
    assert logged.data.metrics["text/test/eeg/bleu_1"] == pytest.approx(results["arms"]["eeg"]["bleu_1"]["value"])
    assert logged.data.metrics["text/test/eeg_minus_noise/bleu_1"] == pytest.approx(
        results["differences"]["eeg"]["noise"]["bleu_1"]["value"]
    )
    assert "text/test/eeg_and_concept/bleu_1" in logged.data.metrics
    assert logged.data.tags["text_verdict"].startswith("Simulated EEG ")
    names = {f.path for f in client.list_artifacts(run_id, "text/test")}
    assert names == {"text/test/generations.json", "text/test/text.html", "text/test/text.json"}
    assert json.loads(logged.data.tags["mlflow.loggedArtifacts"]) == [{"path": "text/test/generations.json", "type": "table"}]
    mlflow.set_tracking_uri(f"sqlite:///{folder.parent / 'mlflow.db'}")  # load_table searches the process's own store
    table = client.load_table(logged.info.experiment_id, "text/test/generations.json", [run_id])
    assert len(table) == len(rows)
    assert rows[0]["generated"] in set(table["generated"])
    assert set(table["arm"]) == {row["arm"] for row in rows}


def test_what_cannot_be_logged_is_said_and_costs_nothing(
    tracked: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = tracked
    rows = made.records(5)
    lost = tmp_path / "lost"
    (lost / "export").mkdir(parents=True)
    write_completed(lost, Completed(step=3, best_score=None, best_step=3, score_name=None, tracking_run_id="0" * 32))
    for exported, message in ((str(tmp_path), "belongs to no run that was tracked"), (str(lost / "export"), "mlflow.db is not there")):
        run(evaluation(tmp_path, made.write(tmp_path / "g", rows, config={"export": exported})))
        said = capsys.readouterr().out
        assert "Not logged to MLflow: " in said
        assert message in said
        assert (tmp_path / "reports" / "text.html").is_file()
    store = f"sqlite:///{folder.parent / 'mlflow.db'}"
    run(evaluation(tmp_path, tmp_path / "g", tracking_uri=store))
    assert f"Not logged to MLflow: the run {'0' * 32} of the training is deleted in {store}, or was never there" in capsys.readouterr().out
    assert training_run(lost) is not None
    (lost / "config.yaml").write_text(yaml.safe_dump({"mlflow": {"enabled": False}}))
    assert training_run(lost) is None
