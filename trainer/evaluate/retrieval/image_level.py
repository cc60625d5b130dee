"""Image-level retrieval: each EEG trial among the images of the part, and each image among the trials.

The gallery is the part's unique stimuli.

Q: queries, G: gallery stimuli, P: dimension of the common space.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.stats import rankdata

from data_prep.contract.errors import CommandError
from data_prep.contract.progress import tracked
from data_prep.contract.ranking import cosine_similarity
from trainer import metrics
from trainer.artifacts.encoder import Encoder
from trainer.artifacts.part import PartArrays, collect, embed
from trainer.data.loader import Loader
from trainer.evaluate.baselines.base import Trials, score_baselines
from trainer.evaluate.embeddings import Pairs
from trainer.evaluate.intervals import bootstrap_mean, permutation_p_value
from trainer.evaluate.results import Score
from trainer.evaluate.retrieval.config import EvaluateRetrievalConfig
from trainer.evaluate.retrieval.results import RetrievalArm, RetrievalResults
from trainer.evaluate.study_facts import StudyFacts

SUMMARY = {"top1": "recall@1", "top5": "recall@5", "mrr": "mrr", "median_rank": "median_rank"}
PAIRED = ("recall@1", "recall@5", "mrr")
"""Metrics in which the model is compared with every other arm."""
METHOD = (
    "The gallery is the unique stimuli of the evaluated part; tied candidates take their mean rank.",
    "Intervals (95 %) resample queries with the gallery fixed, and with several subjects also the subjects; they do not "
    "cover another gallery or another training seed.",
    "The null permutes stimuli, the same way for every subject; p = (1 + b) / (1 + m). It tests chance, not leakage.",
)
COINCIDE = "One image a concept: here mAP equals MRR and nDCG@1 equals Recall@1, they are no further evidence."


@dataclass(frozen=True, kw_only=True)
class Queries:
    """What is asked and what may be answered."""

    stimulus_Q: np.ndarray
    concept_Q: np.ndarray
    subject_Q: np.ndarray
    stimulus_G: np.ndarray
    concept_G: np.ndarray

    @property
    def target_Q(self) -> np.ndarray:
        """Gallery position of each query's stimulus."""
        return np.searchsorted(self.stimulus_G, self.stimulus_Q)


@dataclass(frozen=True, kw_only=True)
class ScoredArms:
    """What score matrices say."""

    arms: dict[str, RetrievalArm]
    summary: dict[str, dict[str, float | None]]
    model_minus: dict[str, dict[str, Score]]
    model_Q: dict[str, np.ndarray]
    """The first arm's metrics by query."""


def evaluate_image_level(
    config: EvaluateRetrievalConfig, encoder: Encoder, loader: Loader, facts: StudyFacts
) -> tuple[RetrievalResults, np.ndarray]:
    """The model and its baselines on a part of an image-level study, and the rank of each trial's image (Q,)."""
    part = collect(loader)
    stimulus_G = np.unique(part.stimulus_N)
    queries = Queries(
        stimulus_Q=part.stimulus_N,
        concept_Q=part.concept_N,
        subject_Q=part.subject_N,
        stimulus_G=stimulus_G,
        concept_G=loader.index.manifest.tables.concept_of_stimulus()[stimulus_G],
    )
    gallery_GE = loader.gallery[stimulus_G]
    z_QP = embed(loader, encoder.embed_batch, torch.device(config.device), single_trials=config.average == "embedding")
    scores = {"model": cosine_similarity(z_QP, encoder.embed_image(gallery_GE))}
    others, within_trial, notes = _baselines(config, loader, part, gallery_GE)
    scored = score_arms(config, queries, scores | others, one_way=within_trial)
    n_reps = sorted(set(part.n_reps_N.tolist()))
    ceiling = known_ceiling(loader, part.subject_N, n_reps, len(stimulus_G))
    subjects = loader.index.manifest.tables.subjects
    by_subject = {
        subjects[s]: {name: float(scored.model_Q[name][part.subject_N == s].mean()) for name in ("recall@1", "recall@5")}
        for s in np.unique(part.subject_N).tolist()
    }
    found = _results(
        queries,
        scored,
        facts,
        notes=notes,
        ceiling=ceiling,
        by_subject=by_subject,
        repetitions=tuple(n_reps),
        average=config.average,
    )
    return found, scored.model_Q["rank"]


def evaluate_embeddings(
    config: EvaluateRetrievalConfig, pairs: Pairs, path: Path, facts: StudyFacts
) -> tuple[RetrievalResults, np.ndarray]:
    """The model arm alone, from a file of embeddings.

    Raises
    ------
    CommandError
        Rows of one id with different images.
    """
    stimulus_G, first_G, stimulus_Q = np.unique(pairs.ids_Q, return_index=True, return_inverse=True)
    image_GP = pairs.image_QP[first_G]
    differs_Q = np.abs(pairs.image_QP - image_GP[stimulus_Q]).max(axis=1) > 1e-4
    if differs_Q.any():
        row = int(np.flatnonzero(differs_Q)[0])
        raise CommandError(
            f"{path}: rows {int(first_G[stimulus_Q[row]])} and {row} have the id {pairs.ids_Q[row]!r} but other image embeddings"
        )
    concept_Q = np.unique(pairs.concepts_Q, return_inverse=True)[1].reshape(-1)
    queries = Queries(
        stimulus_Q=stimulus_Q.reshape(-1),
        concept_Q=concept_Q,
        subject_Q=np.unique(pairs.subjects_Q, return_inverse=True)[1].reshape(-1),
        stimulus_G=np.arange(len(stimulus_G)),
        concept_G=concept_Q[first_G],
    )
    scored = score_arms(config, queries, {"model": cosine_similarity(pairs.eeg_QP, image_GP)}, one_way=())
    return _results(queries, scored, facts), scored.model_Q["rank"]


def score_arms(config: EvaluateRetrievalConfig, queries: Queries, scores: Mapping[str, np.ndarray], one_way: Collection[str]) -> ScoredArms:
    """Metrics with intervals of every arm, both ways (``one_way``: scores that compare within a query only); the first is the model."""
    relevance_QG = metrics.relevance(queries.stimulus_Q, queries.concept_Q, queries.stimulus_G, queries.concept_G)
    arms: dict[str, RetrievalArm] = {}
    summary: dict[str, dict[str, float | None]] = {}
    differences: dict[str, dict[str, Score]] = {}
    model_Q: dict[str, np.ndarray] = {}
    for name, scores_QG in tracked(scores.items(), "arms scored", len(scores)):
        forward = metrics.retrieval_metrics(scores_QG, relevance_QG)
        backward = None if name in one_way else metrics.retrieval_metrics(scores_QG.T, relevance_QG.T)
        arms[name] = RetrievalArm(
            eeg_to_image=_with_intervals(config, forward, queries.stimulus_Q, queries.subject_Q),
            image_to_eeg=None if backward is None else _with_intervals(config, backward, queries.stimulus_G, None),
            null=_null(config, scores_QG, queries.target_Q),
        )
        summary[name] = {short: arms[name].eeg_to_image[long].value for short, long in SUMMARY.items()}
        if model_Q:
            paired = {metric: model_Q[metric] - forward[metric] for metric in PAIRED}
            differences[name] = {m: _mean(config, v, queries.stimulus_Q, queries.subject_Q) for m, v in paired.items()}
        model_Q = model_Q or forward
    return ScoredArms(arms=arms, summary=summary, model_minus=differences, model_Q=model_Q)


def chance(num_gallery: int) -> dict[str, float | None]:
    """What guessing gives on average."""
    harmonic = float((1 / np.arange(1, num_gallery + 1)).sum())
    return {
        "top1": 1 / num_gallery,
        "top5": min(5, num_gallery) / num_gallery,
        "mrr": harmonic / num_gallery,
        "median_rank": (num_gallery + 1) / 2,
    }


def known_ceiling(loader: Loader, subject_N: np.ndarray, n_reps: list[int], num_gallery: int) -> dict[str, float | None] | None:
    """Bayes-optimal top-1 and top-5 of a simulated study, for this very number of repetitions and gallery; else None."""
    facts = loader.index.manifest.preprocessing.get("ceiling")
    if not facts or facts["gallery"] != num_gallery or len(n_reps) != 1 or loader.part != "test":
        return None
    subjects, tested = loader.index.manifest.tables.subjects, np.unique(subject_N).tolist()
    rows = [
        row
        for subject in tested
        for row in facts["subjects"].get(subjects[subject], {}).get("ceiling", [])
        if row["repetitions"] == n_reps[0]
    ]
    if len(rows) != len(tested):
        return None
    return {name: float(np.mean([row[name] for row in rows])) for name in ("top1", "top5")}


def _baselines(
    config: EvaluateRetrievalConfig, loader: Loader, part: PartArrays, gallery_GE: np.ndarray
) -> tuple[dict[str, np.ndarray], set[str], list[str]]:
    chosen = [baseline for baseline in config.baselines if baseline.candidates == "images"]
    if not chosen:
        return {}, set(), []
    train = Loader(loader.index, loader.config, "train", seed=0)
    nothing = np.empty(0, np.int64)
    trials = Trials(train=collect(train), test=part, train_loader=train, gallery_GE=gallery_GE, concepts_G=nothing)
    return score_baselines(chosen, trials)


def _results(
    queries: Queries,
    scored: ScoredArms,
    facts: StudyFacts,
    *,
    notes: Collection[str] = (),
    ceiling: dict[str, float | None] | None = None,
    by_subject: dict[str, dict[str, float]] | None = None,
    repetitions: tuple[int, ...] | None = None,
    average: str | None = None,
) -> RetrievalResults:
    num_gallery = len(queries.stimulus_G)
    coincide = (COINCIDE,) if len(np.unique(queries.concept_G)) == num_gallery else ()
    return RetrievalResults(
        **vars(facts),
        metric=f"top-1 of {num_gallery}",
        num_queries=len(queries.stimulus_Q),
        num_gallery=num_gallery,
        arms=scored.arms,
        summary=scored.summary | {"chance": chance(num_gallery)} | ({"ceiling": ceiling} if ceiling else {}),
        model_minus=scored.model_minus,
        by_subject=by_subject or {},
        repetitions=repetitions,
        average=average,
        notes=(*METHOD, *coincide, *notes),
    )


def _with_intervals(
    config: EvaluateRetrievalConfig, values: dict[str, np.ndarray], stimulus_Q: np.ndarray, subject_Q: np.ndarray | None
) -> dict[str, Score]:
    found = {"mean_rank" if name == "rank" else name: _mean(config, v, stimulus_Q, subject_Q) for name, v in values.items()}
    return found | {"median_rank": Score(value=float(np.median(values["rank"])))}


def _mean(config: EvaluateRetrievalConfig, values_Q: np.ndarray, stimulus_Q: np.ndarray, subject_Q: np.ndarray | None) -> Score:
    # One seed for every arm and metric: all see the same resamples.
    found = bootstrap_mean(values_Q, stimulus_Q=stimulus_Q, subject_Q=subject_Q, num_resamples=config.num_resamples, seed=config.seed)
    return Score(value=found.value, low=found.low, high=found.high)


def _null(config: EvaluateRetrievalConfig, scores_QG: np.ndarray, target_Q: np.ndarray) -> dict[str, float]:
    rank_QG = rankdata(-scores_QG, axis=1)
    rows = np.arange(len(target_Q))
    found: dict[str, float] = {}
    for k in (1, 5):

        def top(permutation_G: np.ndarray, k: int = k) -> float:
            return float((rank_QG[rows, permutation_G[target_Q]] <= k).mean())

        p, null = permutation_p_value(top, scores_QG.shape[1], num_permutations=config.num_permutations, seed=config.seed)
        found |= {f"p_top{k}": p, f"null_top{k}": float(null.mean())}
    return found
