"""The results of a text evaluation, and the notes without which they would be misread."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_prep.contract.cli import to_plain
from trainer.artifacts.generations import Generations
from trainer.artifacts.seen import trained_not_known
from trainer.evaluate.study_facts import with_simulated
from trainer.evaluate.text import comparison
from trainer.evaluate.text.config import EvaluateTextConfig
from trainer.evaluate.text.metrics import Metric, distinct_share
from trainer.evaluate.text.results import MetricFacts, Share, TextArm, TextResults
from trainer.evaluate.text.verdicts import lacks_word_control, missing_controls, verdicts


def summarise(
    config: EvaluateTextConfig,
    generations: Generations,
    compared: comparison.Comparison,
    metrics: Sequence[Metric],
    notes: Sequence[str],
) -> TextResults:
    """Everything in ``text.json``; ``notes`` are further ones, of scoring."""
    shared = generations.shared
    images = {"train": "training images", "validation": "validation images"}.get(str(shared.part), "images")
    return TextResults(
        study=Path(shared.study or "").name,
        simulated=generations.simulated,
        split=shared.split,
        part=shared.part,
        fingerprint=shared.fingerprint,
        candidates=shared.candidates,
        generations=tuple(str(folder) for folder in generations.folders),
        num_seeds=len(generations.folders),
        num_items=len(generations.items),
        num_images=generations.num_images,
        num_subjects=len(np.unique(generations.subject_Q)),
        metrics={m.name: MetricFacts(title=m.title, how=m.how, compared=m.compared) for m in metrics},
        arms={arm: _arm(generations, arm, found) for arm, found in compared.arms.items()},
        differences={
            arm: {other: {name: e.difference() for name, e in found.items()} for other, found in others.items()}
            for arm, others in compared.differences.items()
        },
        controls_minus_prior={arm: {name: e.score() for name, e in found.items()} for arm, found in compared.controls.items()},
        share_of_image={arm: {name: e.score() for name, e in found.items()} for arm, found in compared.shares.items()},
        missing_controls=tuple(missing_controls(generations.arms)),
        verdicts=tuple(verdicts(compared, metrics, simulated=bool(generations.simulated), images=images, with_words=shared.with_words)),
        notes=(*_method_notes(config, generations), *_arm_notes(generations, compared), *_generate_notes(generations), *notes),
        config=to_plain(config),
        unit=shared.unit,
        trained_trials=generations.trained_trials,
        trained_not_known=_not_known(generations),
    )


def _arm(generations: Generations, arm: str, found: dict[str, comparison.Estimate]) -> TextArm:
    by_seed = [
        [record.generated for (s, a, _), record in generations.records.items() if (s, a) == (seed, arm)]
        for seed in range(len(generations.folders))
    ]
    return TextArm(
        scores={name: estimate.score() for name, estimate in found.items()},
        distinct=Share(value=float(np.mean([distinct_share(texts) for texts in by_seed]))),
        num_items=int(generations.present(arm).sum()),
    )


def _method_notes(config: EvaluateTextConfig, generations: Generations) -> list[str]:
    seeds = len(generations.folders)
    drawn = "images and subjects" if len(np.unique(generations.subject_Q)) > 1 else "images"
    several = f"Values are averaged over {seeds} training seeds, image by image; text.json has each seed's and their spread."
    one = "One training seed: nothing here says how much another training would differ; three are the least to tell."
    said = [
        f"± is the standard error over {config.resamples} bootstrap resamples of {drawn}, the same for all arms; intervals are the 95 % "
        "percentiles. They are not corrected for the number of comparisons.",
        "Corpus scores (BLEU, chrF) are recomputed in each resample from matches, totals and lengths. All metrics go from 0 to 1 "
        "except words and the judge's grade.",
        several if seeds > 1 else one,
        "Every captioned item counts; none is dropped for being wrong.",
        *_part_note(generations.shared.part),
        *([trained_not_known("the text model", _not_known(generations))] if generations.trained_trials is None else []),
    ]
    return with_simulated(generations.simulated, said)


def _not_known(generations: Generations) -> tuple[str, ...]:
    return tuple(dict.fromkeys(reason for facts in generations.facts for reason in facts.trained_not_known))


def _arm_notes(generations: Generations, compared: comparison.Comparison) -> list[str]:
    found = []
    if any(lacks_word_control(arm, generations.arms) for arm in generations.arms):
        found.append("No verdict on eeg+concept: its control noise+word is missing, and a word helps whatever it comes with.")
    if comparison.UPPER in generations.arms and not reads_images(generations):
        found.append("No share of the image arm's distance: the model was never trained on images, so that arm is no upper bound.")
    if generations.shared.candidates == "part":
        found.append(
            "Concepts were predicted among those of the evaluated part alone (candidates: part), a closed gallery that a user has not."
        )
    for a, others in compared.num_items.items():
        for b, count in others.items():
            if count < len(generations.items):
                found.append(f"{a} and {b} are compared on the {count} items that both captioned.")
    return found


def _generate_notes(generations: Generations) -> list[str]:
    said = [note for facts in generations.facts for note in facts.notes]
    return [*_left_out(generations), *dict.fromkeys(said)]


def reads_images(generations: Generations) -> bool:
    """Whether the models were trained on images, too, so that the image arm is an upper bound; True where nothing is known."""
    return all("image" in facts.trained_on for facts in generations.facts if facts.trained_on)


def _part_note(part: str | None) -> list[str]:
    if part == "train":
        return [
            "These are trials that the model was trained on: the scores say how well it learnt them by heart, nothing about new images."
        ]
    if part == "validation":
        return ["Which step's weights are kept was decided on this part: its scores flatter a little, and are for development only."]
    return []


def _left_out(generations: Generations) -> list[str]:
    said = [f"Left out by generate: {arm}: {why}" for facts in generations.facts for arm, why in facts.left_out.items()]
    return list(dict.fromkeys(said))
