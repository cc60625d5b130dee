"""The model that a text run tunes: encoder, projector, base with its adapter, and what of them is trained."""

from __future__ import annotations

from pathlib import Path

import torch
from rich.table import Table
from torch import Tensor, nn

from data_prep.contract.terminal import Terminal
from trainer.artifacts.encoder import load_network
from trainer.artifacts.text import TextParts
from trainer.models.language.adapter import attach_adapter, check_trainable, trainable_table
from trainer.models.language.base import load_base
from trainer.models.language.eeg_language_model import EEGLanguageModel, Source
from trainer.models.language.llm import embedding_rms, hidden_size
from trainer.tasks.text.config import TextConfig


def build_parts(config: TextConfig, encoder_path: Path, source: Source | None, subject_B: Tensor, device: torch.device) -> TextParts:
    """The model, its projector and adapter fresh; an adapter without trainable parameters is refused.

    Parameters
    ----------
    encoder_path
        Export of the encoder.
    source
        What the run shows; None: words only, so that there is neither encoder nor projector.
    subject_B
        Any subject of the study, (1,): shows which weights of a tuned encoder are read.
    """
    base = load_base(config.base, device, training=True)
    rms = embedding_rms(base)
    # Adapter and projector begin alike whatever loading the base drew: at any ZeRO stage, quantised or not.
    torch.manual_seed(config.train.seed)
    llm = attach_adapter(base, config.adapter)
    encoder = projector = None
    if source is not None:
        # A copy of its own: ZeRO 3 cuts it up, while the task's goes on predicting words.
        encoder = load_network(encoder_path, device).model
        width = encoder.proj_dim if config.prefix.features == "embedding" else encoder.encoder.token_dim
        projector = config.prefix.build(width, hidden_size(base), rms)
    model = EEGLanguageModel(
        encoder=encoder,
        tune_encoder=config.tune_encoder,
        projector=projector,
        llm=llm,
        features=config.prefix.features,
        precision=config.train.precision,
        device=device,
    )
    if model.image_token is not None and source == "eeg":
        model.image_token.requires_grad_(False)  # no image passes through it
    if config.tune_encoder:
        _freeze_unread(model, subject_B)
    check_trainable(model, config.adapter)
    return TextParts(model=model, embedding_rms=rms)


def _freeze_unread(model: EEGLanguageModel, subject_B: Tensor) -> None:
    """Train no part of the encoder that what the projector reads does not pass, such as what follows its tokens."""
    encoder = model.encoder
    assert encoder is not None
    trained = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    eeg_BCT = torch.zeros(1, encoder.n_chans, encoder.n_times, device=subject_B.device)
    read: Tensor = model.features("eeg", eeg_BCT=eeg_BCT, subject_B=subject_B)
    for parameter, gradient in zip(trained, torch.autograd.grad(read.sum(), trained, allow_unused=True), strict=True):
        parameter.requires_grad_(gradient is not None)


def print_trainable(model: nn.Module) -> None:
    """A table of parameters by part."""
    table = Table("part", "trained", "all", "share")
    for part, trained, total in trainable_table(model):
        table.add_row(part, f"{trained:,}", f"{total:,}", f"{100 * trained / max(total, 1):.2f} %")
    Terminal(stderr=True, soft_wrap=True).print(table)
