"""Image-level retrieval: each EEG trial among the images of the part, and each image among the trials.

The gallery is the part's unique stimuli.

Q: queries, G: gallery stimuli, P: dimension of the common space.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import torch

from data_prep.contract.errors import CommandError
from data_prep.contract.row_products import cut_rows
from trainer.artifacts.encoder import Encoder
from trainer.artifacts.guards import check_candidates, part_of
from trainer.artifacts.part import PartArrays, collect, embed
from trainer.data.loader import Loader
from trainer.evaluate.baselines.base import Trials, score_baselines
from trainer.evaluate.embeddings import Pairs
from trainer.evaluate.model_scores import model_scores
from trainer.evaluate.retrieval.arms import Queries, ScoredArms, score_arms
from trainer.evaluate.retrieval.config import EvaluateRetrievalConfig
from trainer.evaluate.retrieval.results import RetrievalResults
from trainer.evaluate.same_rows import ROUNDING
from trainer.evaluate.scores import Products, ProductScores, Scores, cosines
from trainer.evaluate.study_facts import StudyFacts

METHOD = (
    "The gallery is the unique stimuli of the evaluated part; tied candidates take their mean rank.",
    "Intervals (95 %) resample queries with the gallery fixed, and with several subjects also the subjects; they do not "
    "cover another gallery or another training seed.",
    "The null permutes stimuli, the same way for every subject; p = (1 + b) / (1 + m). It tests chance, not leakage.",
)
_ROWS_AT_ONCE = 1024
COINCIDE = "One image a concept: here mAP equals MRR and nDCG@1 equals Recall@1, they are no further evidence."


def evaluate_image_level(
    config: EvaluateRetrievalConfig, encoder: Encoder, loader: Loader, facts: StudyFacts
) -> tuple[RetrievalResults, np.ndarray]:
    """The model and its baselines on a part of an image-level study, and the rank of each trial's image (Q,)."""
    check_candidates(part_of(loader), len(loader.stimuli), "stimuli")
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
    scores = {"model": model_scores(encoder, z_QP, part.subject_N, part.n_reps_N, gallery_GE)}
    others, within_trial, notes = _baselines(config, loader, part, gallery_GE)
    if encoder.export.metric == "likelihood":  # of a trial; what is left out of it differs between trials
        within_trial = {"model", *within_trial}
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
        A single image, or rows of one id with different images or concepts.
    """
    stimulus_G, first_G, stimulus_Q = np.unique(pairs.ids_Q, return_index=True, return_inverse=True)
    stimulus_Q = stimulus_Q.reshape(-1)
    subject_Q = np.unique(pairs.subjects_Q, return_inverse=True)[1].reshape(-1)
    likelihood = pairs.metric == "likelihood"
    groups = [np.flatnonzero(subject_Q == subject) for subject in np.unique(subject_Q)] if likelihood else [np.arange(len(stimulus_Q))]
    parts = [_products_of(pairs, path, stimulus_Q, rows, len(stimulus_G)) for rows in groups]
    check_candidates(str(path), len(stimulus_G), "stimuli")
    concept_Q = np.unique(pairs.concepts_Q, return_inverse=True)[1].reshape(-1)
    if (other_Q := concept_Q != concept_Q[first_G][stimulus_Q]).any():
        one = _rows_of_one_id(pairs, first_G, stimulus_Q, int(other_Q.argmax()))
        raise CommandError(f"{path}: {one} but other concepts, expected one for an image")
    queries = Queries(
        stimulus_Q=stimulus_Q,
        concept_Q=concept_Q,
        subject_Q=subject_Q,
        stimulus_G=np.arange(len(stimulus_G)),
        concept_G=concept_Q[first_G],
    )
    scores = ProductScores(parts, len(stimulus_G))
    scored = score_arms(config, queries, {"model": scores}, one_way={"model"} if likelihood else ())
    rounded = f"{pairs.rounded} image rows differ from others by rounding alone and count as the same image: the file says no ids."
    return _results(queries, scored, facts, notes=[rounded] if pairs.rounded else []), scored.model_Q["rank"]


def _products_of(pairs: Pairs, path: Path, stimulus_Q: np.ndarray, rows: np.ndarray, num_stimuli: int) -> Products:
    """Scores of some queries among the images as these queries' rows have them."""
    shown_G, first_G = np.unique(stimulus_Q[rows], return_index=True)
    if len(shown_G) < num_stimuli:
        raise CommandError(
            f"{path}: {len(shown_G)} of {num_stimuli} images among the rows of subject {pairs.subjects_Q[rows[0]].item()!r}, expected all: "
            "by likelihood a subject's trials are compared with images in its own coordinates"
        )
    image_GP = pairs.image_QP[rows[first_G]]
    if (row := _first_difference(pairs.image_QP[rows], image_GP, stimulus_Q[rows])) is not None:
        raise CommandError(f"{path}: {_rows_of_one_id(pairs, rows[first_G], stimulus_Q, int(rows[row]))} but other image embeddings")
    if pairs.metric == "cosine":
        return cosines(rows, pairs.eeg_QP[rows], image_GP)
    term_G = -0.5 * np.square(image_GP.astype(np.float64)).sum(axis=1)
    return Products(query_q=rows, left=cut_rows(pairs.eeg_QP[rows]), right=lambda some: (cut_rows(image_GP[some]), term_G[some]))


def _rows_of_one_id(pairs: Pairs, first_G: np.ndarray, stimulus_Q: np.ndarray, row: int) -> str:
    return f"rows {int(first_G[stimulus_Q[row]])} and {row} have the id {pairs.ids_Q[row].item()!r}"


def _first_difference(image_QP: np.ndarray, image_GP: np.ndarray, stimulus_Q: np.ndarray) -> int | None:
    """First row whose image is not that of its stimulus, whatever the scale of both; in blocks, as the rows may be many."""
    for start in range(0, len(image_QP), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        of_stimulus = image_GP[stimulus_Q[rows]].astype(np.float64)
        differs = np.linalg.norm(image_QP[rows] - of_stimulus, axis=1) > ROUNDING * np.linalg.norm(of_stimulus, axis=1)
        if differs.any():
            return start + int(np.flatnonzero(differs)[0])
    return None


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
) -> tuple[dict[str, Scores], set[str], list[str]]:
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
