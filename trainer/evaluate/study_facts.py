"""What a report says of the trials that were scored: where they come from, and how far a score on them can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trainer.evaluate.page import SIMULATED


@dataclass(frozen=True, kw_only=True)
class Validation:
    """The score in training by which the encoder's step was chosen."""

    name: str
    score: float
    step: int
    num_queries: int
    num_stimuli: int
    """Distinct stimuli of the validation part, among which its trials were ranked."""


@dataclass(frozen=True, kw_only=True)
class StudyFacts:
    """Where the trials come from; all but ``study``, ``simulated`` and ``part`` are unknown for a file of embeddings."""

    study: str
    simulated: bool
    part: str
    split: str | None
    split_hash: str | None
    fingerprint: str | None
    trained_on_split: bool | None
    """Whether the encoder was trained on this very split."""
    embedding: str | None
    """Vision model whose embeddings are the gallery."""
    step: int | None
    git_revision: str | None
    audit: str | None
    """Verdict of the split's audit."""
    audit_claim: str | None
    audit_reasons: tuple[str, ...]
    """What the audit found that a reader should know."""
    validation: Validation | None
    config: dict[str, Any]
    """The command's resolved config."""

    @property
    def eeg(self) -> str:
        """``EEG`` or ``simulated EEG``."""
        return "simulated EEG" if self.simulated else "EEG"

    def provenance(self) -> dict[str, Any]:
        """For the foot of a page."""
        return {name: getattr(self, name) for name in ("fingerprint", "split_hash", "embedding", "step", "git_revision")}


def context_notes(facts: StudyFacts, *, trained_elsewhere: str) -> list[str]:
    """What to be warned of; ``trained_elsewhere`` says what an encoder of another split may know."""
    found = []
    if facts.part == "train":
        found.append(
            "These are training trials: the scores say how well they were learnt by heart, the baselines were fitted on them, too."
        )
    elif facts.part == "validation":
        found.append("These are validation trials: the encoder's best step was chosen by them.")
    if facts.validation is not None:
        found.append(validation_note(facts.validation, facts.part))
    if facts.audit:
        claim = f" {facts.audit_claim}" if facts.audit_claim else ""
        found.append(f"Audit of the split: {facts.audit}.{claim}")
        found += [f"Audit: {reason.rstrip('.')}." for reason in facts.audit_reasons]
    if facts.trained_on_split is False:
        found.append(f"The encoder was trained on another split: on none of these trials, but perhaps on their {trained_elsewhere}.")
    return found


def validation_note(validation: Validation, part: str) -> str:
    """What the score that training printed is, beside the one of this report."""
    asked = f"{validation.num_queries} validation trials of {validation.num_stimuli} stimuli"
    score = f"{validation.name.replace('_', ' ')} was {validation.score:.3f} at step {validation.step}"
    said = f"In training, {score}, on {asked}: it chose the step"
    if part == "validation":
        return f"{said}."
    return (
        f"{said}, and so flatters a little. It is no estimate of the {part} scores here: other trials, another number of candidates and "
        "so another chance level."
    )


def with_simulated(facts_simulated: bool, notes: Sequence[str]) -> list[str]:
    """Notes, led by the sentence that simulated EEG is simulated."""
    return [*([SIMULATED] if facts_simulated else []), *notes]
