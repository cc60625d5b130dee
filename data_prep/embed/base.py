"""What an image embedding is: a config that turns a study's stimuli into one table, with its provenance.

The provenance (model, layer, hash of the weights, transform) goes into the manifest, so that a gallery made by other weights
is never mistaken for this one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from data_prep.contract import cli
from data_prep.studies.base import StudyFacts

Provenance = dict[str, Any]


@cli.polymorphic
@dataclass(frozen=True, kw_only=True)
class EmbeddingConfig:
    """Base of all embeddings: a subclass adds fields and :meth:`compute`."""

    def compute(self, facts: StudyFacts) -> tuple[np.ndarray, Provenance]:
        """Embed every stimulus.

        Parameters
        ----------
        facts
            Of the study: stimuli, image root, and for class-level studies the images of each class.

        Returns
        -------
        (table_NE, provenance)
            float32 (n_stimuli, dim), finite, no row zero; and ``model, layer, weights_sha256, transform`` as plain values.

        Raises
        ------
        StudyError
            A missing image, weights that are not there, rows that do not match: one sentence naming the file.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how to embed")
