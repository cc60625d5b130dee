"""What ``evaluate-retrieval`` is asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from data_prep.contract.seed import check_seed
from trainer.evaluate.baselines import Baseline, EncodingByDirection, EncodingModel, Lda, Ridge
from trainer.training.tracking import check_tracking_uri


@dataclass(frozen=True, kw_only=True)
class EvaluateRetrievalConfig:
    """What to score, against what, and where the report goes."""

    output: str
    """Folder for ``retrieval.json`` and ``retrieval.html``."""
    export: str | None = None
    """Folder of an exported encoder; give this or ``embeds``."""
    embeds: str | None = None
    """``.npz`` of embeddings (arrays ``eeg``, ``image`` or ``img``, optional ``ids, subjects, concepts``); no baselines then."""
    study: str | None = None
    """Study folder; null: the one the encoder was trained on."""
    split: str | None = None
    """Split; null: the one the encoder was trained on."""
    part: Literal["train", "validation", "test"] = "test"
    """Part of the split to score."""
    average: Literal["input", "embedding"] = "input"
    """Average a stimulus's repetitions as EEG before the encoder, or their embeddings after it."""
    baselines: list[Baseline] = field(default_factory=lambda: [Ridge(), EncodingModel(), EncodingByDirection(), Lda()])
    """Baselines fitted on the split's training trials and scored on the same trials, by name or import path
    (``[{class_path: Ridge}]``); those that name concepts serve class-level studies, the others image-level ones. ``[]``: none."""
    expect_sfreq: float | None = None
    """Sampling rate in Hz that the trials must have; another is refused. null: the file's rate, whatever it is."""
    num_resamples: int = 2000
    """Bootstrap resamples behind each interval."""
    num_permutations: int = 1000
    """Permutations behind each p-value."""
    seed: int = 0
    """Seed of resampling and permutation."""
    device: str = "cpu"
    """Where the encoder computes."""
    mlflow: bool = True
    """Log scores, report and plots into the training's MLflow run, where the export is that of a run that was tracked."""
    tracking_uri: str = ""
    """Tracking URI of the store that has that run; empty: the one in the training's config."""

    def __post_init__(self) -> None:
        check_seed(self.seed)
        check_tracking_uri(self.tracking_uri)
        if (self.export is None) == (self.embeds is None):
            raise ValueError(f"export is {self.export!r} and embeds {self.embeds!r}: expected exactly one of them")
        for name in ("num_resamples", "num_permutations"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)}, expected at least 1")
        if self.embeds and (self.study or self.split or self.expect_sfreq):
            raise ValueError("embeds: a file of embeddings has no study, split or sampling rate; leave these fields null")
