"""``python -m trainer evaluate-classes``: how well an encoder names the concept that was shown, beside a closed-form baseline.

The candidates are the concepts that the encoder was trained on: a closed set. So this is the report of a split such as
``closed-set`` (new images of known concepts); an encoder cannot name a concept it was never taught, and trials of such
concepts are counted and left out. For concepts never trained on, see ``evaluate-retrieval``.

Q: trials (repetitions of a stimulus and subject averaged), K: candidate concepts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console

from data_prep.contract.cli import to_plain
from data_prep.contract.errors import CommandError
from trainer import metrics
from trainer.artifacts.concept_scores import score_concepts, trained_concepts
from trainer.artifacts.encoder import load_encoder
from trainer.artifacts.part import PartArrays, collect, open_part
from trainer.data.loader import Loader
from trainer.evaluate import baselines
from trainer.evaluate.classes import report as concept_report
from trainer.evaluate.intervals import Interval, bootstrap_class_mean, bootstrap_mean
from trainer.evaluate.retrieval.command import study_facts

METHOD = (
    "Candidates are the concepts that the encoder was trained on; tied candidates take their mean rank.",
    "Balanced accuracy is the mean over the shown concepts of the share of their trials that are named rightly.",
    "Precision: of the trials named so, how many were it; recall: of its trials, how many were named so; F1: their harmonic mean.",
)


@dataclass(frozen=True, kw_only=True)
class EvaluateClassesConfig:
    """Which encoder names the concepts of which trials, and where the report goes. All trials of the part are scored."""

    export: str
    """Folder of an exported encoder; with a concept head (``loss.cross_entropy_weight``) the head names the concept, otherwise
    the concept whose mean training image is nearest."""
    output: str
    """Folder for ``classes.json`` and ``classes.html``."""
    study: str | None = None
    """Study folder; null: the one the encoder was trained on."""
    split: str | None = None
    """Split; null: the one the encoder was trained on."""
    part: Literal["train", "validation", "test"] = "test"
    """Part of the split to score."""
    baselines: bool = True
    """Fit ridge regression from EEG to the concepts on the split's training trials and score it on the same trials."""
    num_resamples: int = 2000
    """Bootstrap resamples behind each interval."""
    seed: int = 0
    """Seed of the resampling."""
    device: str = "cpu"
    """Where the encoder computes."""

    def __post_init__(self) -> None:
        if self.num_resamples < 1:
            raise ValueError(f"num_resamples: {self.num_resamples}, expected at least 1")


def run(config: EvaluateClassesConfig) -> None:
    """Score, print the table, write JSON and HTML."""
    results = evaluate_classes(config)
    concept_report.write(Path(config.output), results)
    concept_report.print_results(results)


def evaluate_classes(config: EvaluateClassesConfig) -> dict[str, Any]:
    """All that the report says; see :mod:`trainer.evaluate.classes.report`.

    Raises
    ------
    CommandError, StudyError
        The study does not fit the encoder, or shows no concept that it was trained on.
    """
    encoder = load_encoder(config.export, config.device)
    loader = open_part(encoder, config.study, config.split, config.part)
    train = Loader(loader.index, loader.config, "train", seed=0)
    concepts_K = trained_concepts(encoder, train)
    whole = collect(loader)
    known_N = np.isin(whole.concept_N, concepts_K)
    shown, new = np.unique(whole.concept_N), np.setdiff1d(whole.concept_N, concepts_K)
    names = loader.index.manifest.tables.concepts
    if not known_N.any():
        raise CommandError(
            f"{loader.index.root}: none of the {len(shown)} concepts of part {config.part!r} of split {loader.config.split!r} was trained "
            f"(first {names[int(shown[0])]!r}): expected trained concepts, as a closed-set split has, or use evaluate-retrieval"
        )
    part = whole.where(known_N)
    scores_NK, how = score_concepts(encoder, loader, concepts_K, train)
    scores = {"model": scores_NK[known_N]}
    if config.baselines:
        with Console(stderr=True).status("fitting ridge regression"):
            scores["ridge"] = baselines.ridge_concept_scores(collect(train), part, concepts_K)
    class_level = loader.index.manifest.class_level
    results = _score_arms(config, part, concepts_K, scores, by_stimulus=not class_level)
    results["notes"] = [f"The model names a trial's concept by its {how}.", *METHOD, _interval_note(class_level)]
    if len(new):
        results["notes"].append(
            f"{len(new)} of {len(shown)} concepts of this part were never trained (first {names[int(new[0])]!r}): their "
            f"{int((~known_N).sum())} of {len(known_N)} trials cannot be named and are left out; counted as wrong they would give top-1 "
            f"{results['arms']['model']['top1']['value'] * known_N.mean():.3f}."
        )
    predicted_Q = concepts_K[scores["model"].argmax(axis=1)]
    results["by_subject"] = _by_subject(part, predicted_Q, loader.index.manifest.tables.subjects)
    results["summary"]["majority"] = _majority(part, train)
    results |= {"per_class": _per_class(part.concept_N, predicted_Q, names), "confusion": _confusion(part.concept_N, predicted_Q, names)}
    results |= {"never_trained": [names[c] for c in new.tolist()], "trials_left_out": int((~known_N).sum()), "named_by": how}
    return (
        results | study_facts(encoder, loader) | {"format_version": 1, "kind": "concepts", "part": config.part, "config": to_plain(config)}
    )


def _score_arms(
    config: EvaluateClassesConfig, part: PartArrays, concepts_K: np.ndarray, scores: dict[str, np.ndarray], *, by_stimulus: bool
) -> dict[str, Any]:
    together = {"stimulus_Q": part.stimulus_N if by_stimulus else None, "subject_Q": part.subject_N if by_stimulus else None}
    options: dict[str, Any] = together | {"num_resamples": config.num_resamples, "seed": config.seed}
    arms: dict[str, Any] = {}
    summary: dict[str, dict[str, float]] = {}
    hits: dict[str, np.ndarray] = {}
    for name, scores_QK in scores.items():
        ranks_Q = metrics.retrieval_ranks(scores_QK, part.concept_N[:, None] == concepts_K)
        hits[name] = concepts_K[scores_QK.argmax(axis=1)] == part.concept_N
        found = {
            "top1": bootstrap_mean(metrics.recall_at(ranks_Q, 1), **options),
            "top5": bootstrap_mean(metrics.recall_at(ranks_Q, 5), **options),
            "balanced_accuracy": bootstrap_class_mean(hits[name], part.concept_N, **options),
        }
        arms[name] = {metric: _cell(interval) for metric, interval in found.items()}
        summary[name] = {metric: interval.value for metric, interval in found.items()}
    chance = 1 / len(concepts_K)
    summary["chance"] = {"top1": chance, "top5": min(5, len(concepts_K)) * chance, "balanced_accuracy": chance}
    minus = {
        name: {"top1": _cell(bootstrap_mean(hits["model"].astype(float) - hit_Q, **options))}
        for name, hit_Q in hits.items()
        if name != "model"
    }
    counts = {"num_trials": len(part), "num_candidates": len(concepts_K), "num_shown": len(np.unique(part.concept_N))}
    return {"arms": arms, "summary": summary, "model_minus": minus, **counts}


def _majority(part: PartArrays, train: Loader) -> dict[str, float]:
    """Always naming the concept that is most frequent among the training samples."""
    concept_N = train.index.samples["concept"][[s for host in train.sequential(4096) for s in host.sample_B.tolist()]]
    hit_Q = part.concept_N == int(np.bincount(concept_N).argmax())
    return {
        "top1": float(hit_Q.mean()),
        "balanced_accuracy": metrics.balanced_accuracy(np.where(hit_Q, part.concept_N, -1), part.concept_N),
    }


def _per_class(true_Q: np.ndarray, predicted_Q: np.ndarray, names: list[str]) -> list[dict[str, Any]]:
    rows = []
    for concept in np.unique(true_Q).tolist():
        right = int(((true_Q == concept) & (predicted_Q == concept)).sum())
        support, named = int((true_Q == concept).sum()), int((predicted_Q == concept).sum())
        precision, recall = right / named if named else 0.0, right / support
        f1 = 2 * right / (support + named)
        rows.append({"concept": names[concept], "precision": precision, "recall": recall, "f1": f1, "support": support, "named": named})
    return rows


def _confusion(true_Q: np.ndarray, predicted_Q: np.ndarray, names: list[str]) -> list[dict[str, Any]]:
    pairs, counts = np.unique(np.stack([true_Q, predicted_Q], axis=1), axis=0, return_counts=True)
    return [{"true": names[t], "named": names[p], "trials": int(n)} for (t, p), n in zip(pairs.tolist(), counts, strict=True)]


def _by_subject(part: PartArrays, predicted_Q: np.ndarray, labels: list[str]) -> dict[str, dict[str, float]]:
    found = {}
    for subject in np.unique(part.subject_N).tolist():
        true, named = part.concept_N[part.subject_N == subject], predicted_Q[part.subject_N == subject]
        found[labels[subject]] = {"top1": float((true == named).mean()), "balanced_accuracy": metrics.balanced_accuracy(named, true)}
    return found


def _interval_note(class_level: bool) -> str:
    drawn = "trials" if class_level else "stimuli, and with several subjects also the subjects"
    return f"Intervals (95 %) resample {drawn}; they do not cover other concepts or another training seed."


def _cell(interval: Interval) -> dict[str, float]:
    return {"value": interval.value, "low": interval.low, "high": interval.high}
