"""What a served encoder compares a trial with: ``gallery.npz`` (``embedding``, ``stimulus``, ``concept``) and ``gallery.json``.

G: entries, K: values of each.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.contract.arrays import read_archive
from data_prep.contract.errors import CommandError
from data_prep.contract.files import read_json, write_atomically, write_json
from data_prep.contract.words import short

ARRAYS, FACTS = "gallery.npz", "gallery.json"


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Stimuli, or classes, in the common space."""

    embedding_GK: np.ndarray
    """float32, what :meth:`trainer.artifacts.encoder.Encoder.gallery_rows` gives: for a cosine the images in the common space, unit norm;
    for a likelihood, whose image side depends on the trial, the image embeddings as they are."""
    stimuli: list[str]
    """Stimulus ids; class names in a class-level study."""
    concepts: list[str]
    """Concept names."""

    def write(self, folder: Path, facts: Mapping[str, Any]) -> None:
        """Write both files into ``folder``; ``facts`` says where the gallery comes from, and ``top_k``."""
        buffer = io.BytesIO()
        np.savez(buffer, embedding=self.embedding_GK, stimulus=np.array(self.stimuli), concept=np.array(self.concepts))
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / ARRAYS, buffer.getvalue())
        write_json(folder / FACTS, facts)

    @classmethod
    def read(cls, folder: Path, width: int) -> Gallery:
        """The gallery of an encoder whose gallery has rows of ``width`` values.

        Raises
        ------
        StudyError, CommandError
            A file is missing, damaged, or does not fit the encoder; the message names it.
        """
        path = folder / ARRAYS
        arrays = read_archive(path, ("embedding", "stimulus", "concept"))
        embedding, names = arrays["embedding"], (arrays["stimulus"], arrays["concept"])
        if embedding.ndim != 2 or embedding.shape[1] != width or embedding.dtype.kind != "f" or not len(embedding):
            found = f"{embedding.dtype} of shape {embedding.shape}"
            raise CommandError(f"{path}: embedding is {found}, expected numbers (entries, {width}) as the encoder beside it gives")
        if not np.isfinite(embedding).all():
            raise CommandError(f"{path}: embedding of entry {int(np.argwhere(~np.isfinite(embedding))[0][0])} is not finite")
        for name, array in zip(("stimulus", "concept"), names, strict=True):
            if array.dtype.kind != "U" or array.shape != (len(embedding),):
                found = f"{array.dtype} of shape {array.shape}"
                raise CommandError(f"{path}: {name} is {found}, expected a name for each of {len(embedding)} embeddings")
        stimuli, concepts = (array.tolist() for array in names)
        return cls(embedding_GK=embedding.astype(np.float32), stimuli=stimuli, concepts=concepts)


def read_top_k(folder: Path) -> int:
    """How many candidates an answer has.

    Raises
    ------
    StudyError, CommandError
        ``gallery.json`` is missing, damaged, or does not say it.
    """
    facts = read_json(folder / FACTS)
    top_k = facts.get("top_k") if isinstance(facts, dict) else None
    if type(top_k) is not int or top_k < 1:
        raise CommandError(f"{folder / FACTS}: top_k is {short(top_k)}, expected a whole number of at least 1")
    return top_k
