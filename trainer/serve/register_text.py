"""Registering a text model: adapter, projector and encoder inside, the base by reference or, where asked, inside as well."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from data_prep.contract.errors import CommandError
from data_prep.contract.progress import progress
from data_prep.contract.terminal import Terminal
from trainer.artifacts.encoder import load_network
from trainer.artifacts.guards import check_unseen
from trainer.artifacts.part import open_part
from trainer.artifacts.text import ENCODER, load_text
from trainer.artifacts.text_export import read_text_export
from trainer.models.language.base import resolve_base
from trainer.serve.about import about, say_not_known
from trainer.serve.config import RegisterConfig
from trainer.serve.package import ALIAS, Package, example, register_package, requirements
from trainer.serve.params import TEXT
from trainer.serve.registered import write_registered
from trainer.training.run_folder import RunFolder
from trainer.training.tracking import MlflowConfig

_MORE_REQUIREMENTS = ("transformers", "peft", "accelerate", "bitsandbytes", "tokenizers", "gguf", "sentencepiece")


def register_text(config: RegisterConfig, folder: RunFolder, tracking: MlflowConfig, training_run_id: str, export: Path) -> None:
    """Register a text export, write ``RUN/registered.json``, print the model's URI.

    Raises
    ------
    CommandError
        The export's own base is not where it says, or is another one; the tracking server does not take the model.
    """
    facts = read_text_export(export)
    config = config.named("eeg-text", config.study or str(facts.data_config().study))
    with progress(f"steps of registering {config.name}", 2) as advance, tempfile.TemporaryDirectory() as temporary:
        decoder = load_text(export, precision="bf16")  # says in a sentence what does not fit, before anything is registered
        encoder = load_network(export / ENCODER)
        loader = open_part(encoder, config.study or facts.data_config().study, config.split or facts.split, config.part)
        seen = check_unseen(facts, loader, "the text model")
        trial, labels = example(loader)
        decoder.check_reads(export, trial, **labels)
        artifacts = {"export": export}
        if config.bundle_base:
            source = Path(resolve_base(facts.read_base()))
            if not source.is_dir():
                raise CommandError(f"bundle_base: {facts.base.name} is no local folder: train from one to bundle it")
            artifacts["base"] = Path(shutil.copytree(source, Path(temporary) / "base"))
        advance()
        package = Package(
            python_model="text_model.py",
            artifacts=artifacts,
            params=TEXT,
            outputs=_outputs,
            input_example=(trial, {**TEXT, **labels}),
            requirements=requirements() + requirements(_MORE_REQUIREMENTS),
            tags={name: getattr(facts, name) for name in ("step", "git_revision", "fingerprint")}
            | {"base": facts.base.name, "stage": facts.stage.name, "signal": str(encoder.signal)}
            | about(facts, loader, seen),
        )
        registered = register_package(config, folder, tracking, training_run_id, package)
        advance()
    write_registered(folder.path, registered)
    Terminal(soft_wrap=True).print(
        f"{registered.model_uri} (now @{ALIAS}): base {facts.base.name}"
        f"{' inside' if config.bundle_base else ' by reference'}, in {registered.tracking_uri}",
    )
    say_not_known("the text model", seen)


def _outputs() -> Any:
    from mlflow.types import ColSpec, DataType, Schema

    return Schema([ColSpec(DataType.string, "caption")])
