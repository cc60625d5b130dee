"""Config of ``register``, and the file that it leaves in the run folder for ``serve``."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from trainer.training.tracking import check_tracking_uri

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*\Z")
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_.-]+")


@dataclass(frozen=True, kw_only=True)
class RegisterConfig:
    """Put a run's encoder, with a gallery to search, into the model registry."""

    run: str
    """Run folder of a completed training."""
    name: str = ""
    """Name of the registered model; a new version is added if it exists. Letters, digits, ``_``, ``.`` and ``-``; empty: the task and the
    study that it was trained on, such as ``eeg-retrieval-STUDY``, so that runs on other studies do not share it."""
    export: str = ""
    """Folder of the exported encoder; empty: ``RUN/export``."""
    study: str = ""
    """Study folder; empty: the one the encoder was trained on. Another path must hold a copy of that study."""
    split: str = ""
    """Split; empty: the one the encoder was trained on."""
    part: Literal["train", "validation", "test"] = "test"
    """Part whose stimuli are the gallery, and whose first trial is the input example."""
    top_k: int = 10
    """Candidates in an answer; a smaller gallery gives all it has."""
    tracking_uri: str = ""
    """MLflow tracking URI, without a password; empty: that of the run's config (SQLite beside the run folder by default)."""
    bundle_base: bool = False
    """Text models: copy the base model's files into the registered model. Otherwise it keeps a reference: the name, or the environment
    variable ``EEG_TEXT_BASE`` where the model is loaded, must lead to the same weights."""
    timeout_seconds: int = 30
    """Longest wait for one answer of a tracking server; there is one retry."""

    def __post_init__(self) -> None:
        if self.name and not _NAME.match(self.name):
            raise ValueError(f"name: {self.name!r}, expected letters, digits, '_', '.' and '-', beginning with a letter or digit")
        for field in ("top_k", "timeout_seconds"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}: {getattr(self, field)}, expected at least 1")
        check_tracking_uri(self.tracking_uri)

    def named(self, task: str, study: str) -> RegisterConfig:
        """The same with a name: its own, else that of the task and of a study's folder."""
        own = _NOT_IN_A_NAME.sub("-", Path(study).absolute().name).strip("-.") or "study"
        return self if self.name else replace(self, name=f"{task}-{own}")
