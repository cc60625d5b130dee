"""How much a trained encoder thinks each trial to show each concept: by its concept head, or by the nearest concept.

N: items (samples, or single trials), K: concepts, P: common space.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from data_prep.contract.errors import CommandError
from data_prep.contract.ranking import cosine_similarity
from trainer.artifacts.encoder import NetworkEncoder
from trainer.artifacts.guards import part_of
from trainer.artifacts.part import embed
from trainer.data.batch import Batch
from trainer.data.loader import Loader


def trained_concepts(encoder: NetworkEncoder, train: Loader) -> np.ndarray:
    """Ids in ``train``'s study, ascending, of the concepts that the encoder was trained on."""
    tables = train.index.manifest.tables.concepts
    known = set(encoder.export.trained_concepts or (tables[c] for c in train.concepts.tolist()))
    return np.array([number for number, name in enumerate(tables) if name in known], dtype=np.int64)


def score_concepts(
    encoder: NetworkEncoder, loader: Loader, concepts_K: np.ndarray, train: Loader, *, single_trials: bool = False
) -> tuple[np.ndarray, str]:
    """Scores of every item of a part for the given concepts, higher is better.

    Parameters
    ----------
    encoder
        With a concept head: its scores. Without: the cosine of the trial's embedding with the mean of a concept's image
        embeddings in the common space, over the stimuli of ``train``, both less the mean image embedding, whose share would
        hide what distinguishes concepts.
    loader
        The part to score, prepared as the encoder wants it.
    concepts_K
        Ids in the study's table of concepts; each must be one that the encoder was trained on.
    train
        The part that says what a concept looks like; not used with a concept head.
    single_trials
        Every repetition is an item of its own.

    Returns
    -------
    (scores, how)
        float32 (N, K) in the order of ``loader.sequential``, and ``concept head`` or ``nearest concept``.

    Raises
    ------
    CommandError
        Scores are not finite, or a concept has no stimulus in ``train``.
    """
    if encoder.has_concept_head:
        logits_NK = _embed(loader, encoder.concept_logits, single_trials, encoder.device)
        if not (finite_N := np.isfinite(logits_NK).all(axis=1)).all():
            where = f"{part_of(loader)}: item {int(finite_N.argmin())}"
            raise CommandError(f"{where}: its concept scores are not finite: its EEG is too large, or the encoder's weights are damaged")
        return logits_NK[:, _columns(encoder, loader, concepts_K)], "concept head"
    z_NP = _embed(loader, encoder.embed_batch, single_trials, encoder.device)
    concept_of = np.array([stimulus.concept for stimulus in train.index.manifest.tables.stimuli])
    images_SP, concept_S = encoder.embed_image(train.gallery[train.stimuli]), concept_of[train.stimuli]
    if len(unseen := np.setdiff1d(concepts_K, concept_S)):
        first = train.index.manifest.tables.concepts[int(unseen[0])]
        raise CommandError(f"{part_of(train)} shows no stimulus of {first!r}, expected one of each concept that the encoder was trained on")
    means_KP = np.stack([images_SP[concept_S == concept].mean(axis=0) for concept in concepts_K.tolist()])
    mean_P = images_SP.mean(axis=0)
    return cosine_similarity(z_NP - mean_P, means_KP - mean_P).astype(np.float32), "nearest concept"


def _columns(encoder: NetworkEncoder, loader: Loader, concepts_K: np.ndarray) -> list[int]:
    column = {name: number for number, name in enumerate(encoder.export.concepts)}
    names = loader.index.manifest.tables.concepts
    return [column[names[concept]] for concept in concepts_K.tolist()]


def _embed(loader: Loader, function: Callable[[Batch], torch.Tensor], single_trials: bool, device: torch.device) -> np.ndarray:
    if not single_trials:
        return embed(loader, function, device)
    found = [function(loader.prepare(host, device)).float().cpu().numpy() for host in loader.sequential(512, single_trials=True)]
    return np.concatenate(found)
