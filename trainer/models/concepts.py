"""Words for what was seen: the concepts whose mean image lies nearest to an embedding.

Candidates are concepts of the training part only, unless an evaluation says otherwise, so that no label of a test trial is
ever among what it is compared with in silence. The words in training prompts are predicted as well, never true labels.

C: concepts, P: common space, B: rows, N: stimuli.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep import schema
from data_prep.cli import CommandError
from trainer.data.loader import Loader
from trainer.export import Encoder

FILE = "concepts.npz"


@dataclass(frozen=True, kw_only=True)
class ConceptTable:
    """Candidates and their embeddings."""

    names: list[str]
    embedding_CP: np.ndarray
    """float32, unit norm, :attr:`mean_P` subtracted before."""
    mean_P: np.ndarray
    """Mean over the concepts: image embeddings share much of themselves, which says nothing about the concept."""

    @classmethod
    def make(cls, names: Sequence[str], concept_N: np.ndarray, embedding_NP: np.ndarray) -> ConceptTable:
        """From image embeddings in the common space and the concept (index into ``names``) of each."""
        used = np.unique(concept_N)
        means_CP = np.stack([embedding_NP[concept_N == concept].mean(axis=0) for concept in used]).astype(np.float32)
        mean_P = means_CP.mean(axis=0) if len(used) > 1 else np.zeros_like(means_CP[0])
        return cls(names=[names[c] for c in used], embedding_CP=_unit(means_CP - mean_P), mean_P=mean_P)

    def predict(self, z_BP: np.ndarray, k: int) -> np.ndarray:
        """The k nearest concepts of each row, best first: int64 (B, k), fewer columns where there are fewer concepts."""
        scores_BC = _unit(np.asarray(z_BP, np.float32) - self.mean_P) @ self.embedding_CP.T
        return np.argsort(-scores_BC, axis=1, kind="stable")[:, :k]

    def words(self, ids: Sequence[int]) -> list[str]:
        """Concept names as words: ``00012_red_star`` becomes ``red star``."""
        return [as_words(self.names[i]) for i in ids]

    def prefix_mean(self, concept: int) -> np.ndarray:
        """Mean embedding of a concept as it lies in the common space: (P,), unit norm."""
        return _unit(self.embedding_CP[concept] * self._length(concept) + self.mean_P)

    def _length(self, concept: int) -> float:
        # Unit vectors were centred on mean_P: undo it such that the sum has unit norm.
        a, m = self.embedding_CP[concept].astype(np.float64), self.mean_P.astype(np.float64)
        b = float(a @ m)
        return float(-b + np.sqrt(max(b * b - float(m @ m) + 1.0, 0.0)))

    def write(self, folder: Path) -> None:
        """Write ``concepts.npz``."""
        buffer = io.BytesIO()
        np.savez(buffer, names=np.array(self.names), embedding=self.embedding_CP, mean=self.mean_P)
        schema.write_atomically(folder / FILE, buffer.getvalue())

    @classmethod
    def read(cls, folder: Path) -> ConceptTable:
        """Inverse of :meth:`write`."""
        path = folder / FILE
        try:
            with np.load(path, allow_pickle=False) as file:
                return cls(names=file["names"].tolist(), embedding_CP=file["embedding"], mean_P=file["mean"])
        except (OSError, ValueError, KeyError) as error:
            raise CommandError(f"{path}: not a table of concepts ({error})") from None


def build_concept_table(encoder: Encoder, loader: Loader) -> ConceptTable:
    """Candidates: the concepts of the loader's part, by their images through the encoder's image side."""
    tables = loader.index.manifest["tables"]
    concept_N = np.array([tables["stimuli"][s]["concept"] for s in loader.stimuli.tolist()])
    return ConceptTable.make(tables["concepts"], concept_N, encoder.embed_image(loader.gallery[loader.stimuli]))


def as_words(name: str) -> str:
    """A concept's name as words: no number in front, no underscores."""
    return re.sub(r"^\d+_", "", name).replace("_", " ").strip()


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
