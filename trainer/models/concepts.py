"""Words for what was seen: the concepts whose mean image lies nearest to an embedding.

Candidates are concepts of the training part only, unless an evaluation says otherwise, so that no label of a test trial is
ever among what it is compared with in silence. The words in training prompts are predicted as well, never true labels, and where
tested concepts are unseen not even candidates.

C: concepts, P: common space, B: rows, N: stimuli.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from data_prep.contract.arrays import read_archive
from data_prep.contract.errors import CommandError, StudyError
from data_prep.contract.files import write_atomically

FILE = "concepts.npz"


@dataclass(frozen=True, kw_only=True)
class ConceptTable:
    """Candidates and where their images lie."""

    names: list[str]
    """Concepts as the study names them."""
    image_CP: np.ndarray
    """Mean of each concept's image embeddings in the common space, float32; shorter than 1 where they differ."""

    @classmethod
    def make(cls, names: Sequence[str], concept_N: np.ndarray, embedding_NP: np.ndarray) -> ConceptTable:
        """From image embeddings in the common space and the concept (index into ``names``) of each; those without are left out."""
        used = np.unique(concept_N)
        means = [embedding_NP[concept_N == concept].mean(axis=0) for concept in used]
        return cls(names=[names[c] for c in used], image_CP=np.stack(means).astype(np.float32))

    @cached_property
    def mean_P(self) -> np.ndarray:
        """Mean over the concepts: image embeddings share much of themselves, which says nothing about the concept."""
        return self.image_CP.mean(axis=0) if len(self.names) > 1 else np.zeros_like(self.image_CP[0])

    @cached_property
    def embedding_CP(self) -> np.ndarray:
        """What an embedding is compared with, once :attr:`mean_P` is subtracted on both sides: unit norm."""
        return _unit(self.image_CP - self.mean_P)

    def predict(self, z_BP: np.ndarray, k: int, *, without_B: np.ndarray | None = None) -> np.ndarray:
        """The k nearest concepts of each row by cosine, best first: int64 (B, k), fewer columns where there are fewer concepts.

        ``without_B`` is a concept that comes last in its row whatever its score, -1 for none.
        """
        scores_BC = _unit(np.asarray(z_BP, np.float32) - self.mean_P) @ self.embedding_CP.T
        if without_B is not None:
            rows = np.flatnonzero(without_B >= 0)
            scores_BC[rows, without_B[rows]] = -np.inf
        return np.argsort(-scores_BC, axis=1, kind="stable")[:, :k]

    def rows(self, names: Sequence[str]) -> np.ndarray:
        """Where concepts stand in this table, -1 for those that are no candidates: int64."""
        place = {name: row for row, name in enumerate(self.names)}
        return np.array([place.get(name, -1) for name in names])

    def words(self, ids: Sequence[int]) -> list[str]:
        """Concept names as words: ``00012_red_star`` becomes ``red star``."""
        return [as_words(self.names[i]) for i in ids]

    def points(self, ids_B: np.ndarray) -> np.ndarray:
        """Where the mean image of each concept lies in the common space: float32 (B, P), unit norm as any image."""
        return _unit(self.image_CP[ids_B])

    def write(self, folder: Path) -> None:
        """Write ``concepts.npz``."""
        buffer = io.BytesIO()
        np.savez(buffer, names=np.array(self.names), image=self.image_CP)
        write_atomically(folder / FILE, buffer.getvalue())

    @classmethod
    def read(cls, folder: Path) -> ConceptTable:
        """Inverse of :meth:`write`.

        Raises
        ------
        CommandError
            The file is missing, broken or no such table.
        """
        path = folder / FILE
        try:
            arrays = read_archive(path, ("names", "image"))
        except StudyError as error:
            raise CommandError(f"{path}: not a table of concepts ({error})") from error
        names, image_CP = arrays["names"].ravel().tolist(), arrays["image"]
        if image_CP.ndim != 2 or len(names) != len(image_CP):
            raise CommandError(f"{path}: not a table of concepts ({len(names)} names for embeddings of shape {image_CP.shape})")
        return cls(names=names, image_CP=image_CP)


def as_words(name: str) -> str:
    """A concept's name as words: no number in front, no underscores."""
    return re.sub(r"^\d+_", "", name).replace("_", " ").strip()


def _unit(x: np.ndarray) -> np.ndarray:
    unit: np.ndarray = x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
    return unit
