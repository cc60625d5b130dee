"""The text models of a generation: the part that one reads, the label-only one beside it, and what neither can be asked."""

from __future__ import annotations

from pathlib import Path

import torch

from data_prep.contract.errors import CommandError
from data_prep.contract.files import sha256_file, sha256_json
from trainer.artifacts.guards import check_inputs, check_unseen
from trainer.artifacts.text import TextDecoder, load_text
from trainer.data.index import StudyIndex
from trainer.data.loader import Loader
from trainer.generate.arms import ArmError
from trainer.generate.config import GenerateConfig

_EQUAL = 0.01
"""Difference in length, as a share, at which two trainings count as equally long."""


def open_text_part(decoder: TextDecoder, export: Path, config: GenerateConfig) -> Loader:
    """The part to be captioned, as the model's training read its own, all repetitions averaged.

    Raises
    ------
    CommandError, StudyError
        A study that does not fit the encoder; a part without trials, or with trials that the encoder or the model has learnt from.
    """
    changes = {name: value for name, value in (("study", config.study), ("split", config.split)) if value}
    data = decoder.export.data_config(**changes, repetitions="mean")
    loader = Loader(StudyIndex.open(data.study), data, config.part, seed=0)
    check_inputs(decoder.encoder, export / "encoder", loader)
    check_unseen(decoder.encoder.export, loader)
    check_unseen(decoder.export, loader, "the text model")
    return loader


def open_label_only(
    decoder: TextDecoder, loader: Loader, export: Path, config: GenerateConfig, device: torch.device
) -> tuple[TextDecoder, tuple[str, ...]]:
    """The model that is told the label alone, and which of its trainings cannot be compared with the part.

    Raises
    ------
    CommandError
        It reads EEG, has another base than the model, or has learnt from the part.
    """
    label = load_text(export, device, base=config.base or None, precision=config.precision)
    if label.reads_eeg:
        raise CommandError(f"label_only: {export} reads EEG (stage {label.export.stage.name}), expected a model trained in stage label")
    ours, theirs = (model.export.base for model in (decoder, label))
    if ours.fingerprint != theirs.fingerprint or ours.name != theirs.name:
        raise CommandError(f"label_only: {export} has the base {theirs.name}, the model {ours.name}: expected the same base")
    check_inputs(label.encoder, export / "encoder", loader)
    check_unseen(label.encoder.export, loader, "the label-only model's encoder")
    return label, check_unseen(label.export, loader, "the label-only model").not_known


def refuse_unequal(decoder: TextDecoder, label: TextDecoder) -> None:
    """Raise :class:`ArmError` where the label-only model was not trained as the model was: its captions would be no control."""
    # Of steps, those that were planned: each model then keeps the step that did best on validation.
    ours, theirs = decoder.export.planned(), label.export.planned()
    for name in ours:
        own, other = ours[name], theirs[name]
        if own is None or other is None or abs(own - other) > _EQUAL * own:  # passes of several stages are rounded to whole steps each
            found = f"the label-only model was trained for {other or 'unknown'} {name}, the model for {own or 'unknown'}"
            raise ArmError(f"{found} in all of its stages: expected as many")
    for name in ("adapter", "split_hash"):
        if getattr(decoder.export, name) != getattr(label.export, name):
            raise ArmError(f"the label-only model has another {name.replace('_', ' ')} than the model, expected the same")


def refuse_unreadable(decoder: TextDecoder, arm: str) -> None:
    """Raise :class:`ArmError` where the model cannot read what an arm shows."""
    # With the encoder's tokens as features, images and EEG go in through different doors, and training may have used one only.
    if decoder.model.image_token is None:
        return
    if arm in ("image", "concept-mean") and not decoder.export.reads_images:
        raise ArmError("the model reads the encoder's tokens and was last trained in stage eeg: it cannot read an image")
    if arm.startswith(("eeg", "noise", "shuffled")) and "eeg" not in decoder.export.trained_on:
        raise ArmError("the model reads the encoder's tokens and was trained in stage image: it has never been shown EEG")


def digest(export: Path) -> str:
    """Identity of a text export: a hash over all of its files."""
    files = sorted(path for path in export.rglob("*") if path.is_file())
    return sha256_json({path.relative_to(export).as_posix(): sha256_file(path) for path in files})
