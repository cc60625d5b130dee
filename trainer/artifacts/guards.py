"""On what an export may be trained further, scored or served: signals that fit, and trials that it has not learnt from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.contract.cli import to_plain
from data_prep.contract.errors import CommandError, StudyError
from trainer.artifacts.encoder import Encoder
from trainer.data.index import StudyIndex
from trainer.data.loader import Loader


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


def check_encoder(encoder: Encoder, path: Path, loader: Loader) -> None:
    """Refuse an encoder that was trained on other signals or images than a loader brings, or on trials that the split holds out.

    Raises
    ------
    CommandError
        One sentence with both sides.
    """
    check_inputs(encoder, path, loader)
    check_held_out(encoder.config, loader.index, loader.config.split, f"encoder: {path}", "an encoder that has")


def check_inputs(encoder: Encoder, path: Path, loader: Loader) -> None:
    """Refuse signals or images that are not what the encoder was trained on, in one sentence with both sides."""
    check_signal(encoder, loader)
    theirs, ours = encoder.config["data"], to_plain(loader.config)
    for name in ("transform", "normalise"):
        if theirs.get(name) != ours[name]:
            raise CommandError(f"data.{name}: {ours[name]}, the encoder {path} was trained with {theirs.get(name)}: expected the same")
    facts = loader.index.manifest.embedding(loader.config.embedding).provenance
    for name in ("model", "layer", "weights_sha256"):
        if encoder.config["embedding"].get(name) != facts.get(name):
            raise CommandError(
                f"data.embedding: {loader.config.embedding} has {name} {facts.get(name)}, the encoder {path} was aligned with images of "
                f"{encoder.config['embedding'].get(name)}: expected the same"
            )
