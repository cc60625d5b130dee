"""Where runs are tracked: settings alone, which need no mlflow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit


def check_tracking_uri(uri: str, field: str = "tracking_uri") -> None:
    """Refuse a password in a URI that is written into configs and logs."""
    if urlsplit(uri).password:
        raise ValueError(f"{field}: holds a password, expected none: set MLFLOW_TRACKING_PASSWORD in the environment")


@dataclass(frozen=True, kw_only=True)
class MlflowConfig:
    """Where runs are tracked. Credentials belong into MLflow's environment variables or credentials file, never here."""

    enabled: bool = True
    """Track at all; training does not need mlflow."""
    tracking_uri: str = ""
    """Any MLflow tracking URI; empty: the SQLite file ``mlflow.db`` beside the run folder."""
    experiment: str = "contrastive"
    """Experiment name, made if missing."""
    run_name: str = ""
    """Name of the run; empty: the run folder's name."""
    timeout_seconds: int = 5
    """Longest wait for one answer of a tracking server; there is one retry."""
    log_export: bool = True
    """Upload the exported encoder as an artifact at the end."""

    def __post_init__(self) -> None:
        if self.timeout_seconds < 1:
            raise ValueError(f"mlflow.timeout_seconds: {self.timeout_seconds}, expected at least 1")
        check_tracking_uri(self.tracking_uri, "mlflow.tracking_uri")

    def uri(self, run_folder: Path) -> str:
        """The tracking URI that applies to a run folder."""
        return self.tracking_uri or f"sqlite:///{run_folder.absolute().parent / 'mlflow.db'}"
