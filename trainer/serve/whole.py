"""The files of a registered model as they were when it was registered: ``files.json`` in it, whose own hash is the version's tag.

    MODEL/files.json: {"artifacts/export/model.safetensors": {"bytes": ..., "sha256": ...}, ...}   <--   tag ``files_sha256``

Whoever changes weights, gallery or code of a version must change all of them, and what the run folder says of it as well.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from data_prep.contract.errors import CommandError
from data_prep.contract.files import read_json, sha256_file, write_json
from data_prep.contract.records import SealedFile, from_json, to_json

FILES, TAG = "files.json", "files_sha256"
_EXPORT = "artifacts/export/"
META = "registered_model_meta"
"""MLflow writes it into what it downloads: name and version."""


def write_files(model: Path) -> str:
    """Write ``files.json`` of a model's folder; returns its SHA-256."""
    found = {name: SealedFile(bytes=path.stat().st_size, sha256=sha256_file(path)) for name, path in _files(model).items()}
    write_json(model / FILES, {name: to_json(file) for name, file in found.items()})
    return sha256_file(model / FILES)


def check_files(model: Path, sha256: str | None) -> None:
    """Refuse a model whose files are not those that were registered.

    Parameters
    ----------
    model
        Its folder.
    sha256
        Of ``files.json``, as the version's tag or the run folder has it; None: not known, the list is believed.

    Raises
    ------
    StudyError, CommandError
        One sentence naming the file that was altered, is missing or came later.
    """
    path = model / FILES
    if path.is_file() and sha256 not in (None, sha256_file(path)):
        raise CommandError(
            f"{path}: not the file that was registered: altered (SHA-256 {sha256_file(path)[:12]}, registered {sha256[:12]})"
        )
    registered = from_json(dict[str, SealedFile], read_json(path), str(path), written_by="register")
    here = _files(model)
    for name in sorted(registered.keys() - here.keys()):
        raise CommandError(f"{model / name}: no such file, it was there when the model was registered")
    for name in sorted(here.keys() - registered.keys()):
        raise CommandError(f"{model / name}: not a file that was registered: it came later")
    for name, file in registered.items():
        if not file.is_that_of(here[name]):
            raise CommandError(f"{model / name}: not the file that was registered: truncated or altered")


def holds_other_weights(model: Path, export: Path) -> bool:
    """Whether an export folder has, under a name that a model's export has, other weights: a run was trained on since it was registered."""
    registered = from_json(dict[str, SealedFile], read_json(model / FILES), str(model / FILES), written_by="register")
    own = {name: export / name.removeprefix(_EXPORT) for name in registered if name.startswith(_EXPORT) and name.endswith(".safetensors")}
    return any(path.is_file() and not registered[name].is_that_of(path) for name, path in own.items())


def forget_compiled(model: Path) -> None:
    """Remove what Python compiled of the model's code: it would be run in the code's place, and stands in no list."""
    for folder in list((model / "code").rglob("__pycache__")):
        with contextlib.suppress(OSError):  # of a store that cannot be written, nobody wrote them
            shutil.rmtree(folder)


def _files(model: Path) -> dict[str, Path]:
    found = {path.relative_to(model).as_posix(): path for path in sorted(model.rglob("*")) if path.is_file() or path.is_symlink()}
    return {name: path for name, path in found.items() if name not in (FILES, META) and not _compiled(name)}


def _compiled(name: str) -> bool:
    parts = name.split("/")
    return parts[0] == "code" and "__pycache__" in parts and name.endswith(".pyc")
