"""An evaluation in the MLflow run that trained the model."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_prep.contract.cli import from_plain
from data_prep.contract.config_file import read_fields
from data_prep.contract.secrets import masked
from trainer.callbacks.mlflow_points import Points, mlflow_name
from trainer.callbacks.mlflow_store import living_run, open_store, said_of
from trainer.training.completed import read_completed
from trainer.training.tracking import MlflowConfig, sqlite_file

_METRICS_A_CALL = 1000
_MAX_TAG_CHARACTERS = 5000


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What an evaluation leaves in the run that trained the model."""

    folder: str
    """Where files lie among the run's artifacts."""
    metrics: Mapping[str, float | None]
    """By name; what MLflow's names cannot hold is replaced, and None is left out."""
    tags: Mapping[str, str] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    """Reports and plots to keep."""
    step: int = 0
    """Optimizer step of the weights that were scored."""
    table: Mapping[str, list[Any]] | None = None
    """By column, shown by MLflow's pages as a table; None: no table."""


def training_run(exported: str | Path | None) -> tuple[str, MlflowConfig, Path] | None:
    """MLflow run, tracking config and run folder of the training behind an export or run folder; None where it was not tracked."""
    for folder in (Path(exported), Path(exported).absolute().parent) if exported else ():
        if (completed := read_completed(folder)) is not None:
            run_id = completed.tracking_run_id
            config = folder / "config.yaml"
            plain = read_fields(config) if config.is_file() else {}
            tracking = from_plain(MlflowConfig, plain.get("mlflow") or {})
            return (run_id, tracking, folder) if run_id and tracking.enabled else None
    return None


def log_evaluation(exported: str | Path | None, evaluation: Evaluation, *, tracking_uri: str = "") -> str:
    """Log into the training's run; returns why that was not done, in a sentence, or an empty string. Never raises.

    Parameters
    ----------
    exported
        The run folder, or the export in it, whose model was scored.
    tracking_uri
        Where that run is; empty: as in its config.
    """
    try:
        found = training_run(exported)
        if found is None:
            return f"Not logged to MLflow: {exported or 'the export'} belongs to no run that was tracked."
        run_id, config, folder = found
        uri = tracking_uri or config.uri(folder)
        if (database := sqlite_file(uri)) is not None and not database.is_file():
            return f"Not logged to MLflow: {uri} is not there."
        client = open_store(uri, config.timeout_seconds)
        if living_run(client, run_id) is None:
            back = f"`mlflow runs restore --run-id {run_id}` brings back a deleted one"
            return f"Not logged to MLflow: the run {run_id} of the training is deleted in {masked(uri)}, or was never there: {back}."
        catch_up(client, run_id, folder)
        _log(client, run_id, evaluation)
    except Exception as error:  # a report that is written must not be lost to a server, a database or a network
        return f"Not logged to MLflow: {said_of(error)}"
    return ""


def catch_up(client: Any, run_id: str, folder: Path) -> None:
    """Give a store that was away when a training ended the points that it lacks, and the run's end."""
    if client.get_run(run_id).info.status == "RUNNING" and read_completed(folder) is not None:
        Points(folder / "metrics.jsonl").send(client, run_id)
        client.set_terminated(run_id, "FINISHED")


def _log(client: Any, run_id: str, evaluation: Evaluation) -> None:
    from mlflow.entities import Metric, RunTag

    known = client.get_run(run_id).data.tags
    stamp = int(time.time() * 1000)
    points = [Metric(mlflow_name(name), value, stamp, evaluation.step) for name, value in evaluation.metrics.items() if value is not None]
    for first in range(0, len(points), _METRICS_A_CALL):
        client.log_batch(run_id, metrics=points[first : first + _METRICS_A_CALL])
    client.log_batch(run_id, tags=[RunTag(name, value[:_MAX_TAG_CHARACTERS]) for name, value in evaluation.tags.items()])
    for path in evaluation.files:
        client.log_artifact(run_id, str(path), evaluation.folder)
    if evaluation.table is not None:
        _log_table(client, run_id, f"{evaluation.folder}/generations.json", evaluation.table, known.get("mlflow.loggedArtifacts", "[]"))


def _log_table(client: Any, run_id: str, name: str, table: Mapping[str, list[Any]], known: str) -> None:
    # As log_table writes it, which would append to the table of an earlier evaluation instead of taking its place.
    rows = [list(row) for row in zip(*table.values(), strict=True)]
    client.log_dict(run_id, {"columns": list(table), "data": rows}, name)
    tables = [entry for entry in json.loads(known) if entry.get("path") != name]
    client.set_tag(run_id, "mlflow.loggedArtifacts", json.dumps([*tables, {"path": name, "type": "table"}]))
