"""A text evaluation in the MLflow runs of its trainings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_prep.contract.progress import tracked
from trainer.artifacts.generations import Generations
from trainer.evaluate.text.report import headline_verdicts
from trainer.evaluate.text.results import TextResults


def track(results: TextResults, generations: Generations, output: Path, *, tracking_uri: str) -> list[str]:
    """Log each training seed's values, captions and the report into its run; returns what could not be logged, in words."""
    from trainer.callbacks.mlflow_evaluation import Evaluation, log_evaluation

    found: list[str] = []
    prefix = f"text/{results.part}" if results.part else "text"
    for s, facts in enumerate(tracked(generations.facts, "training runs logged")):
        evaluation = Evaluation(
            folder=prefix,
            metrics=_values(results, s, prefix),
            tags={"text_verdict": "\n".join(headline_verdicts(results))},
            table=_captions(generations, s),
            files=(output / "text.json", output / "text.html"),
        )
        said = log_evaluation(facts.export, evaluation, tracking_uri=tracking_uri)
        if said and said not in found:
            found.append(said)
    return found


def _values(results: TextResults, seed: int, prefix: str) -> dict[str, float]:
    by_name = {f"{arm}/{name}": score for arm, row in results.arms.items() for name, score in row.scores.items()}
    by_name |= {
        f"{arm}_minus_{other}/{name}": score
        for arm, others in results.differences.items()
        for other, scores in others.items()
        for name, score in scores.items()
    }
    found = {f"{prefix}/{name}": score.by_seed[seed] for name, score in by_name.items()}
    return {name: value for name, value in found.items() if value is not None}


def _captions(generations: Generations, seed: int) -> dict[str, list[Any]]:
    records = [record for (own, _, _), record in generations.records.items() if own == seed]
    names = ("arm", "item", "subject", "stimulus", "generated", "concept_true", "concept_predicted")
    table: dict[str, list[Any]] = {name: [getattr(record, name) for record in records] for name in names}
    return table | {"expected": ["\n".join(record.expected) for record in records]}
