"""A file of embeddings to be scored, as ``export-embeddings`` and other projects write it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.contract.arrays import read_archive
from data_prep.contract.errors import CommandError, StudyError
from data_prep.contract.json_text import parse_json
from data_prep.contract.records import from_json
from trainer.evaluate.study_facts import StudyFacts


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Embeddings to be scored: one EEG row a query, each with its image's embedding."""

    eeg_QP: np.ndarray
    image_QP: np.ndarray
    ids_Q: np.ndarray
    """Stimulus of each query; any dtype that compares."""
    subjects_Q: np.ndarray
    concepts_Q: np.ndarray
    facts: StudyFacts | None = None
    """Where they come from, with the config of the command that wrote them; None: the file does not tell."""


def read_embeddings(path: Path) -> Pairs:
    """Read a file of arrays ``eeg`` and ``image`` (or ``img``), with optional ``ids``, ``subjects``, ``concepts`` and ``facts``.

    Without ids every distinct image row is a stimulus of its own; without concepts each stimulus is its own concept.

    Raises
    ------
    StudyError, CommandError
        One sentence naming the file: not an npz, arrays missing, shapes that do not match, pickled objects.
    """
    arrays: dict[str, Any] = dict(read_archive(path))
    image = arrays.get("image", arrays.get("img"))
    eeg = arrays.get("eeg")
    if eeg is None or image is None:
        raise CommandError(f"{path}: has the arrays {sorted(arrays)}, expected eeg and image (or img)")
    if eeg.ndim != 2 or image.shape != eeg.shape:
        raise CommandError(f"{path}: eeg has shape {eeg.shape} and image {image.shape}, expected the same (rows, dimensions)")
    for name, array in (("eeg", eeg), ("image", image)):
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            raise CommandError(f"{path}: {name} holds values that are not finite numbers")
    ids = arrays.get("ids", np.unique(image, axis=0, return_inverse=True)[1].reshape(-1))
    found = {"ids": ids, "subjects": arrays.get("subjects", np.zeros(len(eeg), int)), "concepts": arrays.get("concepts", ids)}
    for name, array in found.items():
        if array.shape != (len(eeg),):
            raise CommandError(f"{path}: {name} has shape {array.shape}, expected ({len(eeg)},), one for each row of eeg")
    rest = {"ids_Q": found["ids"], "subjects_Q": found["subjects"], "concepts_Q": found["concepts"]}
    return Pairs(eeg_QP=eeg, image_QP=image, **rest, facts=_facts(arrays.get("facts"), f"{path}: facts"))


def _facts(array: Any, where: str) -> StudyFacts | None:
    if array is None:
        return None
    try:
        plain = parse_json(str(array), where)
    except StudyError as error:  # the file is of a command, not of a study
        raise CommandError(str(error)) from error
    return from_json(StudyFacts, plain, where, written_by="export-embeddings")
