"""``python -m trainer export-embeddings``: EEG and image embeddings of a part as one ``.npz``."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from rich.console import Console

from data_prep.contract.files import write_atomically
from trainer.artifacts.encoder import load_encoder
from trainer.artifacts.part import embed, open_part
from trainer.evaluate.results import check_output


@dataclass(frozen=True, kw_only=True)
class ExportEmbeddingsConfig:
    """Embed a part of a study and write the embeddings down."""

    export: str
    """Folder of an exported encoder, such as ``runs/ID/export``."""
    output: str
    """The ``.npz`` to write: arrays ``eeg, image, ids, subjects, concepts, split``."""
    study: str | None = None
    """Study folder; null: the one the encoder was trained on."""
    split: str | None = None
    """Split; null: the one the encoder was trained on."""
    part: Literal["train", "validation", "test"] = "test"
    """Part of the split."""
    device: str = "cpu"
    """Where the encoder computes."""

    def __post_init__(self) -> None:
        if not self.output.endswith(".npz"):
            raise ValueError(f"output: {self.output!r}, expected a name that ends with .npz")


def run(config: ExportEmbeddingsConfig) -> None:
    """Write the file."""
    check_output(Path(config.output).parent)
    encoder = load_encoder(config.export, config.device)
    loader = open_part(encoder, config.study, config.split, config.part)
    tables = loader.index.manifest.tables
    sample = loader.index.samples[[s for host in loader.sequential(4096) for s in host.sample_B.tolist()]]
    arrays = {
        "eeg": embed(loader, encoder.embed_batch, torch.device(config.device)),
        "image": encoder.embed_image(loader.gallery[sample["stimulus"]]),
        "ids": np.array([tables.stimuli[i].id for i in sample["stimulus"]]),
        "subjects": np.array([tables.subjects[i] for i in sample["subject"]]),
        "concepts": np.array([tables.concepts[i] for i in sample["concept"]]),
        "split": np.array(config.part),
    }
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    write_atomically(Path(config.output), buffer.getvalue())
    Console(soft_wrap=True).print(f"{config.output}: {len(arrays['eeg'])} rows of {config.part}, {arrays['eeg'].shape[1]} dimensions")
