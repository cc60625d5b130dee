"""What a frozen image encoder says of itself; all else (reading, batches, cache, processes, tables) is :mod:`data_prep.embed.rows`.

Shapes in names: B images of a batch, E embedding dimension.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_prep.embed.base import EmbeddingConfig, Provenance, only
from data_prep.embed.layers import FINAL, Layer, Output, Pooling, outputs_of
from data_prep.embed.loaded import LoadedEncoder
from data_prep.embed.rows import embed_stimuli
from data_prep.studies.base import StudyFacts


@dataclass(frozen=True, kw_only=True)
class ImageEncoderConfig(EmbeddingConfig):
    """Base of encoders of images: a subclass adds fields, :meth:`load` and, where it can, :meth:`known`."""

    batch_size: int = 32
    """Images a forward pass."""
    workers: int = 2
    """Threads that decode images."""

    def __post_init__(self) -> None:
        check_positive(batch_size=self.batch_size, workers=self.workers)

    def known(self) -> Mapping[str, Any] | None:
        """What rows hang on, where it is known without loading a network (name, hash of the weights' file, layers); None: it is not."""
        return None

    def load(self, device: str | None = None) -> LoadedEncoder:
        """Load the network; ``device`` overrides the config's, where one of several processes has its own.

        Raises
        ------
        StudyError
            Weights that are not there, a layer that it does not have.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how to load its network")

    def compute(self, facts: StudyFacts) -> tuple[np.ndarray, Provenance]:
        return only(self.compute_all(facts), self)

    def compute_all(self, facts: StudyFacts) -> dict[str, tuple[np.ndarray, Provenance]]:
        return embed_stimuli(facts, self)


@dataclass(frozen=True, kw_only=True)
class LayeredConfig(ImageEncoderConfig):
    """Base of encoders whose layers can be had."""

    layers: tuple[Layer, ...] = (FINAL,)
    """``final``: what the model gives; a block's number from 1 (-1: the last); or the name of a module. A table each, of one pass."""
    pooling: tuple[Pooling, ...] = ("mean",)
    """How a block's tokens become a vector: ``mean`` over all, ``cls`` (the first), ``patches`` (mean without what stands before them);
    several make a table each. Maps of convolutions have only ``mean``."""
    concatenate: bool = False
    """One table of all layers side by side, instead of one each."""
    device: str = "cpu"
    """``cpu``, ``cuda`` or ``cuda:1``: where the network runs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        outputs_of(self.layers, self.pooling)

    @property
    def taps(self) -> tuple[Output, ...]:
        """What is read of the network."""
        return outputs_of(self.layers, self.pooling)

    @property
    def outputs(self) -> tuple[str, ...]:
        if self.concatenate or len(self.taps) == 1:
            return ("",)
        return tuple(tap.name for tap in self.taps)

    def words(self) -> tuple[str, ...]:
        """The layer of each table in words."""
        each = tuple(tap.words for tap in self.taps)
        return (" + ".join(each),) if self.concatenate else each

    def tables_of(self, vectors: list[Any]) -> list[Any]:
        """(B, E) of each table from those of each layer."""
        import torch

        return [torch.cat(vectors, dim=1)] if self.concatenate else vectors

    def known_layers(self) -> dict[str, Any]:
        """What :meth:`known` says of the fields here."""
        return {"layers": [tap.words for tap in self.taps], "concatenate": self.concatenate}


def check_positive(**fields: int) -> None:
    """Refuse fields below 1, as a config's ``__post_init__`` does."""
    for name, value in fields.items():
        if value < 1:
            raise ValueError(f"{name} is {value}, expected at least 1")
