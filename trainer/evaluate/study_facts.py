"""What a report says of the trials that were scored: where they come from, and how far a score on them can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from data_prep.contract.page import SIMULATED, SIMULATED_NOT_KNOWN
from trainer.artifacts.seen import step_chosen_by, trained_not_known


@dataclass(frozen=True, kw_only=True)
class Validation:
    """The score in training by which the encoder's step was chosen."""

    name: str
    score: float
    step: int
    num_queries: int
    num_stimuli: int
    """Distinct stimuli of the validation part, among which its trials were ranked."""
    chose: bool = True
    """Whether it chose the step; a closed form has none to choose."""


@dataclass(frozen=True, kw_only=True)
class StudyFacts:
    """Where the trials come from; all but ``study`` and ``part`` are unknown for a file of embeddings that does not tell.

    ``export-embeddings`` writes it into its file.
    """

    study: str
    simulated: bool | None
    """None: not known."""
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
    unit: str | None = field(default_factory=lambda: None)
    """Of the EEG."""
    rows_hash: str | None = None
    """Of the study, see :attr:`data_prep.contract.manifest.Manifest.rows_hash`."""
    trained_trials: int | None = field(default_factory=lambda: None)
    """On how many of the part's trials (repetitions) the encoder was trained, in any of its trainings; None: not known."""
    trained_not_known: tuple[str, ...] = ()
    """Why it is not known, a clause for each training that cannot be compared."""
    chosen_by_trials: int = 0
    """By how many of the part's trials the best step of any of its trainings was chosen, as far as that is known."""
    trained_on_simulated: bool | None = None
    """Whether any of its trainings was on simulated EEG; None: not known of all."""

    @property
    def eeg(self) -> str:
        """``EEG``, ``simulated EEG``, or that this is not known."""
        return eeg_called(self.simulated)

    def provenance(self) -> dict[str, Any]:
        """For the foot of a page."""
        names = ("fingerprint", "rows_hash", "split_hash", "unit", "embedding", "step", "git_revision")
        trained = "not known" if self.trained_trials is None else self.trained_trials
        return {name: getattr(self, name) for name in names} | {"trials of this part trained on": trained}


def context_notes(facts: StudyFacts, *, trained_elsewhere: str) -> list[str]:
    """What to be warned of; ``trained_elsewhere`` says what an encoder of another split may know."""
    found = []
    elsewhere = facts.trained_on_split is False
    if facts.part == "train" and elsewhere:
        found.append("These are training trials of another split than the encoder's; the baselines were fitted on them.")
    elif facts.part == "train":
        found.append(
            "These are training trials: the scores say how well they were learnt by heart, the baselines were fitted on them, too."
        )
    elif facts.part == "validation" and not elsewhere and (facts.validation is None or facts.validation.chose):
        found.append("These are validation trials: the encoder's best step was chosen by them.")
    if facts.validation is not None:
        found.append(validation_note(facts.validation, facts.part))
    if facts.audit:
        claim = f" {facts.audit_claim}" if facts.audit_claim else ""
        found.append(f"Audit of the split: {facts.audit}.{claim}")
        found += [f"Audit: {reason.rstrip('.')}." for reason in facts.audit_reasons]
    if facts.trained_trials is None:
        found.append(trained_not_known("the encoder", facts.trained_not_known))
    elif elsewhere:
        count = facts.trained_trials or "none"
        found.append(f"The encoder was trained on another split: on {count} of these trials, but perhaps on their {trained_elsewhere}.")
    if facts.chosen_by_trials and not (facts.part == "validation" and not elsewhere):
        found.append(step_chosen_by("the encoder", facts.chosen_by_trials))
    if facts.trained_on_simulated and not facts.simulated:
        found.append("The encoder was trained on simulated EEG, too.")
    return found


def validation_note(validation: Validation, part: str) -> str:
    """What the score that training printed is, beside the one of this report."""
    asked = f"{validation.num_queries} validation trials of {validation.num_stimuli} stimuli"
    score = f"{validation.name.replace('_', ' ')} was {validation.score:.3f} at step {validation.step}"
    said = f"In training, {score}, on {asked}: " + ("it chose the step" if validation.chose else "nothing was chosen by it")
    if part == "validation":
        return f"{said}."
    flatters = ", and so flatters a little" if validation.chose else ""
    return (
        f"{said}{flatters}. It is no estimate of the {part} scores here: other trials, another number of candidates and "
        "so another chance level."
    )


def eeg_called(simulated: bool | None) -> str:
    """``EEG``, ``simulated EEG``, or that this is not known."""
    return {True: "simulated EEG", False: "EEG", None: "EEG, not known whether simulated"}[simulated]


def with_simulated(simulated: bool | None, notes: Sequence[str]) -> list[str]:
    """Notes, led by the sentence that simulated EEG is simulated, or that this is not known."""
    return [*{True: [SIMULATED], False: [], None: [SIMULATED_NOT_KNOWN]}[simulated], *notes]
