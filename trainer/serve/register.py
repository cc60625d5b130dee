"""``python -m trainer register``: a run's encoder and a gallery as a version of a registered MLflow model.

::

    RUN/export + gallery of a study's part  -->  models:/NAME@candidate  -->  RUN/registered.json

The model is code (:mod:`trainer.serve.model`) beside plain files; nothing in it is pickled. The gallery holds the part's
unique stimuli, of a class-level study its classes, already in the common space: ``gallery.npz`` with ``embedding`` (float32),
``stimulus`` and ``concept`` (strings), and ``gallery.json``.
"""

from __future__ import annotations

import importlib.metadata
import io
import logging
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

import numpy as np
import yaml
from rich.console import Console

from data_prep.contract.cli import from_plain
from data_prep.contract.errors import CommandError
from data_prep.contract.files import read_json, write_atomically, write_json
from trainer.artifacts.encoder import CONFIG, Encoder, load_encoder
from trainer.callbacks.mlflow import MlflowConfig, check_tracking_uri
from trainer.data.loader import Loader
from trainer.evaluate.embeddings import open_part
from trainer.training.run_folder import RunFolder

ALIAS = "candidate"
REGISTERED = "registered.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*\Z")
_REQUIREMENTS = ("mlflow", "numpy", "torch", "safetensors", "jsonargparse[signatures]", "PyYAML", "rich")
"""What loading and applying an export imports."""


@dataclass(frozen=True, kw_only=True)
class RegisterConfig:
    """Put a run's encoder, with a gallery to search, into the model registry."""

    run: str
    """Run folder of a completed training."""
    name: str
    """Name of the registered model; a new version is added if it exists. Letters, digits, ``_``, ``.`` and ``-``."""
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
        if not _NAME.match(self.name):
            raise ValueError(f"name: {self.name!r}, expected letters, digits, '_', '.' and '-', beginning with a letter or digit")
        for field in ("top_k", "timeout_seconds"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}: {getattr(self, field)}, expected at least 1")
        check_tracking_uri(self.tracking_uri)


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """What a trial is compared with. G: entries, P: dimension of the common space."""

    embedding_GP: np.ndarray
    """float32, unit norm."""
    stimuli: list[str]
    """Stimulus ids; class names in a class-level study."""
    concepts: list[str]
    """Concept names."""

    def write(self, folder: Path, facts: dict[str, Any]) -> None:
        """Write ``gallery.npz`` and ``gallery.json`` into ``folder``."""
        buffer = io.BytesIO()
        np.savez(buffer, embedding=self.embedding_GP, stimulus=np.array(self.stimuli), concept=np.array(self.concepts))
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "gallery.npz", buffer.getvalue())
        write_json(folder / "gallery.json", facts)


def run(config: RegisterConfig) -> None:
    """Register, write ``RUN/registered.json``, print the model's URI."""
    folder = RunFolder(config.run)
    training_run_id, tracking = _read_run(folder)
    if config.tracking_uri:
        tracking = replace(tracking, tracking_uri=config.tracking_uri)
    export = Path(config.export) if config.export else folder.export
    if not (export / CONFIG).is_file():
        raise CommandError(f"{export}: holds no exported model (no {CONFIG})")
    if read_json(export / CONFIG).get("kind") == "text":
        from trainer.serve.register_text import register_text

        register_text(config, folder, tracking, training_run_id, export)
        return
    encoder = load_encoder(export)
    loader = open_part(encoder, config.study or None, config.split or None, config.part)
    check_study(encoder, loader, export)
    gallery = make_gallery(encoder, loader)
    with tempfile.TemporaryDirectory() as temporary:
        facts = {name: encoder.config.get(name) for name in ("step", "git_revision", "fingerprint", "embedding")}
        facts |= {"split": loader.config.split, "split_hash": loader.split_hash, "part": config.part, "top_k": config.top_k}
        gallery.write(Path(temporary) / "gallery", facts)
        input_example = example(loader)
        package = Package(
            python_model="model.py",
            artifacts={"export": export, "gallery": Path(temporary) / "gallery"},
            signature=_signature(input_example[0].shape),
            input_example=input_example,
            requirements=requirements(),
            tags={name: facts[name] for name in ("step", "git_revision", "fingerprint", "split", "split_hash", "part")},
        )
        registered = register_package(config, folder, tracking, training_run_id, package)
    write_json(folder.path / REGISTERED, registered)
    Console(soft_wrap=True).print(
        f"{registered['model_uri']}: version {registered['version']}, gallery of {len(gallery.stimuli)}, in {registered['tracking_uri']}",
        highlight=False,
    )


# ------------------------------------------------------------------------------------------------------- what goes in


def check_study(encoder: Encoder, loader: Loader, export: Path) -> None:
    """Refuse a study that is not the encoder's: its stimuli are not what the image head was trained on.

    Raises
    ------
    CommandError
        Another fingerprint, or another image embedding under the same name.
    """
    manifest, root, embedding = loader.index.manifest, loader.index.root, encoder.config["embedding"]
    trained_on = encoder.config.get("fingerprint")
    if trained_on != manifest.fingerprint:
        raise CommandError(f"{root}: fingerprint {manifest.fingerprint[:12]}, expected {str(trained_on)[:12]}, the study of {export}")
    found = manifest.embedding(loader.config.embedding).sha256
    if found != embedding["sha256"]:
        raise CommandError(
            f"{root}: embedding {loader.config.embedding!r} has SHA-256 {found[:12]}, expected {embedding['sha256'][:12]} as in {export}"
        )


def make_gallery(encoder: Encoder, loader: Loader) -> Gallery:
    """The unique stimuli of the loader's part, in the study's order, through the image head."""
    tables = loader.index.manifest.tables
    stimuli = [tables.stimuli[s] for s in loader.stimuli.tolist()]
    return Gallery(
        embedding_GP=encoder.embed_image(loader.gallery[loader.stimuli]),
        stimuli=[s.id for s in stimuli],
        concepts=[tables.concepts[s.concept] for s in stimuli],
    )


def example(loader: Loader) -> tuple[np.ndarray, dict[str, str]]:
    """The part's first repetition as a client would send it: float32 (1, C, T), and the ``params`` that go with it."""
    host = next(loader.sequential(1, single_trials=True))
    tables = loader.index.manifest.tables
    params = {"subject": tables.subjects[int(host.subject_B[0])], "session": ""}
    if loader.transform is not None:
        params["session"] = tables.sessions[int(loader.transform.session_K[int(host.group_R[0])])]
    return host.repetitions_RCT.numpy().astype(np.float32), params


def requirements(names: Sequence[str] = _REQUIREMENTS) -> list[str]:
    """What inference needs, pinned to what is installed here."""
    # A local version such as 2.11.0+cu130 is on no package index.
    return [f"{name}=={importlib.metadata.version(name.split('[')[0]).split('+')[0]}" for name in names]


def without_credentials(uri: str) -> str:
    """The URI without ``user:password@``."""
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if "@" in parts.netloc else uri


def _read_run(folder: RunFolder) -> tuple[str, MlflowConfig]:
    # Read as plain YAML: a run's config names encoders that need not be importable here, and only tracking matters.
    config = folder.path / "config.yaml"
    if not folder.completed.is_file():
        raise CommandError(f"run: {folder.path} is not a completed run (no {folder.completed.name})")
    run_id = read_json(folder.completed).get("tracking_run_id") or ""
    try:
        plain = yaml.safe_load(config.read_text(encoding="utf-8")) if config.is_file() else {}
    except yaml.YAMLError as error:
        raise CommandError(f"{config}: not YAML ({' '.join(str(error).split())})") from None
    return run_id, from_plain(MlflowConfig, (plain or {}).get("mlflow") or {})


# ------------------------------------------------------------------------------------------------------------ MLflow


@dataclass(frozen=True, kw_only=True)
class Package:
    """What a registered model consists of."""

    python_model: str
    """File in this package that MLflow runs."""
    artifacts: dict[str, Path]
    """Folders kept beside it."""
    signature: Any
    input_example: tuple[np.ndarray, dict[str, Any]]
    requirements: list[str]
    tags: dict[str, Any]


def register_package(
    config: RegisterConfig, folder: RunFolder, tracking: MlflowConfig, training_run_id: str, package: Package
) -> dict[str, Any]:
    """A new version of the model ``config.name``; returns what ``registered.json`` says of it.

    Raises
    ------
    CommandError
        The tracking server does not take it.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = str(config.timeout_seconds)
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "1"
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow
    from mlflow.exceptions import MlflowException
    from mlflow.models import Model

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    uri = tracking.uri(folder.path)
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
    packages = Path(__file__).parents[2]
    try:
        run_id, is_new = _run_id(client, tracking, folder, training_run_id)
        # Not log_model: it needs an active run, which would reopen the finished training run and move its end. Without an active
        # run the experiment must be named, or the files would go to the default experiment's folder.
        mlflow.set_experiment(experiment_id=client.get_run(run_id).info.experiment_id)
        info = Model.log(
            artifact_path=None,
            name=config.name,
            flavor=mlflow.pyfunc,
            run_id=run_id,
            registered_model_name=config.name,
            python_model=str(packages / "trainer" / package.python_model),
            code_paths=[str(packages / "trainer"), str(packages / "data_prep")],
            artifacts={name: path.absolute().as_uri() for name, path in package.artifacts.items()},
            signature=package.signature,
            input_example=package.input_example,
            pip_requirements=package.requirements,
        )
        version = str(info.registered_model_version)
        for name, value in package.tags.items():
            client.set_model_version_tag(config.name, version, name, str(value))
        client.set_registered_model_alias(config.name, ALIAS, version)
        if is_new:
            client.set_terminated(run_id)
    except (MlflowException, OSError) as error:
        message = " ".join(str(error).split())[:300]
        raise CommandError(f"tracking_uri: {without_credentials(uri)} does not take the model: {message}") from None
    return {
        "model_uri": f"models:/{config.name}@{ALIAS}",
        "name": config.name,
        "version": version,
        "run_id": run_id,
        "tracking_uri": without_credentials(uri),
    }


def _run_id(client: Any, tracking: MlflowConfig, folder: RunFolder, training_run_id: str) -> tuple[str, bool]:
    """The training's run where this store has it, else a new one; and whether it is new."""
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(tracking.experiment)  # also makes the database, once
    if training_run_id:
        try:
            return client.get_run(training_run_id).info.run_id, False
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
    if experiment is None:
        # With an SQLite file, MLflow would put artifacts under the present directory.
        uri = tracking.uri(folder.path)
        local = uri.startswith("sqlite:")
        database = Path(uri.removeprefix("sqlite:///"))
        experiment_id = client.create_experiment(
            tracking.experiment, artifact_location=(database.absolute().parent / "mlartifacts").as_uri() if local else None
        )
    else:
        experiment_id = experiment.experiment_id
    run = client.create_run(experiment_id, run_name=tracking.run_name or folder.path.absolute().name)
    client.set_tag(run.info.run_id, "run_folder", str(folder.path))
    return run.info.run_id, True


def _signature(shape: tuple[int, ...]) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
    from mlflow.types.schema import Array

    return ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.float32), (-1, *shape[1:]))]),
        outputs=Schema(
            [
                ColSpec(Array(DataType.string), "stimuli"),
                ColSpec(Array(DataType.string), "concepts"),
                ColSpec(Array(DataType.double), "scores"),
            ]
        ),
        params=ParamSchema([ParamSpec("subject", DataType.string, ""), ParamSpec("session", DataType.string, "")]),
    )
