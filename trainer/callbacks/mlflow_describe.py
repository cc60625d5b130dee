"""What an MLflow run says of a training: params, tags, source, description and dataset."""

from __future__ import annotations

import contextlib
import getpass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.contract.audit import read_audit
from data_prep.contract.cli import to_plain
from data_prep.contract.errors import UserError
from data_prep.contract.manifest import Manifest, read_manifest
from data_prep.contract.secrets import masked
from data_prep.contract.version import code_version, commit_of
from trainer.callbacks.mlflow_points import mlflow_name
from trainer.training.callback import LoopView
from trainer.training.identity import flat

_PARAMS_A_CALL = 100
_MAX_PARAM_CHARACTERS = 500
_MAX_DIGEST_CHARACTERS = 36


def source_tags(loop: LoopView) -> dict[str, str]:
    """Tags that MLflow's pages show as user, source and version."""
    task, revision = _task(loop), code_version()
    tags = {"mlflow.source.name": f"python -m trainer {task}", "mlflow.source.type": "LOCAL", "git_revision": revision}
    if commit := commit_of(revision):
        tags["mlflow.source.git.commit"] = commit
    with contextlib.suppress(KeyError, OSError):  # a container's user may have no name
        tags["mlflow.user"] = getpass.getuser()
    return tags


def describe(client: Any, run_id: str, loop: LoopView) -> None:
    """Everything that is known before the first step. Params come last of what is looked at: a run that has them is described."""
    from mlflow.data.meta_dataset import MetaDataset
    from mlflow.data.sources import LocalArtifactDatasetSource
    from mlflow.entities import DatasetInput, InputTag, Param, RunTag
    from mlflow.exceptions import MlflowException

    root, data, study = Path(loop.config.data.study).absolute(), loop.config.data, loop.study
    manifest = read_manifest(root)
    tags = {**_facts(loop, manifest, root), **study, "run_folder": str(loop.folder.path)}
    client.log_batch(run_id, tags=[RunTag(name, str(value)) for name, value in tags.items()])
    dataset = MetaDataset(
        source=LocalArtifactDatasetSource(root.as_uri()),
        name=root.name,
        digest=study["fingerprint"][:_MAX_DIGEST_CHARACTERS],
        schema=_schema(manifest, data),
    )
    inputs = [InputTag(name, str(value)) for name, value in study.items()] + [InputTag("mlflow.data.context", "training")]
    used = [DatasetInput(dataset._to_mlflow_entity(), inputs)]
    try:
        client.log_inputs(run_id, datasets=used)
    except MlflowException:  # of two runs that name a dataset for the first time at once, MLflow refuses one
        client.log_inputs(run_id, datasets=used)
    for name in ("config.yaml", "identity.json"):
        client.log_artifact(run_id, str(loop.folder.path / name))
    told = {mlflow_name(name): value for name, value in flat(to_plain(loop.config)).items()} | {"world_size": loop.world.size}
    params = [Param(name, masked(str(value))[:_MAX_PARAM_CHARACTERS]) for name, value in told.items()]
    for first in range(0, len(params), _PARAMS_A_CALL):
        client.log_batch(run_id, params=params[first : first + _PARAMS_A_CALL])


def _facts(loop: LoopView, manifest: Manifest, root: Path) -> dict[str, str]:
    data = loop.config.data
    try:
        found = read_audit(root, data.split)
    except UserError:
        found = None
    verdict = "unknown" if found is None else found.verdict if found.split_hash == loop.study["split_hash"] else "out of date"
    simulated = "simulated EEG" if manifest.simulated else "EEG"
    note = (
        f"`{_task(loop)}` training on {simulated} of the study **{root.name}** ({len(manifest.tables.subjects)} subjects, "
        f"{manifest.signal.n_chans} channels at {manifest.signal.sfreq:g} Hz, in {manifest.signal.unit}), split **{data.split}** "
        f"(audit: {verdict}), aligned with the embedding **{data.embedding}**."
    )
    return {
        "simulated": str(manifest.simulated).lower(),
        "study": root.name,
        "split": data.split,
        "audit": verdict,
        "unit": manifest.signal.unit,
        "mlflow.note.content": note,
    }


def _task(loop: LoopView) -> str:
    return type(loop.config).__name__.removesuffix("Config").lower()


def _schema(manifest: Manifest, data: Any) -> Any:
    from mlflow.types import Schema, TensorSpec

    signal = manifest.signal
    dim = manifest.embedding(data.embedding).dim
    return Schema(
        [
            TensorSpec(signal.eeg_dtype, (-1, signal.n_chans, signal.n_times), "eeg"),
            TensorSpec(np.dtype(np.float32), (-1, dim), data.embedding),
        ]
    )
