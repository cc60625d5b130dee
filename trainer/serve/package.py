"""A model as MLflow keeps it: code beside plain files, nothing pickled; a new version in the registry."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import numpy as np

from data_prep.contract.errors import CommandError
from data_prep.contract.files import refuse_links_out
from data_prep.contract.version import code_version, commit_of
from data_prep.contract.words import short
from trainer.callbacks.mlflow_evaluation import catch_up
from trainer.callbacks.mlflow_store import experiment_id, living_run
from trainer.data.loader import Loader
from trainer.serve.config import RegisterConfig
from trainer.serve.registered import Registered
from trainer.serve.versions import quiet_client
from trainer.serve.whole import TAG, write_files
from trainer.training.run_folder import RunFolder
from trainer.training.tracking import MlflowConfig

ALIAS = "candidate"
_COMMIT = "mlflow.source.git.commit"
_REQUIREMENTS = ("mlflow", "numpy", "torch", "safetensors", "jsonargparse[signatures]", "PyYAML", "rich")
"""What loading and applying an export imports."""


def example(loader: Loader) -> tuple[np.ndarray, dict[str, str]]:
    """The part's first repetition as a client would send it: float32 (1, C, T), and the ``params`` that go with it."""
    host = next(loader.sequential(1, single_trials=True))
    loader.index.settle()
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


@dataclass(frozen=True, kw_only=True)
class Package:
    """What a registered model consists of."""

    python_model: str
    """File in this package that MLflow runs."""
    artifacts: dict[str, Path]
    """Folders kept beside it."""
    params: Mapping[str, str | int]
    """Parameters of a request with their defaults."""
    outputs: Callable[[], Any]
    """Makes MLflow's schema of an answer."""
    input_example: tuple[np.ndarray, dict[str, Any]]
    requirements: list[str]
    tags: dict[str, Any]


def register_package(
    config: RegisterConfig, folder: RunFolder, tracking: MlflowConfig, training_run_id: str, package: Package
) -> Registered:
    """A new version of the model ``config.name``; returns what ``registered.json`` says of it.

    Raises
    ------
    CommandError
        The tracking server does not take it.
    """
    refuse_links_out(package.artifacts["export"])
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = str(config.timeout_seconds)
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "1"
    os.environ["MLFLOW_RECORD_ENV_VARS_IN_MODEL_LOGGING"] = "false"  # it would add a file after the list of files is written
    uri = tracking.uri(folder.path)
    client = quiet_client(uri)
    import mlflow
    from mlflow.exceptions import MlflowException
    from mlflow.models import Model

    packages, flavor, code = Path(__file__).parents[2], _Listed(), code_version()
    try:
        run_id, is_new = _run_id(client, tracking, folder, training_run_id)
        # Not log_model: it needs an active run, which would reopen the finished training run and move its end. Without an active
        # run the experiment must be named, or the files would go to the default experiment's folder.
        mlflow.set_experiment(experiment_id=client.get_run(run_id).info.experiment_id)
        with _without_chatter():
            info = Model.log(
                artifact_path=None,
                name=config.name,
                flavor=flavor,
                run_id=run_id,
                registered_model_name=config.name,
                python_model=str(Path(__file__).parent / package.python_model),
                code_paths=[str(packages / "trainer"), str(packages / "data_prep")],
                artifacts={name: path.absolute().as_uri() for name, path in package.artifacts.items()},
                signature=_signature(package),
                input_example=package.input_example,
                pip_requirements=package.requirements,
                step=int(package.tags.get("step") or 0),
            )
        _say_source(client, info.model_id, code)
        version = str(info.registered_model_version)
        for name, value in {**package.tags, TAG: flavor.files_sha256}.items():
            client.set_model_version_tag(config.name, version, name, str(value))
        client.set_registered_model_alias(config.name, ALIAS, version)
        if is_new:
            client.set_terminated(run_id)
    except (MlflowException, OSError) as error:
        raise CommandError(f"tracking_uri: {without_credentials(uri)} does not take the model: {short(error, 300)}") from error
    return Registered(
        model_uri=f"models:/{config.name}/{version}",
        name=config.name,
        version=version,
        run_id=run_id,
        tracking_uri=without_credentials(uri),
        files_sha256=flavor.files_sha256,
    )


def _say_source(client: Any, model_id: str, code: str) -> None:
    """Tags of the code in a model. MLflow asks any repository around the script that was started, be it another project's."""
    for name in client.get_logged_model(model_id).tags.keys() & {_COMMIT, "mlflow.source.git.branch", "mlflow.source.git.repoURL"}:
        client.delete_logged_model_tag(model_id, name)
    if commit := commit_of(code):
        client.set_logged_model_tags(model_id, {_COMMIT: commit})


class _Listed:
    """MLflow's ``pyfunc``, whose models have a list of their files when they leave for the store."""

    files_sha256 = ""

    def save_model(self, path: str, **arguments: Any) -> None:
        """As ``mlflow.pyfunc.save_model``, then the list."""
        import mlflow

        mlflow.pyfunc.save_model(path=path, **arguments)
        for compiled in list(Path(path).rglob("__pycache__")):
            shutil.rmtree(compiled, ignore_errors=True)
        self.files_sha256 = write_files(Path(path))


def _signature(package: Package) -> Any:
    # Of inputs there is no schema: MLflow's knows one type of numbers and one number of axes, where the model takes float64, lists and
    # repetitions as well, checks them itself and names channels, rate and unit.
    from mlflow.models import ModelSignature
    from mlflow.types import DataType, ParamSchema, ParamSpec

    kinds = {str: DataType.string, int: DataType.long}
    return ModelSignature(
        outputs=package.outputs(),
        params=ParamSchema([ParamSpec(name, kinds[type(default)], default) for name, default in package.params.items()]),
    )


@contextlib.contextmanager
def _without_chatter() -> Iterator[None]:
    """MLflow's own lines do not reach the terminal, errors excepted."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            yield
    finally:
        sys.stderr.writelines(line for line in said.getvalue().splitlines(keepends=True) if " ERROR " in line)


def _run_id(client: Any, tracking: MlflowConfig, folder: RunFolder, training_run_id: str) -> tuple[str, bool]:
    """The training's run where this store has it, else a new one; and whether it is new."""
    if living_run(client, training_run_id) is not None:
        catch_up(client, training_run_id, folder.path)
        return training_run_id, False
    experiment = experiment_id(client, tracking.experiment, tracking.uri(folder.path))
    run = client.create_run(experiment, run_name=tracking.run_name or folder.path.absolute().name)
    client.set_tag(run.info.run_id, "run_folder", str(folder.path))
    return run.info.run_id, True
