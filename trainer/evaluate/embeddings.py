"""``python -m trainer export-embeddings``: EEG and image embeddings of a part as one ``.npz``, and its reading."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console

from data_prep.contract.errors import CommandError
from data_prep.contract.files import write_atomically
from trainer.artifacts.encoder import load_encoder
from trainer.artifacts.part import embed, open_part


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


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Embeddings to be scored: one EEG row a query, each with its image's embedding."""

    eeg_QP: np.ndarray
    image_QP: np.ndarray
    ids_Q: np.ndarray
    """Stimulus of each query; any dtype that compares."""
    subjects_Q: np.ndarray
    concepts_Q: np.ndarray


def run(config: ExportEmbeddingsConfig) -> None:
    """Write the file."""
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


def read_embeddings(path: Path) -> Pairs:
    """Read a file of arrays ``eeg`` and ``image`` (or ``img``), with optional ``ids``, ``subjects`` and ``concepts``.

    Without ids every distinct image row is a stimulus of its own; without concepts each stimulus is its own concept.

    Raises
    ------
    CommandError
        One sentence naming the file: not an npz, arrays missing, shapes that do not match, pickled objects.
    """
    if not path.is_file():
        raise CommandError(f"{path}: no such file")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays: dict[str, Any] = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, AttributeError) as error:
        raise CommandError(f"{path}: not an .npz of plain arrays ({error})") from None
    image = arrays.get("image", arrays.get("img"))
    eeg = arrays.get("eeg")
    if eeg is None or image is None:
        raise CommandError(f"{path}: has the arrays {sorted(arrays)}, expected eeg and image (or img)")
    if eeg.ndim != 2 or image.shape != eeg.shape:
        raise CommandError(f"{path}: eeg has shape {eeg.shape} and image {image.shape}, expected the same (rows, dimensions)")
    for name, array in (("eeg", eeg), ("image", image)):
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            raise CommandError(f"{path}: {name} holds values that are not finite numbers")
    ids = arrays.get("ids", np.unique(image, axis=0, return_inverse=True)[1].reshape(-1))
    found = {"ids": ids, "subjects": arrays.get("subjects", np.zeros(len(eeg), int)), "concepts": arrays.get("concepts", ids)}
    for name, array in found.items():
        if array.shape != (len(eeg),):
            raise CommandError(f"{path}: {name} has shape {array.shape}, expected ({len(eeg)},), one for each row of eeg")
    return Pairs(eeg_QP=eeg, image_QP=image, ids_Q=found["ids"], subjects_Q=found["subjects"], concepts_Q=found["concepts"])
