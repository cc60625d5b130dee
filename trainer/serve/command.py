"""``python -m trainer serve``: a registered model behind a web server, until a signal ends it.

::

    curl http://127.0.0.1:5001/invocations -H 'Content-Type: application/json' \
         -d '{"inputs": [[[...], ...]], "params": {"subject": "01"}}'
    {"predictions": [{"stimuli": [...], "concepts": [...], "scores": [...]}]}

A text model answers ``{"predictions": [{"caption": "..."}]}``; ``params`` may also hold ``seed`` and ``max_new_tokens``. A request that
the model cannot answer gets a 4xx status and ``{"error_code": ..., "message": one sentence}``.

This process binds the port and starts uvicorn on it (:mod:`trainer.serve.web`); it says when the models answer.
"""

from __future__ import annotations

import contextlib
import http.client
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_prep.contract.errors import CommandError
from data_prep.contract.progress import progress
from data_prep.contract.terminal import Terminal
from data_prep.contract.words import short
from trainer.distributed.child import run_in_group
from trainer.serve.registered import read_registered
from trainer.serve.web import FAILURE, MODEL
from trainer.training.tracking import check_tracking_uri

_GRACE_SECONDS = 10.0
"""Time for the server to end by itself after a signal."""
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Where a server that listens on all interfaces is asked whether it answers."""


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Serve a registered model over HTTP. There is no authentication: put a proxy in front of anything but loopback."""

    run: str = ""
    """Run folder that was registered: model and tracking URI come from its ``registered.json``. Give this or ``model_uri``."""
    model_uri: str = ""
    """MLflow model URI, such as ``models:/NAME@candidate``."""
    tracking_uri: str = ""
    """MLflow tracking URI, without a password; empty: that of ``run``, else of the environment (``MLFLOW_TRACKING_URI``)."""
    host: str = "127.0.0.1"
    """Interface to listen on."""
    port: int = 5001
    """TCP port; 0: any free one, which is said."""
    workers: int = 1
    """Server processes; each loads the model."""

    def __post_init__(self) -> None:
        if bool(self.run) == bool(self.model_uri):
            raise ValueError(f"run is {self.run!r} and model_uri {self.model_uri!r}: expected exactly one of them")
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port: {self.port}, expected 1 to 65535, or 0 for any free one")
        if self.workers < 1:
            raise ValueError(f"workers: {self.workers}, expected at least 1")
        check_tracking_uri(self.tracking_uri)


def run(config: ServeConfig) -> int:
    """Serve until SIGINT or SIGTERM; the server's processes are gone afterwards. Returns an exit status."""
    model_uri, tracking_uri = _model(config)
    # Bound here and handed on: nobody can take the port while the model is loaded, and clients are refused until it answers.
    with _bound(config) as listener, tempfile.TemporaryDirectory() as temporary:
        failure = Path(temporary) / "failure.txt"
        port: int = listener.getsockname()[1]
        environment = dict(os.environ) | {MODEL: model_uri, FAILURE: str(failure)}
        environment |= {"MLFLOW_DISABLE_TELEMETRY": "true"} | ({"MLFLOW_TRACKING_URI": tracking_uri} if tracking_uri else {})
        argv = [sys.executable, "-m", "uvicorn", "trainer.serve.web:create_app", "--factory", "--app-dir", str(Path(__file__).parents[2])]
        argv += ["--fd", str(listener.fileno()), "--workers", str(config.workers), "--log-level", "error", "--no-access-log"]
        with _announced(config, port, model_uri):
            _check_model(model_uri, tracking_uri)
            status, asked = run_in_group(argv, environment, grace_seconds=_GRACE_SECONDS, pass_fds=[listener.fileno()])
        if failure.is_file():
            raise CommandError(f"model_uri: {model_uri} cannot be loaded: {failure.read_text(encoding='utf-8')}")
    if asked:
        return 0 if asked == signal.SIGTERM else 130
    raise CommandError(f"the server ended by itself with status {status}; its messages are above")


def _model(config: ServeConfig) -> tuple[str, str]:
    if config.model_uri:
        return config.model_uri, config.tracking_uri
    registered = read_registered(Path(config.run))
    return registered.model_uri, config.tracking_uri or registered.tracking_uri


def _bound(config: ServeConfig) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in config.host else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((config.host, config.port))
    except OSError as error:
        listener.close()
        raise CommandError(f"port: cannot listen on {config.host}:{config.port} ({error.strerror or error})") from error
    return listener


@contextlib.contextmanager
def _announced(config: ServeConfig, port: int, model_uri: str) -> Iterator[None]:
    """Says that the model is being loaded, for as long as it is, and then where it answers."""
    over = threading.Event()

    def announce() -> None:
        with progress(f"servers of {model_uri} that answer", 1) as advance:
            while not _answers(config.host, port):
                if over.wait(0.3):
                    return
            advance()
        where = f"[{config.host}]" if ":" in config.host else config.host
        line = f"serving {model_uri} at http://{where}:{port}/invocations; Ctrl-C ends it"
        Terminal(stderr=True, soft_wrap=True).print(line)

    thread = threading.Thread(target=announce, name="announce", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _answers(host: str, port: int) -> bool:
    try:
        connection = http.client.HTTPConnection(_EVERYWHERE.get(host, host), port, timeout=2)  # whatever proxy the environment names
        with contextlib.closing(connection):
            connection.request("GET", "/ping")
            return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False


def _check_model(model_uri: str, tracking_uri: str) -> None:
    # Asked here, because the server would be a process of its own before it knew.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    import mlflow
    from mlflow.exceptions import MlflowException

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if tracking_uri:
        mlflow.set_tracking_uri(tracking_uri)
        mlflow.set_registry_uri(tracking_uri)
    try:
        mlflow.models.get_model_info(model_uri)
    except (MlflowException, OSError) as error:
        raise CommandError(f"model_uri: {model_uri} cannot be read: {short(error, 300)}") from error
