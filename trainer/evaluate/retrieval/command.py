"""``python -m trainer evaluate-retrieval``: an encoder on held-out trials, beside the baselines that could embarrass it.

From an export and a study, or from a file of embeddings, to one table::

    encoder, ridge, encoding model -> scores (queries, gallery) -> metrics a query -> means, intervals, null
    chance by arithmetic, the ceiling where the study is simulated

The gallery is the part's unique stimuli. A class-level study knows no image of a trial: it is scored as classification
(AUC, balanced accuracy) and never as retrieval; see :mod:`trainer.evaluate.retrieval.class_level`.

Q: queries, G: gallery stimuli, P: dimension of the common space.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from scipy.stats import rankdata

from data_prep.contract.cli import to_plain
from data_prep.contract.errors import CommandError
from data_prep.contract.files import read_json
from trainer import metrics
from trainer.artifacts.encoder import Encoder, load_encoder
from trainer.artifacts.part import collect, embed, open_part
from trainer.data.loader import Loader
from trainer.evaluate import baselines
from trainer.evaluate import page as report
from trainer.evaluate.embeddings import read_embeddings
from trainer.evaluate.intervals import bootstrap_mean, permutation_p_value
from trainer.evaluate.retrieval.class_level import evaluate_class_level
from trainer.evaluate.retrieval.config import EvaluateRetrievalConfig

SUMMARY = {"top1": "recall@1", "top5": "recall@5", "mrr": "mrr", "median_rank": "median_rank"}
METHOD = (
    "The gallery is the unique stimuli of the evaluated part; tied candidates take their mean rank.",
    "Intervals (95 %) resample queries with the gallery fixed, and with several subjects also the subjects; they do not "
    "cover another gallery or another training seed.",
    "The null permutes stimuli, the same way for every subject; p = (1 + b) / (1 + m). It tests chance, not leakage.",
)


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


def run(config: EvaluateRetrievalConfig) -> None:
    """Score, print the table, write JSON and HTML."""
    if config.embeds:
        results = evaluate_embeddings(config, Path(config.embeds))
    else:
        encoder = load_encoder(str(config.export), config.device)
        loader = open_part(encoder, config.study, config.split, config.part)
        if config.expect_sfreq is not None and abs(config.expect_sfreq - loader.sfreq) > 1e-6 * loader.sfreq:
            raise CommandError(f"expect_sfreq: {config.expect_sfreq:g} Hz, but {loader.index.root} is sampled at {loader.sfreq:g} Hz")
        train = Loader(loader.index, loader.config, "train", seed=0) if config.baselines else None
        class_level = loader.index.manifest.class_level
        results = (evaluate_class_level if class_level else evaluate_retrieval)(config, encoder, loader, train)
        results |= study_facts(encoder, loader)
    results |= {"format_version": 1, "part": config.part, "config": to_plain(config)}
    report.write(Path(config.output), results)
    report.print_results(results)


# --------------------------------------------------------------------------------------------------------- retrieval


def evaluate_retrieval(config: EvaluateRetrievalConfig, encoder: Encoder, loader: Loader, train: Loader | None) -> dict[str, Any]:
    """Arms of an image-level study."""
    part = collect(loader)
    stimulus_G = np.unique(part.stimulus_N)
    concept_of = dict(zip(part.stimulus_N.tolist(), part.concept_N.tolist(), strict=True))
    queries = Queries(
        stimulus_Q=part.stimulus_N,
        concept_Q=part.concept_N,
        subject_Q=part.subject_N,
        stimulus_G=stimulus_G,
        concept_G=np.array([concept_of[s] for s in stimulus_G.tolist()]),
    )
    gallery_GE = loader.gallery[stimulus_G]
    z_QP = embed(loader, encoder.embed_batch, torch.device(config.device), single_trials=config.average == "embedding")
    scores = {"model": metrics.cosine_similarity(z_QP, encoder.embed_image(gallery_GE))}
    if train is not None:
        fitted = collect(train)
        with Console(stderr=True).status("fitting ridge regression"):
            scores |= baselines.ridge_scores(fitted, part, gallery_GE)
        with Console(stderr=True).status("fitting the encoding model"):
            scores["encoding model"] = baselines.encoding_scores(fitted, train, part, gallery_GE)
    results = score_arms(config, queries, scores, one_way={"encoding model"})
    n_reps = sorted(set(part.n_reps_N.tolist()))
    ceiling = known_ceiling(loader, part.subject_N, n_reps, len(stimulus_G))
    if ceiling is not None:
        results["summary"]["ceiling"] = ceiling
    tables = loader.index.manifest.tables
    results["by_subject"] = {
        tables.subjects[s]: {name: results["per_query"][name][part.subject_N == s].mean() for name in ("recall@1", "recall@5")}
        for s in np.unique(part.subject_N).tolist()
    }
    results["repetitions"] = n_reps
    results["average"] = config.average
    return results


def evaluate_embeddings(config: EvaluateRetrievalConfig, path: Path) -> dict[str, Any]:
    """The model arm alone, from a file of embeddings."""
    pairs = read_embeddings(path)
    stimulus_G, first_G, stimulus_Q = np.unique(pairs.ids_Q, return_index=True, return_inverse=True)
    image_GP = pairs.image_QP[first_G]
    differs_Q = np.abs(pairs.image_QP - image_GP[stimulus_Q]).max(axis=1) > 1e-4
    if differs_Q.any():
        row = int(np.flatnonzero(differs_Q)[0])
        raise CommandError(
            f"{path}: rows {int(first_G[stimulus_Q[row]])} and {row} have the id {pairs.ids_Q[row]!r} but other image embeddings"
        )
    concept_Q = np.unique(pairs.concepts_Q, return_inverse=True)[1]
    subject_Q = np.unique(pairs.subjects_Q, return_inverse=True)[1]
    queries = Queries(
        stimulus_Q=stimulus_Q.reshape(-1),
        concept_Q=concept_Q.reshape(-1),
        subject_Q=subject_Q.reshape(-1),
        stimulus_G=np.arange(len(stimulus_G)),
        concept_G=concept_Q.reshape(-1)[first_G],
    )
    results = score_arms(config, queries, {"model": metrics.cosine_similarity(pairs.eeg_QP, image_GP)}, one_way=set())
    return results | {"study": str(path), "simulated": False, "by_subject": {}}


def score_arms(config: EvaluateRetrievalConfig, queries: Queries, scores: dict[str, np.ndarray], one_way: set[str]) -> dict[str, Any]:
    """Metrics with intervals of every arm, both ways (``one_way``: scores that compare within a query only)."""
    relevance_QG = metrics.relevance(queries.stimulus_Q, queries.concept_Q, queries.stimulus_G, queries.concept_G)
    arms: dict[str, Any] = {}
    summary: dict[str, dict[str, float]] = {}
    per_query: dict[str, np.ndarray] = {}
    differences: dict[str, Any] = {}
    for name, scores_QG in scores.items():
        forward = metrics.retrieval_metrics(scores_QG, relevance_QG)
        arms[name] = {"eeg_to_image": _with_intervals(config, forward, queries.stimulus_Q, queries.subject_Q)}
        if name not in one_way:
            backward = metrics.retrieval_metrics(scores_QG.T, relevance_QG.T)
            arms[name]["image_to_eeg"] = _with_intervals(config, backward, queries.stimulus_G, None)
        arms[name]["null"] = _null(config, scores_QG, queries.target_Q)
        values = arms[name]["eeg_to_image"]
        summary[name] = {short: values[long]["value"] for short, long in SUMMARY.items()}
        if per_query:
            paired = {metric: per_query[metric] - forward[metric] for metric in ("recall@1", "recall@5", "mrr")}
            differences[name] = {m: _mean(config, v, queries.stimulus_Q, queries.subject_Q) for m, v in paired.items()}
        per_query = per_query or forward
    summary["chance"] = chance(len(queries.stimulus_G))
    notes = list(METHOD)
    if len(np.unique(queries.concept_G)) == len(queries.concept_G):
        notes.append("One image a concept: here mAP equals MRR and nDCG@1 equals Recall@1, they are no further evidence.")
    return {
        "kind": "retrieval",
        "metric": "top-1 of " + str(len(queries.stimulus_G)),
        "num_queries": len(queries.stimulus_Q),
        "num_gallery": len(queries.stimulus_G),
        "arms": arms,
        "summary": summary,
        "model_minus": differences,
        "per_query": per_query,
        "notes": notes,
    }


def chance(num_gallery: int) -> dict[str, float]:
    """What guessing gives on average."""
    harmonic = float((1 / np.arange(1, num_gallery + 1)).sum())
    return {
        "top1": 1 / num_gallery,
        "top5": min(5, num_gallery) / num_gallery,
        "mrr": harmonic / num_gallery,
        "median_rank": (num_gallery + 1) / 2,
    }


def known_ceiling(loader: Loader, subject_N: np.ndarray, n_reps: list[int], num_gallery: int) -> dict[str, float] | None:
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


def study_facts(encoder: Encoder, loader: Loader) -> dict[str, Any]:
    """Where the trials come from."""
    manifest = loader.index.manifest
    audit = loader.index.root / "splits" / f"{loader.config.split}.audit.json"
    return {
        "study": loader.index.root.name,
        "simulated": manifest.simulated,
        "fingerprint": manifest.fingerprint,
        "split": loader.config.split,
        "split_hash": loader.split_hash,
        "trained_on_split": encoder.config.get("split_hash") == loader.split_hash,
        "embedding": manifest.embedding(loader.config.embedding).model,
        "step": encoder.config.get("step"),
        "git_revision": encoder.config.get("git_revision"),
        "audit": read_json(audit).get("verdict") if audit.is_file() else None,
    }


def _with_intervals(
    config: EvaluateRetrievalConfig, values: dict[str, np.ndarray], stimulus_Q: np.ndarray, subject_Q: np.ndarray | None
) -> dict[str, dict[str, float]]:
    found = {"mean_rank" if name == "rank" else name: _mean(config, v, stimulus_Q, subject_Q) for name, v in values.items()}
    return found | {"median_rank": {"value": float(np.median(values["rank"]))}}


def _mean(config: EvaluateRetrievalConfig, values_Q: np.ndarray, stimulus_Q: np.ndarray, subject_Q: np.ndarray | None) -> dict[str, float]:
    # One seed for every arm and metric: all see the same resamples.
    found = bootstrap_mean(values_Q, stimulus_Q=stimulus_Q, subject_Q=subject_Q, num_resamples=config.num_resamples, seed=config.seed)
    return {"value": found.value, "low": found.low, "high": found.high}


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
