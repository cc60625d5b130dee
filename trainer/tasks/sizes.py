"""Sizes at which a run would learn nothing, or choose its best step by a score that says nothing: refused before its first step.

What a field says by itself is refused by its config; here is what shows when the data is there, after ``data.select``.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import numpy as np
import torch

from data_prep.contract.errors import CommandError
from trainer.artifacts.guards import check_candidates, part_of
from trainer.data.loader import Loader
from trainer.distributed.world import World
from trainer.training.config import RunConfig

Column = Literal["stimulus", "concept"]
_PLURAL: dict[Column, str] = {"stimulus": "stimuli", "concept": "concepts"}
_POSITIONS = 1 << 20
"""Of the stream that are looked at, at most a data pass."""
_MORE = 500
"""Batches that are looked at where none of these holds two stimuli: a few could by chance."""
_LEAST_NORM = 1e-12
"""Below it ``torch.nn.functional.normalize`` makes no unit vector."""
_MANY = 0.05
"""Share of batches that contrast nothing of which the user is told."""


def check_sizes(
    config: RunConfig,
    world: World,
    train: Loader,
    validation: Loader | None,
    *,
    learnt: Collection[Column],
    scored: Column = "stimulus",
    most_scored: int = 0,
) -> list[str]:
    """Refuse parts that are too small for any training; else what a reader of the run must know of their sizes.

    Parameters
    ----------
    learnt
        What the losses tell apart: the training part must show two of each.
    scored
        What the validation scores tell apart.
    most_scored
        Validation samples that are scored at most; 0: all.

    Raises
    ------
    CommandError
        One sentence with what was found and what is needed.
    """
    for column in learnt:
        if (count := len(_shown(train, column))) < 2:
            raise CommandError(f"{part_of(train)}: {_PLURAL[column]} to learn from: {count}, expected at least 2 to tell apart")
    if validation is not None:
        check_candidates(part_of(validation), len(_shown(validation, scored)), _PLURAL[scored])
        count = min(most_scored or validation.num_samples, validation.num_samples)
        if count < world.size:
            raise CommandError(f"{part_of(validation)}: {count} samples to score on {world.size} ranks, expected one for each rank or more")
    elif config.train.early_stopping_validations:
        raise CommandError(
            f"train.early_stopping_validations: {config.train.early_stopping_validations}, but split {config.data.split!r} has no "
            "validation part: expected 0, or a split that has one"
        )
    return _notes(config, train)


def check_contrast(train: Loader, global_batch_size: int, column: Column) -> list[str]:
    """Refuse a stream no batch of which holds two stimuli (concepts), so that a contrastive loss has nothing to compare and stays as it is.

    It is looked at as it will come: batches straddle data passes, and what is mixed is a matter of ``data.block_shards``.
    """
    ids_N = train.item_stimuli if column == "stimulus" else train.item_concepts

    def count_alone(first: int, count: int) -> int:
        items = train.order.items(first * global_batch_size, (first + count) * global_batch_size)
        batches = ids_N[items].reshape(count, global_batch_size)
        return int((batches == batches[:, :1]).all(axis=1).sum())

    total = -(-min(train.num_items, _POSITIONS) // global_batch_size)
    alone = count_alone(0, total)
    if alone == total and count_alone(total, _MORE) == _MORE:
        raise CommandError(
            f"train.global_batch_size: {global_batch_size}, but each of the first {total + _MORE} batches of {part_of(train)} shows a "
            f"single {column}, so that nothing is contrasted: expected a larger one, or data.block_shards above {train.config.block_shards}"
        )
    if alone < _MANY * total:
        return []
    return [f"{alone} of the first {total} batches show a single {column} and contrast nothing: a larger train.global_batch_size helps"]


def check_targets(train: Loader) -> None:
    """Refuse embeddings that do not tell the training stimuli apart, or of which float32 makes no unit vector: these have no loss and no
    gradient."""
    norm_S = torch.from_numpy(train.gallery[train.stimuli]).norm(dim=1)
    if (bad_S := ~((norm_S >= _LEAST_NORM) & norm_S.isfinite())).any():
        first = int(bad_S.nonzero()[0])
        stimulus = train.index.manifest.tables.stimuli[train.stimuli[first]].id
        raise CommandError(
            f"data.embedding: {train.config.embedding!r}: that of stimulus {stimulus} has no direction "
            f"(norm {float(norm_S[first]):.2g} in float32, as {int(bad_S.sum())} of {len(norm_S)} in {part_of(train)}): "
            f"expected vectors of {_LEAST_NORM:g} to 1e+19"
        )
    if not np.ptp(train.gallery[train.stimuli], axis=0).any():
        raise CommandError(
            f"data.embedding: {train.config.embedding!r} is one and the same for all {len(train.stimuli)} stimuli of {part_of(train)}, "
            "expected different ones: there is nothing to align with"
        )


def _shown(loader: Loader, column: Column) -> np.ndarray:
    return loader.stimuli if column == "stimulus" else loader.concepts


def _notes(config: RunConfig, train: Loader) -> list[str]:
    notes = []
    train_config, steps = config.train, config.train.num_steps(train.num_items)
    patience, every = train_config.early_stopping_validations, train_config.validate_every_steps
    # The first validation is the best so far; that of the last step stops nothing.
    if patience and (patience + 1) * every >= steps:
        notes.append(
            f"train.early_stopping_validations {patience} never stops this run: its first chance is step {(patience + 1) * every}, as "
            f"validations are {every} steps apart, and it ends at {steps}"
        )
    if (size := config.train.global_batch_size) > train.num_items:
        notes.append(
            f"train.global_batch_size {size} is more than the {train.num_items} training items: every batch holds some of them twice"
        )
    if config.data.repetitions == "random_mean" and config.data.random_mean_k >= train.most_repetitions:
        notes.append(
            f"data.random_mean_k {config.data.random_mean_k}: no training sample has more than {train.most_repetitions} repetitions, so "
            "every item is the mean of all it has, as under repetitions: mean"
        )
    return notes
