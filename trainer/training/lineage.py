"""Which trainings a model's weights went through: what an evaluation must know to call a trial unseen."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Origin:
    """One training and what it was shown. None: not known."""

    fingerprint: str | None
    """Of the study."""
    split: str | None
    """Name of the split whose training part it learnt from."""
    split_hash: str | None
    stage: str | None = None
    """Of a text model's training: ``image``, ``eeg``, ``mixed`` or ``label``."""
    planned_steps: int | None = None
    planned_items: int | None = None
    """Length as it was planned; the weights that are kept may be of an earlier step."""


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """What every export says of where its weights come from."""

    fingerprint: str | None = None
    split: str | None = None
    split_hash: str | None = None
    step: int | None = None
    """Optimizer step of the weights."""
    git_revision: str | None = None
    """Of the code that trained them."""
    started_from: tuple[Origin, ...] = ()
    """Trainings that it began with, oldest first."""

    @property
    def own(self) -> Origin:
        """The export's own training."""
        return Origin(fingerprint=self.fingerprint, split=self.split, split_hash=self.split_hash)

    @property
    def origins(self) -> tuple[Origin, ...]:
        """All trainings that its weights went through, oldest first."""
        return (*self.started_from, self.own)
