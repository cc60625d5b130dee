"""On what an export may be trained further, scored or served: signals that fit, and trials that it has not learnt from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_prep.contract.errors import CommandError
from trainer.artifacts.encoder import Encoder
from trainer.artifacts.level import check_part
from trainer.artifacts.seen import Seen
from trainer.data.config import DataConfig
from trainer.data.index import StudyIndex
from trainer.data.loader import Loader
from trainer.data.select import select_rows
from trainer.training.lineage import Lineage, Origin


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
    check_part(loader, encoder.export.level, "the encoder")


def part_of(loader: Loader) -> str:
    """A part, for sentences."""
    return f"{loader.index.root}: part {loader.part!r} of split {loader.config.split!r}"


def check_candidates(where: str, count: int, what: str) -> None:
    """Refuse to rank or to name among fewer than two: a single candidate always comes first, and every score is perfect.

    Raises
    ------
    CommandError
        ``where`` names the part, field or file, ``what`` the candidates.
    """
    if count < 2:
        raise CommandError(f"{where}: {what} to choose from: {count}, expected at least 2, since a single one always comes first")


def seen_trials(origins: Sequence[Origin], index: StudyIndex, rows: np.ndarray) -> Seen:
    """How many of the repetitions ``rows`` of a study the trainings ``origins`` have learnt from: those of an export, ancestors included.

    They are compared row by row (:mod:`trainer.data.trials`), whatever splits are called now. What an older export does not say is taken
    from the split that it names, where one of that content is there still: at most those trials were trained on.
    """
    count, chosen, splits, not_known = np.zeros(len(index.table), bool), np.zeros(len(index.table), bool), [], []
    for origin in origins:
        trained, reason = _trained_rows(origin, index)
        if len(np.intersect1d(trained, rows)):
            splits.append(str(origin.split))
        count[trained] = True
        validated = origin.chosen_by.rows_in(index) if origin.chosen_by else None
        if validated is not None:
            chosen[validated] = True
        if reason:
            not_known.append(reason)
    once = [tuple(dict.fromkeys(names)) for names in (splits, not_known)]
    return Seen(asked=len(rows), count=int(count[rows].sum()), splits=once[0], chosen=int(chosen[rows].sum()), not_known=once[1])


def _trained_rows(origin: Origin, index: StudyIndex) -> tuple[np.ndarray, str]:
    """Rows of a study that a training has learnt from, and why they are not known, if so."""
    nothing = np.empty(0, np.int64)
    called = f"of split {origin.split!r}" + (f" of study {origin.study!r}" if origin.study else "") if origin.split else "of a training"
    if origin.trained is not None:
        rows = origin.trained.rows_in(index)
        if rows is not None:
            return rows, ""
        return nothing, f"the training trials {called} are of another study, or of these recordings sharded otherwise"
    same = index.split_of(origin.split_hash) if origin.split_hash else None
    if same is not None:
        return index.rows(
            same, "train"
        ), f"which training trials {called} were used is not written in the export, which is of an older version"
    return nothing, f"the training trials {called} are not written in the export, which is of an older version"


def check_unseen(export: Lineage, loader: Loader, who: str = "the encoder") -> Seen:
    """Refuse to call trials held out that an export has learnt from; what is known of them otherwise."""
    seen = seen_trials(export.origins, loader.index, loader.rows)
    if loader.part != "train" and seen.count:
        asked = loader.config.split
        raise CommandError(
            f"{loader.index.root}: {who} was trained on {seen.count} of the trials that split {asked!r} calls {loader.part} (they are "
            f"training trials of {_listed(seen.splits, asked)}): expected a split whose {loader.part} trials it has not seen"
        )
    return seen


def check_held_out(export: Lineage, index: StudyIndex, data: DataConfig, where: str, expected: str) -> list[str]:
    """Refuse to train with an export that has learnt from what the new run's split holds out; else why that is not known, a sentence each.

    ``where`` names the field and the export, ``expected`` what would do: ``weights that have``, ``an encoder that has``.
    """
    parts = np.concatenate([index.rows(data.split, part) for part in ("validation", "test")])
    rows = select_rows(data.select, index.table, index.manifest.tables, np.sort(parts), thin=False)
    seen = seen_trials(export.origins, index, rows)
    if seen.count:
        raise CommandError(
            f"{where} was trained on {seen.count} validation or test trials of split {data.split!r} (training trials of "
            f"{_listed(seen.splits, data.split)}): expected {expected} not seen them"
        )
    return [
        f"{where}: whether it was trained on validation or test trials of split {data.split!r} is not known: {why}"
        for why in seen.not_known
    ]


def _listed(splits: Sequence[str], asked: str) -> str:
    return " and ".join(f"{split!r}" + (" as it was then" if split == asked else "") for split in splits)


def check_encoder(encoder: Encoder, path: Path, loader: Loader) -> list[str]:
    """Refuse an encoder that was trained on other signals or images than a loader brings, or on trials that the split holds out.

    Returns
    -------
    list of str
        Why the latter is not known, if so.

    Raises
    ------
    CommandError
        One sentence with both sides.
    """
    check_inputs(encoder, path, loader)
    return check_held_out(encoder.export, loader.index, loader.config, f"encoder: {path}", "an encoder that has")


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
