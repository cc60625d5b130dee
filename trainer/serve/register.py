"""``python -m trainer register``: a run's encoder and a gallery as a version of a registered MLflow model.

::

    RUN/export + gallery of a study's part  -->  models:/NAME/VERSION, now @candidate  -->  RUN/registered.json

The model is code (:mod:`trainer.serve.model`) beside plain files; nothing in it is pickled. The gallery holds the part's
unique stimuli, of a class-level study its classes, already in the common space (:mod:`trainer.serve.gallery`).
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_prep.contract.cli import from_plain
from data_prep.contract.config_file import read_fields
from data_prep.contract.errors import CommandError
from data_prep.contract.progress import progress
from data_prep.contract.records import to_json
from data_prep.contract.terminal import Terminal
from trainer.artifacts.encoder import Encoder, load_encoder
from trainer.artifacts.export import CONFIG, read_export
from trainer.artifacts.guards import check_candidates, check_unseen, part_of
from trainer.artifacts.part import open_part
from trainer.artifacts.text_export import is_text_export
from trainer.data.loader import Loader
from trainer.serve.about import about, say_not_known
from trainer.serve.config import RegisterConfig
from trainer.serve.gallery import Gallery
from trainer.serve.package import ALIAS, Package, example, register_package, requirements
from trainer.serve.params import RETRIEVAL
from trainer.serve.register_text import register_text
from trainer.serve.registered import write_registered
from trainer.training.completed import read_completed
from trainer.training.run_folder import RunFolder
from trainer.training.tracking import MlflowConfig


def run(config: RegisterConfig) -> None:
    """Register, write ``RUN/registered.json``, print the model's URI."""
    folder = RunFolder(config.run)
    training_run_id, tracking = _read_run(folder)
    if config.tracking_uri:
        tracking = replace(tracking, tracking_uri=config.tracking_uri)
    export = Path(config.export) if config.export else folder.export
    if not (export / CONFIG).is_file():
        raise CommandError(f"{export}: holds no exported model (no {CONFIG})")
    if is_text_export(export):
        register_text(config, folder, tracking, training_run_id, export)
        return
    config = config.named("eeg-retrieval", config.study or str(read_export(export).data_config().study))
    with progress(f"steps of registering {config.name}", 2) as advance, tempfile.TemporaryDirectory() as temporary:
        encoder = load_encoder(export)
        loader = open_part(encoder, config.study or None, config.split or None, config.part)
        check_study(encoder, loader, export)
        check_candidates(part_of(loader), len(loader.stimuli), "stimuli")
        trial, labels = example(loader)
        encoder.check_embeds(export, trial, **labels)
        gallery = make_gallery(encoder, loader)
        trained = encoder.export
        facts = {"step": trained.step, "git_revision": trained.git_revision, "fingerprint": trained.fingerprint}
        seen = check_unseen(trained, loader)
        facts |= about(trained, loader, seen)
        gallery.write(Path(temporary) / "gallery", facts | {"embedding": to_json(trained.embedding), "top_k": config.top_k})
        Gallery.read(Path(temporary) / "gallery", encoder.gallery_width)  # a damaged encoder is refused here, not by its first client
        advance()
        package = Package(
            python_model="model.py",
            artifacts={"export": export, "gallery": Path(temporary) / "gallery"},
            params=RETRIEVAL,
            outputs=_outputs,
            input_example=(trial, labels),
            requirements=requirements(),
            tags=facts | {"signal": str(encoder.signal), "metric": trained.metric},
        )
        registered = register_package(config, folder, tracking, training_run_id, package)
        advance()
    write_registered(folder.path, registered)
    Terminal(soft_wrap=True).print(
        f"{registered.model_uri} (now @{ALIAS}): gallery of {len(gallery.stimuli)}, in {registered.tracking_uri}",
    )
    say_not_known("the encoder", seen)


# ------------------------------------------------------------------------------------------------------- what goes in


def check_study(encoder: Encoder, loader: Loader, export: Path) -> None:
    """Refuse a study that is not the encoder's: its stimuli are not what the image head was trained on.

    Embeddings that it has got since do not matter, but for an export that is older than the hash without them.

    Raises
    ------
    CommandError
        Other trials, or another image embedding under the same name.
    """
    manifest, root, embedding = loader.index.manifest, loader.index.root, encoder.export.embedding
    trained_on, found = encoder.export.trials_hash, manifest.trials_hash
    if trained_on is None:
        trained_on, found = encoder.export.fingerprint, manifest.fingerprint
    if trained_on != found:
        raise CommandError(f"{root}: fingerprint of its trials {found[:12]}, expected {str(trained_on)[:12]}, the study of {export}")
    found = manifest.embedding(loader.config.embedding).sha256
    if found != embedding.sha256:
        raise CommandError(
            f"{root}: embedding {loader.config.embedding!r} has SHA-256 {found[:12]}, expected {embedding.sha256[:12]} as in {export}"
        )


def make_gallery(encoder: Encoder, loader: Loader) -> Gallery:
    """The unique stimuli of the loader's part, in the study's order, as the encoder compares trials with them."""
    tables = loader.index.manifest.tables
    stimuli = [tables.stimuli[s] for s in loader.stimuli.tolist()]
    return Gallery(
        embedding_GK=encoder.gallery_rows(loader.gallery[loader.stimuli]),
        stimuli=[s.id for s in stimuli],
        concepts=[tables.concepts[s.concept] for s in stimuli],
    )


def _read_run(folder: RunFolder) -> tuple[str, MlflowConfig]:
    # Read as plain YAML: a run's config names encoders that need not be importable here, and only tracking matters.
    config = folder.path / "config.yaml"
    if (completed := read_completed(folder.path)) is None:
        raise CommandError(f"run: {folder.path} is not a completed run (no {folder.completed.name})")
    plain = read_fields(config) if config.is_file() else {}
    return completed.tracking_run_id, from_plain(MlflowConfig, plain.get("mlflow") or {})


# ------------------------------------------------------------------------------------------------------------ MLflow


def _outputs() -> Any:
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import Array

    names, number = Array(DataType.string), Array(DataType.double)
    return Schema([ColSpec(names, "stimuli"), ColSpec(names, "concepts"), ColSpec(number, "scores")])
