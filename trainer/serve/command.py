"""``python -m trainer serve``: a registered model behind MLflow's own scoring server, until a signal ends it.

::

    curl http://127.0.0.1:5001/invocations -H 'Content-Type: application/json' \
         -d '{"inputs": [[[...], ...]], "params": {"subject": "01"}}'
    {"predictions": [{"stimuli": [...], "concepts": [...], "scores": [...]}]}

A text model answers ``{"predictions": [{"caption": "..."}]}``; ``params`` may also hold ``seed`` and ``max_new_tokens``.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from data_prep.contract.errors import CommandError
from data_prep.contract.files import read_json
from trainer.distributed.child import run_in_group
from trainer.serve.package import REGISTERED
from trainer.training.tracking import check_tracking_uri

_GRACE_SECONDS = 10.0
"""Time for the server to end by itself after a signal."""


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
    """TCP port."""
    workers: int = 1
    """Server processes; each loads the model."""

    def __post_init__(self) -> None:
        if bool(self.run) == bool(self.model_uri):
            raise ValueError(f"run is {self.run!r} and model_uri {self.model_uri!r}: expected exactly one of them")
        if not 1 <= self.port <= 65535:
            raise ValueError(f"port: {self.port}, expected 1 to 65535")
        if self.workers < 1:
            raise ValueError(f"workers: {self.workers}, expected at least 1")
        check_tracking_uri(self.tracking_uri)


def run(config: ServeConfig) -> int:
    """Serve until SIGINT or SIGTERM; the server's processes are gone afterwards. Returns an exit status."""
    model_uri, tracking_uri = _model(config)
    _check_port(config)
    _check_model(model_uri, tracking_uri)
    environment = dict(os.environ)
    environment.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # MLflow finds its web server on the PATH, where an environment that was not activated does not have it.
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", os.defpath)])
    if tracking_uri:
        environment["MLFLOW_TRACKING_URI"] = tracking_uri
    options = ["--env-manager", "local", "--host", config.host, "--port", str(config.port), "--workers", str(config.workers)]
    argv = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", model_uri, *options]
    Console(stderr=True, soft_wrap=True).print(
        f"serving {model_uri} at http://{config.host}:{config.port}/invocations; Ctrl-C ends it", highlight=False
    )
    status, asked = run_in_group(argv, environment, grace_seconds=_GRACE_SECONDS)
    if asked:
        return 0 if asked == signal.SIGTERM else 130
    if status:
        raise CommandError(f"the server ended by itself with status {status}; its messages are above")
    return 0


def _model(config: ServeConfig) -> tuple[str, str]:
    if config.model_uri:
        return config.model_uri, config.tracking_uri
    path = Path(config.run) / REGISTERED
    if not path.is_file():
        raise CommandError(f"run: {config.run} is not registered (no {REGISTERED}): run `python -m trainer register` first")
    registered = read_json(path)
    return registered["model_uri"], config.tracking_uri or registered["tracking_uri"]


def _check_port(config: ServeConfig) -> None:
    try:
        with socket.socket(socket.AF_INET6 if ":" in config.host else socket.AF_INET) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((config.host, config.port))
    except OSError as error:
        raise CommandError(f"port: cannot listen on {config.host}:{config.port} ({error.strerror or error})") from None


def _check_model(model_uri: str, tracking_uri: str) -> None:
    # Asked here, because MLflow's command answers a wrong name with a page of traceback.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    import mlflow
    from mlflow.exceptions import MlflowException

    if tracking_uri:
        mlflow.set_tracking_uri(tracking_uri)
        mlflow.set_registry_uri(tracking_uri)
    try:
        mlflow.models.get_model_info(model_uri)
    except (MlflowException, OSError) as error:
        raise CommandError(f"model_uri: {model_uri} cannot be read: {' '.join(str(error).split())[:300]}") from None
