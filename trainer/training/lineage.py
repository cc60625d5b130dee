"""Which trainings a model's weights went through: what an evaluation must know to call a trial unseen."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeVar

from trainer.data.loader import Loader
from trainer.data.trials import TrialSet, trained_trials

L = TypeVar("L", bound="Lineage")


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
    study: str | None = None
    """Name of the study's folder."""
    simulated: bool | None = None
    """Whether its EEG is simulated."""
    trained: TrialSet | None = None
    """The trials that it learnt from."""
    chosen_by: TrialSet | None = None
    """The validation trials by which its best step was chosen; None: there were none."""


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """What every export says of where its weights come from."""

    fingerprint: str | None = None
    split: str | None = None
    split_hash: str | None = None
    step: int | None = None
    """Optimizer step of the weights."""
    git_revision: str | None = None
    """Of the code that trained them: a commit or a version, see :func:`data_prep.contract.version.code_version`."""
    started_from: tuple[Origin, ...] = ()
    """Trainings that it began with, oldest first."""
    study: str | None = None
    """Name of the study's folder."""
    simulated: bool | None = None
    """Whether its EEG is simulated."""
    unit: str | None = None
    """Of the study's EEG."""
    trials_hash: str | None = None
    """Of the study, see :attr:`data_prep.contract.manifest.Manifest.trials_hash`."""
    trained: TrialSet | None = None
    """The trials that its own training learnt from."""
    chosen_by: TrialSet | None = None
    """The validation trials by which its best step was chosen; None: there were none."""

    @property
    def own(self) -> Origin:
        """The export's own training."""
        shared = ("fingerprint", "split", "split_hash", "study", "simulated", "trained", "chosen_by")
        return Origin(**{name: getattr(self, name) for name in shared})

    @property
    def origins(self) -> tuple[Origin, ...]:
        """All trainings that its weights went through, oldest first."""
        return (*self.started_from, self.own)

    def completed_by(self: L, loader: Loader) -> L:
        """The same, with what it does not say of its own training taken from the training part that this had."""
        manifest = loader.index.manifest
        found = {"fingerprint": manifest.fingerprint, "split": loader.config.split, "split_hash": loader.split_hash}
        found |= {"study": loader.index.root.absolute().name, "unit": manifest.signal.unit, "trials_hash": manifest.trials_hash}
        told: dict[str, Any] = {name: getattr(self, name) or value for name, value in found.items()}
        simulated = manifest.simulated if self.simulated is None else self.simulated
        return replace(self, **told, simulated=simulated, trained=self.trained or trained_trials(loader))

    @property
    def learnt_from_simulated(self) -> bool | None:
        """Whether any of them was on simulated EEG; None: not known of all."""
        told = [origin.simulated for origin in self.origins]
        return True if True in told else None if None in told else False
