"""MLflow tracking that never stops a training run: the first failure is said once, recorded, and ends tracking."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.contract.cli import from_plain, to_plain
from data_prep.contract.config_file import read_fields
from data_prep.contract.terminal import Terminal
from trainer.training.callback import Callback, LoopView
from trainer.training.completed import read_completed
from trainer.training.identity import flat
from trainer.training.provenance import git_revision
from trainer.training.run_folder import RunFolder
from trainer.training.tracking import MlflowConfig

_PARAMS_A_CALL = 100
_METRICS_A_CALL = 1000
_MAX_TAG_CHARACTERS = 5000
_METRIC_NAME = re.compile(r"[^\w\-. :/]", re.ASCII)
_MAX_PARAM_CHARACTERS = 500
_MAX_DIGEST_CHARACTERS = 36


class MlflowTracking(Callback):
    """Params, metrics, resolved config, dataset identity, artifacts and git revision, from rank 0."""

    def __init__(self, config: MlflowConfig) -> None:
        self.config = config
        self.client: Any = None

    def on_start(self, loop: LoopView) -> None:
        """Open or continue the run and describe it."""
        if loop.world.rank == 0:
            self._guarded(loop, lambda: self._open(loop))

    def on_metrics(self, loop: LoopView, metrics: dict[str, float]) -> None:
        """One batch of points."""
        self._points(loop, "train", metrics)

    def on_validation(self, loop: LoopView, scores: dict[str, float], improved: bool) -> None:
        """One batch of points."""
        self._points(loop, "validation", scores)

    def on_end(self, loop: LoopView, reason: str) -> None:
        """Upload the export; mark the run finished, or killed by a signal and to be resumed."""

        def close() -> None:
            run_id = loop.state.tracking_run_id
            if reason != "signal" and self.config.log_export and loop.folder.export.is_dir():
                self.client.log_artifacts(run_id, str(loop.folder.export), "export")
            self.client.log_artifact(run_id, str(loop.folder.path / "events.jsonl"))
            self.client.set_terminated(run_id, "KILLED" if reason == "signal" else "FINISHED")

        if self.client is not None:
            self._guarded(loop, close)

    def on_fault(self, loop: LoopView, message: str) -> None:
        """Mark the run failed."""

        def close() -> None:
            self.client.set_tag(loop.state.tracking_run_id, "fault", message[:_MAX_PARAM_CHARACTERS])
            self.client.set_terminated(loop.state.tracking_run_id, "FAILED")

        if self.client is not None:
            self._guarded(loop, close)

    def _open(self, loop: LoopView) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = str(self.config.timeout_seconds)
        os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "1"
        from mlflow import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        client = MlflowClient(tracking_uri=self.config.uri(loop.folder.path))
        run_id = loop.state.tracking_run_id
        if run_id:
            client.update_run(run_id, status="RUNNING")
        else:
            experiment = client.get_experiment_by_name(self.config.experiment)
            experiment_id = experiment.experiment_id if experiment else self._new_experiment(client, loop.folder)
            run_id = client.create_run(experiment_id, run_name=self.config.run_name or loop.folder.path.absolute().name).info.run_id
            self._describe(client, run_id, loop)
        loop.state.tracking_run_id = run_id
        loop.folder.event("tracking", run_id=run_id)
        self.client = client

    def _new_experiment(self, client: Any, folder: RunFolder) -> str:
        # With the SQLite default, MLflow would put artifacts under the present directory.
        artifacts = None if self.config.tracking_uri else (folder.path.absolute().parent / "mlartifacts").as_uri()
        made: str = client.create_experiment(self.config.experiment, artifact_location=artifacts)
        return made

    def _describe(self, client: Any, run_id: str, loop: LoopView) -> None:
        from mlflow.data.code_dataset_source import CodeDatasetSource
        from mlflow.data.meta_dataset import MetaDataset
        from mlflow.entities import DatasetInput, InputTag, Param

        params = [Param(k, str(v)[:_MAX_PARAM_CHARACTERS]) for k, v in flat(to_plain(loop.config)).items()]
        params.append(Param("world_size", str(loop.world.size)))
        for first in range(0, len(params), _PARAMS_A_CALL):
            client.log_batch(run_id, params=params[first : first + _PARAMS_A_CALL])
        study = loop.study
        client.set_tag(run_id, "git_revision", git_revision())
        client.set_tag(run_id, "run_folder", str(loop.folder.path))
        for name, value in study.items():
            client.set_tag(run_id, name, value)
        dataset = MetaDataset(
            source=CodeDatasetSource(tags={}), name=Path(loop.config.data.study).name, digest=study["fingerprint"][:_MAX_DIGEST_CHARACTERS]
        )
        tags = [InputTag(name, value) for name, value in study.items()] + [InputTag("mlflow.data.context", "training")]
        client.log_inputs(run_id, datasets=[DatasetInput(dataset._to_mlflow_entity(), tags)])
        for name in ("config.yaml", "identity.json"):
            client.log_artifact(run_id, str(loop.folder.path / name))

    def _points(self, loop: LoopView, group: str, values: dict[str, float]) -> None:
        if self.client is None:
            return
        from mlflow.entities import Metric

        stamp = int(time.time() * 1000)
        points = [Metric(f"{group}/{name}", float(value), stamp, loop.state.step) for name, value in values.items()]
        self._guarded(loop, lambda: self.client.log_batch(loop.state.tracking_run_id, metrics=points))

    def _guarded(self, loop: LoopView, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # whatever a server, a database or a network can do must not cost a training run
            self.client = None
            message = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            Terminal(stderr=True, soft_wrap=True).print(f"warning: tracking is off from step {loop.state.step}: {message}", style="yellow")
            with contextlib.suppress(OSError):  # a full disk has taken the tracker's database and the run's own files alike
                loop.folder.event("fault", part="mlflow", step=loop.state.step, message=message)


# -------------------------------------------------------------------------------------------------- text evaluation


@dataclass(frozen=True, kw_only=True)
class TextEvaluation:
    """What an evaluation of captions leaves in the run that trained the model."""

    folder: str
    """Where files lie among the run's artifacts."""
    metrics: dict[str, float]
    """By name; what MLflow's names cannot hold is replaced."""
    verdicts: list[str]
    """Sentences, kept as the tag ``text_verdict``."""
    table: dict[str, list[Any]]
    """The generations by column, shown by MLflow's pages as a table."""
    files: list[Path]
    """Reports to keep."""


def training_run(exported: str | Path | None) -> tuple[str, MlflowConfig, Path] | None:
    """MLflow run, tracking config and run folder of the training behind an export or run folder; None where it was not tracked."""
    for folder in (Path(exported), Path(exported).parent) if exported else ():
        if (completed := read_completed(folder)) is not None:
            run_id = completed.tracking_run_id
            config = folder / "config.yaml"
            plain = read_fields(config) if config.is_file() else {}
            tracking = from_plain(MlflowConfig, plain.get("mlflow") or {})
            return (run_id, tracking, folder) if run_id and tracking.enabled else None
    return None


def log_text_evaluation(exported: str | Path | None, evaluation: TextEvaluation, *, tracking_uri: str = "") -> str:
    """Log into the training's run; returns why that was not done, in a sentence, or an empty string. Never raises.

    Parameters
    ----------
    exported
        The run folder, or the export in it, whose model wrote the captions.
    tracking_uri
        Where that run is; empty: as in its config.
    """
    try:
        found = training_run(exported)
        if found is None:
            return f"Not logged to MLflow: {exported or 'the export'} belongs to no run that was tracked."
        run_id, config, folder = found
        uri = tracking_uri or config.uri(folder)
        if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
            return f"Not logged to MLflow: {uri} is not there."
        _log_text_evaluation(uri, run_id, config.timeout_seconds, evaluation)
    except Exception as error:  # a report that is written must not be lost to a server, a database or a network
        return "Not logged to MLflow: " + " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return ""


def _log_text_evaluation(uri: str, run_id: str, timeout_seconds: int, evaluation: TextEvaluation) -> None:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = str(timeout_seconds)
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "1"
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    client = MlflowClient(tracking_uri=uri)
    known = client.get_run(run_id).data.tags
    stamp = int(time.time() * 1000)
    points = [Metric(_METRIC_NAME.sub("_", name.replace("+", "_and_")), value, stamp, 0) for name, value in evaluation.metrics.items()]
    for first in range(0, len(points), _METRICS_A_CALL):
        client.log_batch(run_id, metrics=points[first : first + _METRICS_A_CALL])
    client.set_tag(run_id, "text_verdict", "\n".join(evaluation.verdicts)[:_MAX_TAG_CHARACTERS])
    for path in evaluation.files:
        client.log_artifact(run_id, str(path), evaluation.folder)
    # As log_table writes it, which would append to the table of an earlier evaluation instead of taking its place.
    name = f"{evaluation.folder}/generations.json"
    rows = [list(row) for row in zip(*evaluation.table.values(), strict=True)]
    client.log_dict(run_id, {"columns": list(evaluation.table), "data": rows}, name)
    tables = [entry for entry in json.loads(known.get("mlflow.loggedArtifacts", "[]")) if entry.get("path") != name]
    client.set_tag(run_id, "mlflow.loggedArtifacts", json.dumps([*tables, {"path": name, "type": "table"}]))
