"""``python -m trainer export-embeddings``: EEG and image embeddings of a part as one ``.npz``, and its reading."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console

from data_prep.contract.errors import CommandError, StudyError
from data_prep.contract.files import write_atomically
from trainer.artifacts.encoder import Encoder, load_encoder
from trainer.data.index import StudyIndex
from trainer.data.loader import Loader
from trainer.evaluate.part import embed


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


def open_part(encoder: Encoder, study: str | None, split: str | None, part: str) -> Loader:
    """Loader of a part for an exported encoder, all repetitions averaged; the study must fit the encoder.

    Raises
    ------
    CommandError, StudyError
        Another montage, rate, window or unit; a part without trials.
    """
    changes = {name: value for name, value in (("study", study), ("split", split)) if value}
    config = encoder.data_config(**changes, repetitions="mean")
    index = StudyIndex.open(config.study)
    loader = Loader(index, config, part, seed=0)
    check_signal(encoder, loader)
    check_unseen(encoder.config, loader)
    return loader


def check_signal(encoder: Encoder, loader: Loader) -> None:
    """Refuse a study whose trials are not what the encoder was trained on."""
    expected, build = encoder.signal, encoder.config["build"]
    found = {"sfreq": loader.sfreq, "n_times": loader.n_times, "n_chans": loader.n_chans, "embedding_dim": loader.embedding_dim}
    for name, value in found.items():
        if value != build[name]:
            raise CommandError(f"{loader.index.root}: {name} is {value}, the encoder was trained with {build[name]}")
    if abs(loader.tmin - expected["tmin"]) * loader.sfreq > 1e-3:
        raise CommandError(
            f"{loader.index.root}: trials begin at {loader.tmin:g} s, those the encoder was trained on at {expected['tmin']:g} s"
        )
    if loader.index.signal.unit != expected["unit"]:
        raise CommandError(f"{loader.index.root}: unit is {loader.index.signal.unit}, the encoder was trained on {expected['unit']}")
    names = loader.index.signal.ch_names if loader.transform is not None else loader.ch_names
    if list(names) != list(expected["ch_names"]):
        raise CommandError(
            f"{loader.index.root}: channels {', '.join(names)}, the encoder was trained on {', '.join(expected['ch_names'])}"
        )


def check_unseen(config: dict[str, Any], loader: Loader, who: str = "the encoder") -> None:
    """Refuse to call trials held out that an export (``config`` is its ``config.json``) was trained on under another split of the study."""
    if loader.part == "train":
        return
    for split, seen in seen_trials(config, loader.index, loader.config.split, (loader.part,)).items():
        raise CommandError(
            f"{loader.index.root}: {who} was trained on {seen} of the trials that split {loader.config.split!r} calls {loader.part} "
            f"(they are training trials of {split!r}): expected a split whose {loader.part} trials it has not seen"
        )


def check_held_out(config: dict[str, Any], index: StudyIndex, split: str, where: str, expected: str) -> None:
    """Refuse to train on ``split`` with an export (``config`` is its ``config.json``) that has learnt from what the split holds out.

    ``where`` names the field and the export, ``expected`` what would do: ``weights that have``, ``an encoder that has``.
    """
    for other, seen in seen_trials(config, index, split, ("validation", "test")).items():
        raise CommandError(
            f"{where} was trained on {seen} validation or test trials of split {split!r} (training trials of {other!r}): expected "
            f"{expected} not seen them"
        )


def seen_trials(config: dict[str, Any], index: StudyIndex, split: str, parts: Sequence[str]) -> dict[str, int]:
    """How many trials of ``parts`` of a split an encoder has learnt from, by the split that it or an ancestor was trained on.

    Parameters
    ----------
    config
        ``config.json`` of the encoder's export. Its ancestors are the runs whose weights it began with. What was trained on
        another study, or on a split that is not here any more, is not counted.
    """
    held_out = np.concatenate([index.rows(split, part) for part in parts])
    counts: dict[str, int] = {}
    for origin in [*config.get("started_from", []), config]:
        if origin.get("fingerprint") != index.manifest.fingerprint or origin.get("split_hash") == index.split(split).hash:
            continue
        try:
            seen = np.intersect1d(index.rows(origin["split"], "train"), held_out)
        except StudyError:
            continue
        if len(seen):
            counts[origin["split"]] = len(seen)
    return counts
