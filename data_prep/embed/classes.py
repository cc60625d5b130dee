"""No images at all: a row that is 1 at its stimulus' concept, for studies that only classes are trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_prep.embed.base import EmbeddingConfig, Provenance
from data_prep.studies.base import StudyFacts


@dataclass(frozen=True, kw_only=True)
class ClassesConfig(EmbeddingConfig):
    """One-hot rows: what a classifier's study has in the place of image embeddings."""

    def compute(self, facts: StudyFacts) -> tuple[np.ndarray, Provenance]:
        table = np.eye(len(facts.concepts), dtype=np.float32)[[stimulus.concept for stimulus in facts.stimuli]]
        return table, {"model": "one-hot concepts", "layer": "none", "weights_sha256": None, "transform": None}
