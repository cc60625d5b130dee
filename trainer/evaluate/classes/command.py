"""``python -m trainer evaluate-classes``: how well an encoder names the concept that was shown, beside closed-form baselines.

The candidates are the concepts that the encoder was trained on: a closed set. So this is the report of a split such as
``closed-set`` (new images of known concepts); an encoder cannot name a concept it was never taught, and trials of such
concepts are counted and left out. For concepts never trained on, see ``evaluate-retrieval``.

Q: trials (repetitions of a stimulus and subject averaged), N: those of them that can be named, K: candidate concepts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.contract.cli import to_plain
from data_prep.contract.errors import CommandError
from data_prep.contract.progress import tracked
from data_prep.contract.ranking import retrieval_ranks
from trainer import metrics
from trainer.artifacts.concept_scores import score_concepts, trained_concepts
from trainer.artifacts.encoder import load_network
from trainer.artifacts.guards import check_candidates
from trainer.artifacts.part import PartArrays, collect, open_part
from trainer.data.loader import Loader
from trainer.evaluate.baselines.base import Trials, score_baselines
from trainer.evaluate.classes import report
from trainer.evaluate.classes.config import EvaluateClassesConfig
from trainer.evaluate.classes.results import ClassesResults, ConceptRow, ConfusionCell
from trainer.evaluate.intervals import Interval, bootstrap_class_means, bootstrap_means
from trainer.evaluate.provenance import study_facts
from trainer.evaluate.results import Score, check_output, write_report
from trainer.evaluate.tracking import track

METHOD = (
    "Candidates are the concepts that the encoder was trained on; tied candidates take their mean rank.",
    "Balanced accuracy is the mean over the shown concepts of the share of their trials that are named rightly.",
    "Precision: of the trials named so, how many were it; recall: of its trials, how many were named so; F1: their harmonic mean.",
)


def run(config: EvaluateClassesConfig) -> None:
    """Score, print the table, write JSON and HTML."""
    check_output(Path(config.output))
    found = write_report(Path(config.output), "classes", evaluate(config), report.page)
    if config.mlflow:
        said = track(found, "classes", config.export, Path(config.output), tracking_uri=config.tracking_uri)
        found = replace(found, notes=(*found.notes, *said))
    report.print_results(found)


def evaluate(config: EvaluateClassesConfig) -> ClassesResults:
    """Everything in ``classes.json``.

    Raises
    ------
    CommandError, StudyError
        The study does not fit the encoder, or shows no concept that it was trained on.
    """
    encoder = load_network(config.export, config.device)
    loader = open_part(encoder, config.study, config.split, config.part)
    train = Loader(loader.index, loader.config, "train", seed=0)
    tables, class_level = loader.index.manifest.tables, loader.index.manifest.class_level
    concepts_K = trained_concepts(encoder, train)
    _check_nameable(loader, concepts_K)
    check_candidates(config.export, len(concepts_K), "trained concepts")
    whole = collect(loader)
    known_Q = np.isin(whole.concept_N, concepts_K)
    part = whole.where(known_Q)
    scores_QK, how = score_concepts(encoder, loader, concepts_K, train)
    scores: dict[str, np.ndarray] = {"model": scores_QK[known_Q]}
    notes: list[str] = []
    if config.baselines:
        trials = Trials(train=collect(train), test=part, train_loader=train, gallery_GE=loader.gallery[:0], concepts_G=concepts_K)
        others, _, notes = score_baselines(config.baselines, trials)
        scores |= {name: found.whole() for name, found in others.items()}
    arms, model_minus = _score_arms(config, part, concepts_K, scores, by_stimulus=not class_level)
    predicted_N = concepts_K[scores["model"].argmax(axis=1)]
    chance = 1 / len(concepts_K)
    fixed: dict[str, float | None] = {"top1": chance, "top5": min(5, len(concepts_K)) * chance, "balanced_accuracy": chance}
    summary: dict[str, dict[str, float | None]] = {
        name: {metric: score.value for metric, score in found.items()} for name, found in arms.items()
    }
    new = np.setdiff1d(whole.concept_N, concepts_K)
    left_out = [] if not len(new) else [_left_out(whole, known_Q, [tables.concepts[c] for c in new.tolist()], arms["model"]["top1"])]
    return ClassesResults(
        **vars(study_facts(encoder, loader, export=Path(config.export), config=to_plain(config))),
        num_trials=len(part),
        num_candidates=len(concepts_K),
        num_shown=len(np.unique(part.concept_N)),
        arms=arms,
        summary=summary | {"chance": fixed, "majority": _majority(part, train)},
        model_minus=model_minus,
        by_subject={name: _by_subject(part, predicted_N, s) for s, name in enumerate(tables.subjects) if (part.subject_N == s).any()},
        per_class=per_class(part.concept_N, predicted_N, tables.concepts),
        confusion=confusion(part.concept_N, predicted_N, tables.concepts),
        never_trained=tuple(tables.concepts[c] for c in new.tolist()),
        trials_left_out=int((~known_Q).sum()),
        named_by=how,
        notes=(f"The model names a trial's concept by its {how}.", *METHOD, _interval_note(class_level), *notes, *left_out),
    )


def _check_nameable(loader: Loader, concepts_K: np.ndarray) -> None:
    shown = loader.concepts
    if not np.isin(shown, concepts_K).any():
        first = loader.index.manifest.tables.concepts[int(shown[0])]
        raise CommandError(
            f"{loader.index.root}: none of the {len(shown)} concepts of part {loader.part!r} of split {loader.config.split!r} was trained "
            f"(first {first!r}): expected trained concepts, as a closed-set split has, or use evaluate-retrieval"
        )


def _left_out(whole: PartArrays, known_Q: np.ndarray, new: list[str], top1: Score) -> str:
    counted_wrong = (top1.value or 0.0) * known_Q.mean()
    return (
        f"{len(new)} of {len(np.unique(whole.concept_N))} concepts of this part were never trained (first {new[0]!r}): their "
        f"{int((~known_Q).sum())} of {len(known_Q)} trials cannot be named and are left out; counted as wrong they would give top-1 "
        f"{counted_wrong:.3f}."
    )


def _score_arms(
    config: EvaluateClassesConfig, part: PartArrays, concepts_K: np.ndarray, scores: Mapping[str, np.ndarray], *, by_stimulus: bool
) -> tuple[dict[str, dict[str, Score]], dict[str, dict[str, Score]]]:
    """Scores of every arm, and the model's top-1 minus every other arm's, paired by trial."""
    together = {"stimulus_Q": part.stimulus_N if by_stimulus else None, "subject_Q": part.subject_N if by_stimulus else None}
    options: dict[str, Any] = together | {"num_resamples": config.num_resamples, "seed": config.seed}
    tops: dict[tuple[str, str], np.ndarray] = {}
    hits: dict[str, np.ndarray] = {}
    for name, scores_NK in tracked(scores.items(), "arms scored", len(scores)):
        ranks_N = retrieval_ranks(scores_NK, part.concept_N[:, None] == concepts_K)
        tops |= {(name, f"top{k}"): metrics.recall_at(ranks_N, k) for k in (1, 5)}
        hits[name] = (concepts_K[scores_NK.argmax(axis=1)] == part.concept_N).astype(np.float64)
    differences = {name: hits["model"] - hit_N for name, hit_N in hits.items() if name != "model"}
    means = bootstrap_means(tops | {(name, "minus"): minus_N for name, minus_N in differences.items()}, **options)
    balanced = bootstrap_class_means(hits, part.concept_N, **options)
    arms = {
        name: {
            "top1": _score(means[name, "top1"]),
            "top5": _score(means[name, "top5"]),
            "balanced_accuracy": _score(balanced[name]),
        }
        for name in scores
    }
    return arms, {name: {"top1": _score(means[name, "minus"])} for name in differences}


def _majority(part: PartArrays, train: Loader) -> dict[str, float | None]:
    """Always naming the concept that is most frequent among the training samples."""
    concept_N = train.index.samples["concept"][[s for host in train.sequential(4096) for s in host.sample_B.tolist()]]
    hit_N = part.concept_N == int(np.bincount(concept_N).argmax())
    return {
        "top1": float(hit_N.mean()),
        "balanced_accuracy": metrics.balanced_accuracy(np.where(hit_N, part.concept_N, -1), part.concept_N),
    }


def per_class(true_N: np.ndarray, predicted_N: np.ndarray, names: list[str]) -> tuple[ConceptRow, ...]:
    """Precision, recall and F1 of every shown concept, in the order of the study's table; a concept that is never named has 0."""
    from sklearn.metrics import precision_recall_fscore_support

    shown = np.unique(true_N)
    precision, recall, f1, support = precision_recall_fscore_support(true_N, predicted_N, labels=shown, zero_division=0.0)
    return tuple(
        ConceptRow(
            concept=names[concept],
            precision=float(precision[k]),
            recall=float(recall[k]),
            f1=float(f1[k]),
            support=int(support[k]),
            named=int((predicted_N == concept).sum()),
        )
        for k, concept in enumerate(shown.tolist())
    )


def confusion(true_N: np.ndarray, predicted_N: np.ndarray, names: list[str]) -> tuple[ConfusionCell, ...]:
    """Pairs of shown and named concept that occur, in the order of the study's table."""
    from sklearn.metrics import confusion_matrix

    labels = np.union1d(true_N, predicted_N)
    counts_KK = confusion_matrix(true_N, predicted_N, labels=labels)
    return tuple(
        ConfusionCell(true=names[labels[t]], named=names[labels[p]], trials=int(counts_KK[t, p]))
        for t, p in np.argwhere(counts_KK).tolist()
    )


def _by_subject(part: PartArrays, predicted_N: np.ndarray, subject: int) -> dict[str, float]:
    true, named = part.concept_N[part.subject_N == subject], predicted_N[part.subject_N == subject]
    return {"top1": float((true == named).mean()), "balanced_accuracy": metrics.balanced_accuracy(named, true)}


def _interval_note(class_level: bool) -> str:
    drawn = "trials" if class_level else "stimuli, and with several subjects also the subjects"
    return f"Intervals (95 %) resample {drawn}; they do not cover other concepts or another training seed."


def _score(found: Interval) -> Score:
    return Score(value=found.value, low=found.low, high=found.high)
