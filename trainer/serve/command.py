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
import json
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from data_prep.contract.errors import CommandError, UserError
from data_prep.contract.progress import progress
from data_prep.contract.terminal import Terminal
from trainer.distributed.child import run_in_group
from trainer.serve.loading import FILES_SHA256
from trainer.serve.registered import read_registered
from trainer.serve.versions import Version, fetch, named_version, pinned, registered_version
from trainer.serve.web import FAILURE, LIMITS, MODEL, Limits
from trainer.serve.whole import FILES, check_files, forget_compiled, holds_other_weights
from trainer.training.tracking import check_tracking_uri, found_again

_GRACE_SECONDS = 10.0
"""Time for the server to end by itself after a signal."""
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Where a server that listens on all interfaces is asked whether it answers."""


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Serve a registered model over HTTP. There is no authentication: put a proxy in front of anything but loopback."""

    run: str = ""
    """Run folder that was registered: the version that it registered itself is served, wherever aliases point now; it and the tracking
    URI come from its ``registered.json``. Give this or ``model_uri``."""
    model_uri: str = ""
    """MLflow model URI, such as ``models:/NAME@candidate``: an alias is followed once, when the server starts."""
    tracking_uri: str = ""
    """MLflow tracking URI, without a password; empty: that of ``run``, else of the environment (``MLFLOW_TRACKING_URI``)."""
    host: str = "127.0.0.1"
    """Interface to listen on."""
    port: int = 5001
    """TCP port; 0: any free one, which is said."""
    workers: int = 1
    """Server processes; each loads the model."""
    limits: Limits = field(default_factory=Limits)
    """What a client may ask."""

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
    named = _named(config)
    # Bound here and handed on: nobody can take the port while the model is loaded, and clients are refused until it answers.
    with _bound(config) as listener, tempfile.TemporaryDirectory() as temporary:
        failure = Path(temporary) / "failure.txt"
        port: int = listener.getsockname()[1]
        argv = [sys.executable, "-m", "uvicorn", "trainer.serve.web:create_app", "--factory", "--app-dir", str(Path(__file__).parents[2])]
        argv += ["--fd", str(listener.fileno()), "--workers", str(config.workers), "--log-level", "error", "--no-access-log"]
        with _announced(config, port, named) as served:
            version, folder = version_to_serve(config, Path(temporary))
            served.append(version.model_uri)
            environment = dict(os.environ) | {MODEL: str(folder), FAILURE: str(failure), FILES_SHA256: version.files_sha256 or ""}
            environment[LIMITS] = json.dumps(asdict(config.limits))
            environment |= {"MLFLOW_DISABLE_TELEMETRY": "true"} | ({"MLFLOW_TRACKING_URI": _tracking(config)} if _tracking(config) else {})
            status, asked = run_in_group(argv, environment, grace_seconds=_GRACE_SECONDS, pass_fds=[listener.fileno()])
        if failure.is_file():
            raise CommandError(f"model_uri: {version.model_uri} cannot be loaded: {failure.read_text(encoding='utf-8')}")
    if asked:
        return 0 if asked == signal.SIGTERM else 130
    raise CommandError(f"the server ended by itself with status {status}; its messages are above")


def _named(config: ServeConfig) -> str:
    """The model as far as it is known without asking the registry: a run's own version, or what was given."""
    return config.model_uri or pinned(read_registered(Path(config.run)))


def _tracking(config: ServeConfig) -> str:
    if config.tracking_uri or config.model_uri:
        return config.tracking_uri
    return found_again(read_registered(Path(config.run)).tracking_uri, Path(config.run))


def version_to_serve(config: ServeConfig, temporary: Path) -> tuple[Version, Path]:
    """The version that is meant, now and for all workers, and the folder of its files, which are those that were registered."""
    # Asked here, because the server would be a process of its own before it knew.
    tracking_uri = _tracking(config)
    if config.model_uri:
        version = named_version(config.model_uri, tracking_uri)
    else:
        version = registered_version(read_registered(Path(config.run)), config.run, tracking_uri)
    folder = fetch(version, temporary)
    if not (folder / FILES).is_file() and version.files_sha256 is None:
        note = f"note: {version.model_uri} was registered by an earlier version, without hashes of its files: they are not checked"
        Terminal(stderr=True, soft_wrap=True).print(note)
        return version, folder
    forget_compiled(folder)
    try:
        check_files(folder, version.files_sha256)
    except UserError as error:
        raise CommandError(f"model_uri: {version.model_uri} cannot be loaded: {error}") from error
    if config.run and holds_other_weights(folder, export := Path(config.run) / "export"):
        note = f"note: {export} holds other weights than {version.model_uri}, which is served: run `python -m trainer register` for those"
        Terminal(stderr=True, soft_wrap=True).print(note)
    return version, folder


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
def _announced(config: ServeConfig, port: int, named: str) -> Iterator[list[str]]:
    """Says that the model is being loaded, for as long as it is, and then where it answers, and under the URI that the list is given."""
    over, served = threading.Event(), [named]

    def announce() -> None:
        with progress(f"servers of {named} that answer", 1) as advance:
            while not _answers(config.host, port):
                if over.wait(0.3):
                    return
            advance()
        where = f"[{config.host}]" if ":" in config.host else config.host
        line = f"serving {served[-1]} at http://{where}:{port}/invocations; Ctrl-C ends it"
        Terminal(stderr=True, soft_wrap=True).print(line)

    thread = threading.Thread(target=announce, name="announce", daemon=True)
    thread.start()
    try:
        yield served
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
