"""Class-level studies: the trial's class, not its image, so AUC and balanced accuracy beside LDA.

A trial's score for a class is the cosine of its embedding with the class's mean image embedding.

Q: trials, K: classes, P: dimension of the common space.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from trainer import metrics
from trainer.artifacts.encoder import Encoder
from trainer.artifacts.part import collect, embed
from trainer.data.loader import Loader
from trainer.evaluate import baselines
from trainer.evaluate.intervals import bootstrap_statistic, permutation_p_value
from trainer.evaluate.retrieval.config import EvaluateRetrievalConfig

METHOD = (
    "Stimuli are known by class only: no image-level retrieval is reported.",
    "AUC ranks trials by the difference of their scores (more than two classes: the mean over one class against the others).",
    "Intervals (95 %) resample trials within recording and class; they do not cover other recordings or training seeds.",
    "The null permutes the trials' classes; p = (1 + b) / (1 + m). It tests chance, not leakage.",
)


def evaluate_class_level(config: EvaluateRetrievalConfig, encoder: Encoder, loader: Loader, train: Loader | None) -> dict[str, Any]:
    """Arms of a class-level study: model, LDA with shrinkage chosen in inner folds over recordings, chance."""
    part = collect(loader)
    tables = loader.index.manifest.tables
    num_classes = len(tables.concepts)
    class_of_stimulus = tables.concept_of_stimulus()
    images_KP = encoder.embed_image(loader.gallery[[int(np.flatnonzero(class_of_stimulus == k)[0]) for k in range(num_classes)]])
    z_QP = embed(loader, encoder.embed_batch, torch.device(config.device))
    scores = {"model": metrics.cosine_similarity(z_QP, images_KP)}
    notes = list(METHOD)
    if train is not None:
        scores["lda"], shrinkages = baselines.lda_class_scores(collect(train), part, num_classes)
        notes.append(f"LDA's shrinkage, chosen in inner folds over the training recordings: {', '.join(map(str, shrinkages))}.")
    arms, summary = {}, {"chance": {"auc": 0.5, "balanced_accuracy": 1 / num_classes}}
    for name, scores_QK in scores.items():
        arms[name] = class_metrics(config, scores_QK, part.concept_N, part.recording_N)
        summary[name] = {metric: arms[name][metric]["value"] for metric in ("auc", "balanced_accuracy")}
    per_class = {tables.concepts[k]: int((part.concept_N == k).sum()) for k in range(num_classes)}
    return {
        "kind": "classes",
        "metric": "AUC",
        "num_queries": len(part),
        "num_gallery": num_classes,
        "trials_by_class": per_class,
        "arms": arms,
        "summary": summary,
        "notes": notes,
        "by_subject": {
            tables.subjects[s]: {"auc": class_auc(scores["model"][rows], part.concept_N[rows])}
            for s in np.unique(part.subject_N).tolist()
            if len(np.unique(part.concept_N[rows := np.flatnonzero(part.subject_N == s)])) > 1
        },
    }


def class_auc(scores_QK: np.ndarray, concept_Q: np.ndarray) -> float:
    """AUC of two classes by the difference of scores, or the mean over classes against the others that are present."""
    num_classes = scores_QK.shape[1]
    if num_classes == 2:
        return metrics.auc(scores_QK[:, 1] - scores_QK[:, 0], concept_Q == 1)
    others = (scores_QK.sum(axis=1, keepdims=True) - scores_QK) / (num_classes - 1)
    return float(np.mean([metrics.auc((scores_QK - others)[:, k], concept_Q == k) for k in np.unique(concept_Q)]))


def class_metrics(config: EvaluateRetrievalConfig, scores_QK: np.ndarray, concept_Q: np.ndarray, recording_Q: np.ndarray) -> dict[str, Any]:
    """AUC and balanced accuracy with intervals, and the permutation null of the AUC."""
    predicted_Q = scores_QK.argmax(axis=1)
    groups_Q = recording_Q.astype(np.int64) * (int(concept_Q.max()) + 1) + concept_Q
    found: dict[str, Any] = {}
    for name, statistic in (
        ("auc", lambda rows: class_auc(scores_QK[rows], concept_Q[rows])),
        ("balanced_accuracy", lambda rows: metrics.balanced_accuracy(predicted_Q[rows], concept_Q[rows])),
    ):
        interval = bootstrap_statistic(statistic, groups_Q, num_resamples=config.num_resamples, seed=config.seed)
        found[name] = {"value": interval.value, "low": interval.low, "high": interval.high}
    p, null = permutation_p_value(
        lambda order: class_auc(scores_QK, concept_Q[order]), len(concept_Q), num_permutations=config.num_permutations, seed=config.seed
    )
    return found | {"null": {"p_auc": p, "null_auc": float(null.mean())}}
