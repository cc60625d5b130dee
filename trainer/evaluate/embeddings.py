"""A file of embeddings to be scored, as ``export-embeddings`` and other projects write it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np

from data_prep.contract.arrays import read_archive
from data_prep.contract.errors import CommandError, StudyError
from data_prep.contract.json_text import parse_json
from data_prep.contract.records import from_json, to_json
from data_prep.contract.words import short
from trainer.artifacts.export import Metric
from trainer.evaluate.same_rows import same_rows
from trainer.evaluate.study_facts import StudyFacts

_ROWS = ("eeg", "image", "ids", "subjects", "concepts", "metric")
_OF = "arrays_sha256"
"""Beside the facts: of the arrays that they are of. Files are merged, cut and filled anew, and the facts come along."""


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Embeddings to be scored: one EEG row a query, each with its image's embedding."""

    eeg_QP: np.ndarray
    image_QP: np.ndarray
    ids_Q: np.ndarray
    """Stimulus of each query; any dtype that compares."""
    subjects_Q: np.ndarray
    concepts_Q: np.ndarray
    metric: Metric = "cosine"
    """By which ``eeg_QP`` and ``image_QP`` are compared; under likelihood (squared distance) an image has other rows for each subject."""
    facts: StudyFacts | None = None
    """Where they come from, with the config of the command that wrote them; None: the file does not tell."""
    rounded: int = 0
    """Distinct image rows that were taken for others', as they differ by rounding alone."""
    changed: bool = False
    """Whether the arrays are others than those that ``facts`` are of."""


def read_embeddings(path: Path) -> Pairs:
    """Read a file of arrays ``eeg`` and ``image`` (or ``img``), with optional ``ids``, ``subjects``, ``concepts`` and ``facts``.

    Without ids every image row that differs by more than rounding is a stimulus of its own; without concepts each stimulus is its own
    concept.

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
    if "image" in arrays and "img" in arrays:
        raise CommandError(f"{path}: has both image and img: expected one of the two")
    if eeg.ndim != 2 or image.shape != eeg.shape or not eeg.size:
        raise CommandError(f"{path}: eeg has shape {eeg.shape} and image {image.shape}, expected the same (rows, dimensions), none 0")
    metric = str(arrays.get("metric", "cosine"))
    if metric not in get_args(Metric):
        raise CommandError(f"{path}: metric is {short(metric)!r}, expected {' or '.join(get_args(Metric))}")
    if metric == "likelihood" and not {"ids", "subjects"} <= arrays.keys():
        raise CommandError(
            f"{path}: metric is likelihood, by which an image has other rows for each subject: expected ids and subjects, too"
        )
    for name, array in (("eeg", eeg), ("image", image)):
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            raise CommandError(f"{path}: {name} holds values that are not finite numbers")
        if metric == "likelihood":
            continue
        with np.errstate(over="ignore"):
            norm_Q = np.linalg.norm(array.astype(np.float64), axis=1)
        # Below the normal numbers of float32 what an encoder wrote has lost its digits.
        if (bad_Q := ~((norm_Q >= np.finfo(np.float32).tiny) & np.isfinite(norm_Q))).any():
            raise CommandError(f"{path}: row {bad_Q.argmax()} of {name} has no direction (norm {norm_Q[bad_Q.argmax()]:g})")
    ids, rounded = arrays.get("ids"), 0
    if ids is None:
        ids = same_rows(image)
        _, first, stimulus_Q = np.unique(ids, return_index=True, return_inverse=True)
        rounded = len(np.unique(image, axis=0)) - len(first)
        image = image[first][stimulus_Q.reshape(-1)]
    found = {"ids": ids, "subjects": arrays.get("subjects", np.zeros(len(eeg), int)), "concepts": arrays.get("concepts", ids)}
    for name, array in found.items():
        if array.shape != (len(eeg),):
            raise CommandError(f"{path}: {name} has shape {array.shape}, expected ({len(eeg)},), one for each row of eeg")
        if array.dtype.kind in "fcmM" and (unknown_Q := array != array).any():  # of no value, these would be one
            raise CommandError(
                f"{path}: {name} of row {int(unknown_Q.argmax())} is {array[unknown_Q.argmax()]}, expected a value for each row"
            )
    rest = {"ids_Q": found["ids"], "subjects_Q": found["subjects"], "concepts_Q": found["concepts"]}
    facts, of = _facts(arrays.get("facts"), f"{path}: facts")
    return Pairs(
        eeg_QP=eeg,
        image_QP=image,
        **rest,
        metric=cast(Metric, metric),
        rounded=rounded,
        facts=facts,
        changed=facts is not None and of != _content_hash(arrays),
    )


def facts_array(facts: StudyFacts, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """The array ``facts`` of a file that has these arrays."""
    return np.array(json.dumps({**to_json(facts), _OF: _content_hash(arrays)}, sort_keys=True))


def _content_hash(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in _ROWS:
        if (array := arrays.get(name)) is not None:
            digest.update(f"{name} {array.dtype.str} {array.shape} ".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _facts(array: Any, where: str) -> tuple[StudyFacts | None, str | None]:
    if array is None:
        return None, None
    try:
        plain = parse_json(str(array), where)
    except StudyError as error:  # the file is of a command, not of a study
        raise CommandError(str(error)) from error
    of = plain.pop(_OF, None) if isinstance(plain, dict) else None
    return from_json(StudyFacts, plain, where, written_by="export-embeddings"), of
