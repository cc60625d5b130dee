"""Whether what MLflow loads is what was registered: asked by a served model before it reads weights or gallery."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from trainer.serve.versions import registered_sha256
from trainer.serve.whole import check_files

FILES_SHA256 = "EEG_SERVE_FILES_SHA256"
"""Environment variable: the hash of the list of files, where ``serve`` has asked the registry for it already."""


def check_registered(artifacts: Mapping[str, str]) -> None:
    """Refuse a registered model whose files were changed since; ``artifacts`` are MLflow's, folders in the model's ``artifacts``.

    Raises
    ------
    StudyError, CommandError
        One sentence naming the file.
    """
    model = Path(artifacts["export"]).parents[1]
    known = os.environ.get(FILES_SHA256)
    check_files(model, registered_sha256(model) if known is None else known or None)
