"""What an embedding is: a config that turns a study's stimuli into a table, or several at once, with their provenance.

The provenance (model, layer, hash of the weights, transform, how it is known which row is whose) goes into the manifest, so that a
gallery made by other weights is never mistaken for this one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from data_prep.contract import cli
from data_prep.contract.errors import StudyError
from data_prep.studies.base import StudyFacts

Provenance = dict[str, Any]


@cli.polymorphic
@dataclass(frozen=True, kw_only=True)
class EmbeddingConfig:
    """Base of all embeddings: a subclass adds fields and :meth:`compute`, or, where it makes several tables, :meth:`compute_all`."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """What is put behind an embedding's name for each table: ``("",)`` for one, else such as ``("block06", "final")``."""
        return ("",)

    @property
    def reads_captions(self) -> bool:
        """Whether the captions of the study are wanted in the facts."""
        return False

    def compute(self, facts: StudyFacts) -> tuple[np.ndarray, Provenance]:
        """Embed every stimulus.

        Parameters
        ----------
        facts
            Of the study: stimuli, image root, captions, and for class-level studies the images of each class.

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

    def compute_all(self, facts: StudyFacts) -> dict[str, tuple[np.ndarray, Provenance]]:
        """All tables by what :attr:`outputs` calls them; otherwise as :meth:`compute`."""
        return {"": self.compute(facts)}


def only(tables: dict[str, tuple[np.ndarray, Provenance]], config: EmbeddingConfig) -> tuple[np.ndarray, Provenance]:
    """The one table of an embedding that must have one."""
    if len(tables) != 1:
        raise StudyError(
            f"{type(config).__name__}: makes {len(tables)} tables ({', '.join(tables)}), expected one here: say one layer and pooling"
        )
    return next(iter(tables.values()))


def full_name(name: str, output: str) -> str:
    """Name of a table: that of the embedding, and which output of it."""
    return f"{name}_{output}" if output else name
