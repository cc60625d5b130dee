"""What ``evaluate-classes`` is asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from data_prep.contract.seed import check_seed
from trainer.evaluate.baselines import Baseline, ConceptRidge
from trainer.training.tracking import check_tracking_uri


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
    baselines: list[Baseline] = field(default_factory=lambda: [ConceptRidge()])
    """Baselines that name concepts, fitted on the split's training trials and scored on the same trials, by name or import path
    (``[{class_path: ConceptRidge}]``). ``[]``: none."""
    num_resamples: int = 2000
    """Bootstrap resamples behind each interval."""
    seed: int = 0
    """Seed of the resampling."""
    device: str = "cpu"
    """Where the encoder computes."""
    mlflow: bool = True
    """Log scores, report and plots into the training's MLflow run, where the export is that of a run that was tracked."""
    tracking_uri: str = ""
    """Tracking URI of the store that has that run; empty: the one in the training's config."""

    def __post_init__(self) -> None:
        check_seed(self.seed)
        check_tracking_uri(self.tracking_uri)
        if self.num_resamples < 1:
            raise ValueError(f"num_resamples: {self.num_resamples}, expected at least 1")
        for baseline in self.baselines:
            if baseline.candidates != "concepts":
                name = type(baseline).__name__
                raise ValueError(f"baselines: {name} ranks images, expected baselines that name concepts: ConceptRidge, Lda")
