"""On what an export may be trained further, scored or served: signals that fit, and trials that it has not learnt from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_prep.contract.errors import CommandError, StudyError
from trainer.artifacts.encoder import Encoder
from trainer.data.index import StudyIndex
from trainer.data.loader import Loader
from trainer.training.lineage import Lineage


def check_signal(encoder: Encoder, loader: Loader) -> None:
    """Refuse a study whose trials are not what the encoder was trained on."""
    expected, build, root = encoder.signal, encoder.export.build, loader.index.root
    for name in ("sfreq", "n_times", "n_chans", "embedding_dim"):
        found, wanted = getattr(loader, name), getattr(build, name)
        if found != wanted:
            raise CommandError(f"{root}: {name} is {found}, the encoder was trained with {wanted}")
    if abs(loader.tmin - expected.tmin) * loader.sfreq > 1e-3:
        raise CommandError(f"{root}: trials begin at {loader.tmin:g} s, those the encoder was trained on at {expected.tmin:g} s")
    if loader.index.signal.unit != expected.unit:
        raise CommandError(f"{root}: unit is {loader.index.signal.unit}, the encoder was trained on {expected.unit}")
    names = loader.index.signal.ch_names if loader.transform is not None else loader.ch_names
    if tuple(names) != expected.ch_names:
        raise CommandError(f"{root}: channels {', '.join(names)}, the encoder was trained on {', '.join(expected.ch_names)}")


def check_unseen(export: Lineage, loader: Loader, who: str = "the encoder") -> None:
    """Refuse to call trials held out that an export was trained on under another split of the study."""
    if loader.part == "train":
        return
    for split, seen in seen_trials(export, loader.index, loader.config.split, (loader.part,)).items():
        raise CommandError(
            f"{loader.index.root}: {who} was trained on {seen} of the trials that split {loader.config.split!r} calls {loader.part} "
            f"(they are training trials of {split!r}): expected a split whose {loader.part} trials it has not seen"
        )


def check_held_out(export: Lineage, index: StudyIndex, split: str, where: str, expected: str) -> None:
    """Refuse to train on ``split`` with an export that has learnt from what the split holds out.

    ``where`` names the field and the export, ``expected`` what would do: ``weights that have``, ``an encoder that has``.
    """
    for other, seen in seen_trials(export, index, split, ("validation", "test")).items():
        raise CommandError(
            f"{where} was trained on {seen} validation or test trials of split {split!r} (training trials of {other!r}): expected "
            f"{expected} not seen them"
        )


def seen_trials(export: Lineage, index: StudyIndex, split: str, parts: Sequence[str]) -> dict[str, int]:
    """How many trials of ``parts`` of a split an export has learnt from, by the split that it or an ancestor was trained on.

    Its ancestors are the runs whose weights it began with. What was trained on another study, or on a split that is not here any
    more, is not counted.
    """
    held_out = np.concatenate([index.rows(split, part) for part in parts])
    counts: dict[str, int] = {}
    for origin in export.origins:
        if origin.fingerprint != index.manifest.fingerprint or origin.split_hash == index.split(split).hash or origin.split is None:
            continue
        try:
            seen = np.intersect1d(index.rows(origin.split, "train"), held_out)
        except StudyError:
            continue
        if len(seen):
            counts[origin.split] = len(seen)
    return counts


def check_encoder(encoder: Encoder, path: Path, loader: Loader) -> None:
    """Refuse an encoder that was trained on other signals or images than a loader brings, or on trials that the split holds out.

    Raises
    ------
    CommandError
        One sentence with both sides.
    """
    check_inputs(encoder, path, loader)
    check_held_out(encoder.export, loader.index, loader.config.split, f"encoder: {path}", "an encoder that has")


def check_inputs(encoder: Encoder, path: Path, loader: Loader) -> None:
    """Refuse signals or images that are not what the encoder was trained on, in one sentence with both sides."""
    check_signal(encoder, loader)
    theirs, ours = encoder.export.data_config(), loader.config
    for name in ("transform", "normalise"):
        wanted, found = getattr(theirs, name), getattr(ours, name)
        if wanted != found:
            raise CommandError(f"data.{name}: {found}, the encoder {path} was trained with {wanted}: expected the same")
    embedding, aligned = loader.index.manifest.embedding(ours.embedding), encoder.export.embedding
    if (part := embedding.differs_from(aligned)) is not None:
        raise CommandError(
            f"data.embedding: {ours.embedding} has {part} {embedding.provenance.get(part)}, the encoder {path} was aligned with images of "
            f"{aligned.provenance.get(part)}: expected the same"
        )
