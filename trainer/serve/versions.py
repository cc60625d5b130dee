"""Which version of a registered model is meant, where its files lie, and that they are those that were registered. Speaks to MLflow."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from data_prep.contract.errors import CommandError
from data_prep.contract.words import short
from trainer.serve.registered import Registered
from trainer.serve.whole import META, TAG
from trainer.training.tracking import quiet_mlflow


@dataclass(frozen=True, kw_only=True)
class Version:
    """What is served: one version, whatever aliases do meanwhile."""

    model_uri: str
    """``models:/NAME/VERSION``; as it was given where that names no registered model."""
    files_sha256: str | None
    """Of the list of its files; None: not known."""


def quiet_client(tracking_uri: str) -> Any:
    """MLflow's client, for whom one retry is enough; it keeps to itself."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    with quiet_mlflow():
        import mlflow
    if tracking_uri:
        from trainer.callbacks.mlflow_store import settle  # brings torch

        settle(tracking_uri)
        mlflow.set_tracking_uri(tracking_uri)
        mlflow.set_registry_uri(tracking_uri)
    return mlflow.MlflowClient()


def registered_version(registered: Registered, run: str, tracking_uri: str) -> Version:
    """The version that a run registered itself.

    Raises
    ------
    CommandError
        It is not in the registry any more, belongs to another run, or the registry cannot be read.
    """
    from mlflow.exceptions import MlflowException

    what = f"version {registered.version} of {registered.name}"
    try:
        found = quiet_client(tracking_uri).get_model_version(registered.name, registered.version)
    except (MlflowException, OSError) as error:
        if getattr(error, "error_code", "") == "RESOURCE_DOES_NOT_EXIST":
            raise CommandError(
                f"run: {what}, which {run} registered, is not in {tracking_uri} any more: run `python -m trainer register` again"
            ) from error
        raise CommandError(f"run: {what} cannot be read: {short(error, 300)}") from error
    if found.run_id != registered.run_id:
        raise CommandError(
            f"run: {what} in {tracking_uri} belongs to the run {found.run_id or 'unknown'}, expected {registered.run_id}, that of {run}: "
            "run `python -m trainer register` again"
        )
    return Version(model_uri=pinned(registered), files_sha256=registered.files_sha256 or found.tags.get(TAG))


def named_version(model_uri: str, tracking_uri: str) -> Version:
    """The version that a model's URI means now: an alias may move while it is served.

    Raises
    ------
    CommandError
        There is no such model.
    """
    client = quiet_client(tracking_uri)
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact.utils.models import get_model_name_and_version

    scheme, _, rest = model_uri.partition(":")
    if scheme.strip().lower() == "models":  # as MLflow reads it: the version's hashes are asked for, however it is spelled
        model_uri = f"models:{rest}"
    if not model_uri.startswith("models:"):
        return Version(model_uri=model_uri, files_sha256=None)
    try:
        meant = get_model_name_and_version(client, model_uri)
        if len(meant) == 1:  # a logged model, which is no version
            return Version(model_uri=model_uri, files_sha256=None)
        name, version = meant
        found = client.get_model_version(name, str(version))
    except (MlflowException, OSError) as error:
        if getattr(error, "error_code", "") == "RESOURCE_DOES_NOT_EXIST":
            raise CommandError(
                f"model_uri: {model_uri} is not in the registry, or is deleted: expected a model, version or alias in it"
            ) from error
        raise CommandError(f"model_uri: {model_uri} cannot be read: {short(error, 300)}") from error
    return Version(model_uri=f"models:/{name}/{version}", files_sha256=found.tags.get(TAG))


def pinned(registered: Registered) -> str:
    """URI of the version, which no alias moves."""
    return f"models:/{registered.name}/{registered.version}"


def fetch(version: Version, temporary: Path) -> Path:
    """Folder of the model's files: where the store has them, or copied into ``temporary`` from a remote one.

    Raises
    ------
    CommandError
        The store does not give them.
    """
    import mlflow
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact.models_artifact_repo import ModelsArtifactRepository
    from mlflow.utils.uri import is_local_uri

    try:
        uri = version.model_uri
        lies = ModelsArtifactRepository.get_underlying_uri(uri) if uri.startswith("models:") else uri
        where = None if is_local_uri(lies) else str(temporary)
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=where))
    except (MlflowException, OSError, ValueError, ImportError) as error:  # what stores of other kinds say of a URI, or lack
        raise CommandError(f"model_uri: {version.model_uri} cannot be read: {short(error, 300)}") from error


def registered_sha256(model: Path) -> str | None:
    """Hash of the list of files by the version's tag, of a model that MLflow loads; None: the registry is not at hand."""
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        meta = yaml.safe_load((model / META).read_text(encoding="utf-8"))
        tags = mlflow.MlflowClient().get_model_version(meta["model_name"], str(meta["model_version"])).tags
    except (MlflowException, OSError, ValueError, yaml.YAMLError, TypeError, KeyError):
        return None
    found: str | None = tags.get(TAG)
    return found
