"""Where runs are tracked: settings and addresses alone, which need no mlflow."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from data_prep.contract.secrets import secrets_in

_SQLITE = "sqlite:///"
DATABASE, ARTIFACTS = "mlflow.db", "mlartifacts"


def check_tracking_uri(uri: str, field: str = "tracking_uri") -> None:
    """Refuse a password or a token in a URI that is written into configs and logs."""
    if secrets_in(uri):
        kind = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN,"
        raise ValueError(f"{field}: holds a password or token, expected none: set {kind} in the environment")


@dataclass(frozen=True, kw_only=True)
class MlflowConfig:
    """Where runs are tracked. Credentials belong into MLflow's environment variables or credentials file, never here."""

    enabled: bool = True
    """Track at all; training does not need mlflow."""
    tracking_uri: str = ""
    """Any MLflow tracking URI; empty: the SQLite file ``mlflow.db`` beside the run folder, with artifacts in ``mlartifacts``."""
    experiment: str = "contrastive"
    """Experiment name, made if missing."""
    run_name: str = ""
    """Name of the run; empty: the run folder's name."""
    timeout_seconds: int = 5
    """Longest wait for one answer of a tracking server; there is one retry. Training waits for none; its end waits six times as long for
    a server that is away."""
    log_export: bool = True
    """Upload the exported encoder as an artifact at the end."""

    def __post_init__(self) -> None:
        if self.timeout_seconds < 1:
            raise ValueError(f"mlflow.timeout_seconds: {self.timeout_seconds}, expected at least 1")
        check_tracking_uri(self.tracking_uri, "mlflow.tracking_uri")

    def uri(self, run_folder: Path) -> str:
        """The tracking URI that applies to a run folder."""
        return self.tracking_uri or sqlite_uri(run_folder.absolute().parent / DATABASE)


@contextlib.contextmanager
def quiet_mlflow() -> Iterator[None]:
    """Context that imports mlflow: it reports to nobody, draws no bars, and from then on says errors alone."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    yield
    for name in ("mlflow", "alembic"):  # its import sets their levels
        logging.getLogger(name).setLevel(logging.ERROR)


def sqlite_uri(database: Path) -> str:
    """URI of an SQLite file, whatever characters its path holds; :func:`sqlite_file` reads it back."""
    path = str(database.absolute())
    if not {"%", "?"} & set(path):
        return f"{_SQLITE}{path}"
    # MLflow makes the folder that the text before the last slash names, taken as it stands: no slash may be left but the first.
    return f"{_SQLITE}/{quote(path[1:], safe='')}"


def sqlite_file(uri: str) -> Path | None:
    """The file of an SQLite URI, as SQLAlchemy reads it; None: it is no file."""
    path = unquote(uri.removeprefix(_SQLITE).partition("?")[0])
    return Path(path) if uri.startswith(_SQLITE) and path and path != ":memory:" and not path.startswith("file:") else None


def found_again(uri: str, run_folder: Path) -> str:
    """A tracking URI as a file of a run folder has it, or, where its SQLite file is gone, the one that has moved with the folder."""
    named, beside = sqlite_file(uri), run_folder.absolute().parent / DATABASE
    moved = named is not None and not named.is_file() and named.name == DATABASE and beside.is_file()
    return sqlite_uri(beside) if moved else uri
