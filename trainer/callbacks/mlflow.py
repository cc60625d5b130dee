"""MLflow tracking, which never stops a training run nor lets it wait: a thread sends what the run has written.

::

    metrics.jsonl -> points that the server lacks -> MLflow's run      (after each interval; again after an outage, and at the end)

What a server, a database or a network can do is said once an outage; the run's own files hold everything meanwhile.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
import uuid
from dataclasses import dataclass
from typing import Any

from data_prep.contract.secrets import masked
from data_prep.contract.terminal import Terminal
from trainer.callbacks.mlflow_describe import describe, source_tags
from trainer.callbacks.mlflow_points import Points
from trainer.callbacks.mlflow_store import DeletedExperimentError, experiment_id, living_run, open_store, said_of
from trainer.training.callback import Callback, LoopView
from trainer.training.settle import tracked_before, tracking_begun
from trainer.training.tracking import MlflowConfig

_MAX_TAG_CHARACTERS = 500
_PATIENCE_TIMEOUTS = 6
_START = "eegvision.start"
"""Tag by which a run is found again whose creation was not answered, or not written down: a kill came first."""


@dataclass(frozen=True, kw_only=True)
class _Ending:
    status: str
    patience_seconds: float
    fault: str = ""
    export: bool = False


class MlflowTracking(Callback):
    """Params, metrics, resolved config, dataset, artifacts, source and state of the run, from rank 0."""

    def __init__(self, config: MlflowConfig) -> None:
        self.config = config
        self._sender: _Sender | None = None

    def on_begin(self, loop: LoopView) -> None:
        """Begin to open or continue the run; not before, as no event would name the run of a start that failed."""
        if loop.world.rank == 0:
            self._sender = _Sender(self.config, loop)
            self._sender.ask()

    def on_metrics(self, loop: LoopView, metrics: dict[str, float]) -> None:
        """The run folder has new points."""
        if self._sender is not None:
            self._sender.ask()

    def on_validation(self, loop: LoopView, scores: dict[str, float], improved: bool) -> None:
        """The run folder has new points."""
        if self._sender is not None:
            self._sender.ask()

    def on_end(self, loop: LoopView, reason: str) -> None:
        """Send what is missing and the export; mark the run finished, or killed by a signal and to be resumed."""
        stopped = reason == "signal"
        patience = self.config.timeout_seconds * (1 if stopped else _PATIENCE_TIMEOUTS)
        export = not stopped and self.config.log_export and loop.folder.export.is_dir()
        self._end(_Ending(status="KILLED" if stopped else "FINISHED", patience_seconds=patience, export=export))

    def on_fault(self, loop: LoopView, message: str) -> None:
        """Mark the run failed."""
        self._end(_Ending(status="FAILED", patience_seconds=0.0, fault=message))

    def _end(self, ending: _Ending) -> None:
        sender, self._sender = self._sender, None
        if sender is not None:
            sender.end(ending)


class _Sender:
    """The thread, and what it knows of the server."""

    def __init__(self, config: MlflowConfig, loop: LoopView) -> None:
        self._config, self._loop = config, loop
        self._asked: queue.SimpleQueue[tuple[int, _Ending | None]] = queue.SimpleQueue()
        self._client: Any = None
        self._points: Points | None = None
        self._run_id, self._start = "", tracking_begun(loop.folder)
        self._named = False
        self._away_since: int | None = None
        self._failures, self._retry_at = 0, 0.0
        self._refused = False
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def ask(self, ending: _Ending | None = None) -> None:
        """Send what the run folder has; returns at once."""
        self._asked.put((self._loop.state.step, ending))

    def end(self, ending: _Ending) -> None:
        """Send the rest, and how the run has ended; waits for it."""
        self.ask(ending)
        self._thread.join()

    def _work(self) -> None:
        ending = None
        while ending is None:
            step, ending = self._asked.get()
            while ending is None and not self._asked.empty():
                _, ending = self._asked.get()
            if ending is None and time.monotonic() >= self._retry_at:
                self._send(step)
        self._finish(ending)

    def _send(self, step: int) -> bool:
        """Whether the server has all that the run folder has."""
        try:
            if self._client is None:
                self._open()
            assert self._points is not None
            self._points.send(self._client, self._run_id, until=self._loop.state.step)
        except Exception as error:  # whatever a server, a database or a network can do must not cost a training run
            self._away(step, error)
            return False
        if self._away_since is not None:
            Terminal(stderr=True, soft_wrap=True).print(f"tracking is back; it has every point again, up to step {self._loop.state.step}")
            self._event("tracking", run_id=self._run_id, away_since=self._away_since)
        self._away_since, self._failures = None, 0
        return True

    def _away(self, step: int, error: Exception) -> None:
        if self._is_deleted():
            self._begin_anew(step)
            return
        self._failures, self._refused = self._failures + 1, isinstance(error, DeletedExperimentError)
        self._retry_at = time.monotonic() + min(self._config.timeout_seconds, 0.25 * 2**self._failures)
        if self._away_since is None:
            self._away_since = step
            message = said_of(error)
            said = f"warning: tracking is off from step {step}: {message}; its points are sent again when it is back"
            Terminal(stderr=True, soft_wrap=True).print(said, style="yellow")
            self._event("fault", part="mlflow", step=step, message=message)

    def _is_deleted(self) -> bool:
        """Whether somebody has taken the run out of the tracker."""
        if not self._run_id or self._client is None:
            return False
        try:
            return living_run(self._client, self._run_id) is None
        except Exception:  # away
            return False

    def _begin_anew(self, step: int) -> None:
        """Let the next call open another run, which gets every point."""
        said = f"the run {self._run_id} is deleted at {masked(self._config.uri(self._loop.folder.path))}"
        Terminal(stderr=True, soft_wrap=True).print(f"warning: tracking: {said}: a new one takes its place", style="yellow")
        self._event("fault", part="mlflow", step=step, message=said)
        self._client, self._run_id, self._start, self._named = None, "", "", False
        self._loop.state.tracking_run_id = ""

    def _finish(self, ending: _Ending) -> None:
        if ending.fault and not self._run_id:
            return  # there is none that would have to be ended
        until = time.monotonic() + ending.patience_seconds
        while not (self._send(self._loop.state.step) and self._ended(ending)):
            left = until - time.monotonic()
            if left <= 0 or self._refused:
                why = "its experiment is deleted" if self._refused else "it was away"
                said = f"warning: tracking does not know how {self._loop.folder.path} ended: {why}"
                Terminal(stderr=True, soft_wrap=True).print(said, style="yellow")
                return
            time.sleep(min(left, max(0.1, self._retry_at - time.monotonic())))

    def _ended(self, ending: _Ending) -> bool:
        folder = self._loop.folder
        try:
            if ending.fault:
                self._client.set_tag(self._run_id, "fault", masked(ending.fault)[:_MAX_TAG_CHARACTERS])
            if ending.export:
                self._client.log_artifacts(self._run_id, str(folder.export), "export")
            if not ending.fault:
                self._client.log_artifact(self._run_id, str(folder.path / "events.jsonl"))
            self._client.set_terminated(self._run_id, ending.status)
        except Exception as error:
            self._away(self._loop.state.step, error)
            return False
        return True

    def _open(self) -> None:
        uri = self._config.uri(self._loop.folder.path)
        client = open_store(uri, self._config.timeout_seconds)
        found = living_run(client, self._run_id or self._loop.state.tracking_run_id)
        if found is None:
            found = self._new_run(client, experiment_id(client, self._config.experiment, uri))
            if before := living_run(client, tracked_before(self._loop.folder)):
                _supersede(client, before, found.info.run_id)
        else:
            client.update_run(found.info.run_id, status="RUNNING")
        self._run_id = self._loop.state.tracking_run_id = found.info.run_id  # after a rollback the state is another
        if not found.data.params:  # made just now, or by a process that came no further
            describe(client, self._run_id, self._loop)
        if not self._named:
            self._event("tracking", run_id=self._run_id)
            self._named = True
        self._points = Points(self._loop.folder.path / "metrics.jsonl")
        self._client = client

    def _new_run(self, client: Any, experiment: str) -> Any:
        if self._start:
            made = client.search_runs([experiment], filter_string=f"tags.`{_START}` = '{self._start}'")
            if made:
                return made[0]
        else:
            self._start = uuid.uuid4().hex
            self._event("tracking", start=self._start)
        name = self._config.run_name or self._loop.folder.path.absolute().name
        return client.create_run(experiment, run_name=name, tags={_START: self._start, **source_tags(self._loop)})

    def _event(self, kind: str, **facts: Any) -> None:
        with contextlib.suppress(OSError):  # a full disk has taken the tracker's database and the run's own files alike
            self._loop.folder.event(kind, **facts)


def _supersede(client: Any, before: Any, run_id: str) -> None:
    client.set_tag(run_id, "wound_back_from", before.info.run_id)
    client.set_tag(before.info.run_id, "superseded_by", run_id)
    if before.info.status == "RUNNING":  # killed: nobody else will say so
        client.set_terminated(before.info.run_id, "KILLED")
