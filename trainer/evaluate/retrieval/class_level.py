"""Class-level studies: the trial's class, not its image, so AUC and balanced accuracy beside LDA.

A trial's score for a class is the cosine of its embedding with the class's mean image embedding.

Q: trials, K: classes, P: dimension of the common space.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from data_prep.contract.progress import tracked
from trainer import metrics
from trainer.artifacts.encoder import Encoder
from trainer.artifacts.guards import check_candidates, part_of
from trainer.artifacts.part import collect, embed
from trainer.data.loader import Loader
from trainer.evaluate.baselines.base import Trials, score_baselines
from trainer.evaluate.intervals import bootstrap_statistic, permutation_p_value
from trainer.evaluate.model_scores import model_scores
from trainer.evaluate.results import Score
from trainer.evaluate.retrieval.config import EvaluateRetrievalConfig
from trainer.evaluate.retrieval.results import ClassArm, ClassLevelResults
from trainer.evaluate.study_facts import StudyFacts

METHOD = (
    "Stimuli are known by class only: no image-level retrieval is reported.",
    "AUC ranks trials by the difference of their scores (more than two classes: the mean over one class against the others).",
    "Intervals (95 %) resample trials within recording and class; they do not cover other recordings or training seeds.",
    "The null permutes the trials' classes; p = (1 + b) / (1 + m). It tests chance, not leakage.",
)


def evaluate_class_level(config: EvaluateRetrievalConfig, encoder: Encoder, loader: Loader, facts: StudyFacts) -> ClassLevelResults:
    """Arms of a class-level study: model, the baselines that name concepts, chance."""
    check_candidates(part_of(loader), len(loader.concepts), "classes")
    part, tables = collect(loader), loader.index.manifest.tables
    classes_K = np.arange(len(tables.concepts))
    first_K = [int(np.flatnonzero(tables.concept_of_stimulus() == k)[0]) for k in classes_K]
    z_QP = embed(loader, encoder.embed_batch, torch.device(config.device))
    scores = {"model": model_scores(encoder, z_QP, part.subject_N, part.n_reps_N, loader.gallery[first_K]).whole()}
    chosen = [baseline for baseline in config.baselines if baseline.candidates == "concepts"]
    notes: list[str] = []
    if chosen:
        train = Loader(loader.index, loader.config, "train", seed=0)
        no_gallery = loader.gallery[:0]
        trials = Trials(train=collect(train), test=part, train_loader=train, gallery_GE=no_gallery, concepts_G=classes_K)
        others, _, notes = score_baselines(chosen, trials)
        scores |= {name: found.whole() for name, found in others.items()}
    arms = {
        name: class_metrics(config, scores_QK, part.concept_N, part.recording_N)
        for name, scores_QK in tracked(scores.items(), "arms scored", len(scores))
    }
    summary = {name: {"auc": arm.auc.value, "balanced_accuracy": arm.balanced_accuracy.value} for name, arm in arms.items()}
    return ClassLevelResults(
        **vars(facts),
        metric="AUC",
        num_queries=len(part),
        num_gallery=len(classes_K),
        arms=arms,
        summary=summary | {"chance": {"auc": 0.5, "balanced_accuracy": 1 / len(classes_K)}},
        by_subject={
            tables.subjects[s]: {"auc": class_auc(scores["model"][rows], part.concept_N[rows])}
            for s in np.unique(part.subject_N).tolist()
            if len(np.unique(part.concept_N[rows := np.flatnonzero(part.subject_N == s)])) > 1
        },
        trials_by_class={tables.concepts[k]: int((part.concept_N == k).sum()) for k in classes_K},
        notes=(*METHOD, *notes),
    )


def class_auc(scores_QK: np.ndarray, concept_Q: np.ndarray) -> float:
    """AUC of two classes by the difference of scores, or the mean over classes against the others that are present."""
    num_classes = scores_QK.shape[1]
    if num_classes == 2:
        return metrics.auc(scores_QK[:, 1] - scores_QK[:, 0], concept_Q == 1)
    others = (scores_QK.sum(axis=1, keepdims=True) - scores_QK) / (num_classes - 1)
    return float(np.mean([metrics.auc((scores_QK - others)[:, k], concept_Q == k) for k in np.unique(concept_Q)]))


def class_metrics(config: EvaluateRetrievalConfig, scores_QK: np.ndarray, concept_Q: np.ndarray, recording_Q: np.ndarray) -> ClassArm:
    """AUC and balanced accuracy with intervals, and the permutation null of the AUC."""
    predicted_Q = scores_QK.argmax(axis=1)
    groups_Q = recording_Q.astype(np.int64) * (int(concept_Q.max()) + 1) + concept_Q

    def score(statistic: Callable[[np.ndarray], float]) -> Score:
        found = bootstrap_statistic(statistic, groups_Q, num_resamples=config.num_resamples, seed=config.seed)
        return Score(value=found.value, low=found.low, high=found.high)

    p, null = permutation_p_value(
        lambda order: class_auc(scores_QK, concept_Q[order]), len(concept_Q), num_permutations=config.num_permutations, seed=config.seed
    )
    return ClassArm(
        auc=score(lambda rows: class_auc(scores_QK[rows], concept_Q[rows])),
        balanced_accuracy=score(lambda rows: metrics.balanced_accuracy(predicted_Q[rows], concept_Q[rows])),
        null={"p_auc": p, "null_auc": float(null.mean())},
    )
