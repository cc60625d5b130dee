"""Training on the trials that an encoder classifies correctly: ``data.select.keep: correctly_classified``.

It exists for training alone. Scores computed on trials chosen by being right are circular, so a loader of a validation or test
part refuses it, an exported encoder forgets it, and no evaluation command has a field for it.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from trainer.artifacts.concept_scores import score_concepts, trained_concepts
from trainer.artifacts.encoder import load_network
from trainer.artifacts.export import find_export
from trainer.artifacts.guards import check_held_out, check_signal
from trainer.data.config import DataConfig
from trainer.data.index import StudyIndex
from trainer.data.loader import Loader
from trainer.distributed import collectives


def training_loader(
    index: StudyIndex, config: DataConfig, seed: int, device: torch.device | str = "cpu"
) -> tuple[Loader, dict[str, Any] | None]:
    """The training part, and where ``select.keep`` chooses among its items, what was chosen.

    An item is judged as it is trained on: a sample by the mean of its repetitions, under ``repetitions: each`` every
    repetition by itself. Called by all ranks, which take rank 0's verdicts: other hardware might round differently.

    Returns
    -------
    (loader, facts)
        ``facts``: ``kept, of, encoder, by`` for the events; ``not_known``, why the encoder may have learnt from held-out trials;
        ``origins``, its trainings, of which the choice tells; ``sha256`` of the choice for the run's identity. None for ``all``.

    Raises
    ------
    CommandError, ValueError, StudyError
        The encoder does not fit the study, has learnt from this split's validation or test trials, or is never right.
    """
    if config.select.keep == "all":
        return Loader(index, config, "train", seed), None
    path = find_export(config.select.keep_encoder)
    encoder = load_network(path, device)
    own = encoder.export.data_config(study=str(index.root), split=config.split)
    signal = {name: getattr(own.select, name) for name in ("channels", "tmin", "tmax")}
    select = replace(config.unfiltered().select, **signal)
    judged = Loader(index, replace(own, repetitions=config.repetitions, select=select), "train", seed)
    check_signal(encoder, judged)
    not_known = check_held_out(encoder.export, index, config, f"data.select.keep_encoder: {path}", "an encoder that has")
    single = config.repetitions == "each"
    concepts_K = trained_concepts(encoder, judged)
    true_N = np.concatenate([host.concept_B.numpy() for host in judged.sequential(4096, single_trials=single)])
    scores_NK, how = score_concepts(encoder, judged, concepts_K, judged, single_trials=single)
    kept_N = concepts_K[scores_NK.argmax(axis=1)] == true_N
    kept_N = collectives.gather_ids(torch.from_numpy(kept_N)[None].to(device, torch.uint8))[0].bool().cpu().numpy()
    facts = {
        "kept": int(kept_N.sum()),
        "of": len(kept_N),
        "encoder": str(path),
        "by": how,
        "not_known": not_known,
        "origins": tuple(replace(each, stage=None, planned_steps=None, planned_items=None) for each in encoder.export.origins),
        "sha256": hashlib.sha256(np.packbits(kept_N).tobytes()).hexdigest(),
    }
    return Loader(index, config, "train", seed, kept=kept_N), facts
