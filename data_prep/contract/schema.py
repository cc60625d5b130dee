"""The shard contract: every name, dtype, unit and hash that writers and readers of a study agree on.

A study is one folder::

    STUDY/
      000000.tar  000000.index.npy  000000.trials.npy  000000.done.json   one shard and its commit mark
      ...
      manifest.json  manifest.sha256        written last: the study is whole when they are there
      embeddings/NAME.npy                   (n_stimuli, dim) float32, the gallery and the source of truth
      splits/NAME.json  splits/NAME.audit.json
      transforms/NAME.npz                   what was fitted on a split's training rows

Inside a tar a *sample* is a group of members that share a key: ``KEY.eeg.npy`` ``<f2`` (n_reps, n_chans, n_times),
``KEY.<embedding>.npy`` ``<f2`` (dim,), ``KEY.txt`` (captions, one a line), ``KEY.json`` (who, what, when).
The index holds the byte offset of each member, so training never parses a tar header or JSON.

Standard library and numpy only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from data_prep.contract.errors import StudyError

SCHEMA_VERSION = 1
PARTS = ("train", "validation", "test")
"""Parts of a split; :func:`assign_parts` writes 1, 2, 3 for them and 0 for a repetition in none."""
UNKNOWN = "unknown"
"""Written for a session or recording that the source has lost."""
UNITS = ("microvolts", "zscore")
STIMULUS_LEVELS = ("image", "class")
EEG_DTYPES = {"float16": "<f2", "float32": "<f4"}
EMBEDDING_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")
SPLIT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*\Z")
KEY_PART = re.compile(r"[A-Za-z0-9]+\Z")
RESERVED_MEMBERS = ("eeg", "txt", "json")
TRIALS_DTYPE = np.dtype([("sample", "<i4"), ("session", "<i4"), ("recording", "<i4")])
"""One row a repetition: row of its sample inside the shard, ids into the manifest's session and recording tables."""
CLEAN_BASELINE = {True: 1, False: 0, None: -1}
"""How the trials table says whether the time before a trial's onset holds no response to another stimulus; None: unknown."""


def check_embedding_name(name: str) -> str:
    """Return ``name`` if it may name an embedding, else raise :class:`StudyError`."""
    if not EMBEDDING_NAME.match(name) or name in RESERVED_MEMBERS:
        raise StudyError(f"embedding name {name!r}: expected lower-case letters, digits and '_', not one of {RESERVED_MEMBERS}")
    return name


def check_split_name(name: str) -> str:
    """Return ``name`` if it may name a split file, else raise :class:`StudyError`."""
    if not SPLIT_NAME.match(name):
        raise StudyError(f"split name {name!r}: expected letters, digits, '_' and '-' only")
    return name


def stimulus_sample_key(subject: str, stimulus: int) -> str:
    """Key of all repetitions of one stimulus seen by one subject, ``sub-01_stim-000123``."""
    return f"sub-{_key_part(subject)}_stim-{stimulus:06d}"


def trial_sample_key(subject: str, session: str, recording: str, trial: int) -> str:
    """Key of a single trial of a class-level study, ``sub-01_ses-02_run-03_trial-00042``."""
    return f"sub-{_key_part(subject)}_ses-{_key_part(session)}_run-{_key_part(recording)}_trial-{trial:05d}"


def _key_part(text: str) -> str:
    # WebDataset splits a key at its first dot and lower-cases suffixes; tar names may not hold separators.
    if not KEY_PART.match(text):
        raise StudyError(f"{text!r} cannot stand in a sample key: expected letters and digits only")
    return text


def shard_name(number: int) -> str:
    """``000007`` for shard 7; its files are ``000007.tar``, ``.index.npy``, ``.trials.npy``, ``.done.json``."""
    return f"{number:06d}"


def trials_dtype(*, clean_baseline: bool) -> np.dtype:
    """Dtype of ``NNNNNN.trials.npy``: :data:`TRIALS_DTYPE`, and ``clean_baseline`` (:data:`CLEAN_BASELINE`) where the study knows it."""
    return np.dtype([*TRIALS_DTYPE.descr, ("clean_baseline", "<i1")]) if clean_baseline else TRIALS_DTYPE


def trial_rows(
    sample: int, session: Sequence[int], recording: Sequence[int], clean_baseline: Sequence[bool | None] | None
) -> list[tuple[int, ...]]:
    """Rows of a trials table for one sample; the lists have one entry a repetition."""
    columns: list[Sequence[int]] = [session, recording]
    if clean_baseline is not None:
        columns.append([CLEAN_BASELINE[each] for each in clean_baseline])
    return [(sample, *row) for row in zip(*columns, strict=True)]


def index_dtype(embeddings: Sequence[str], *, captions: bool) -> np.dtype:
    """Dtype of ``NNNNNN.index.npy``: one row a sample.

    ``<member>_offset`` is the first byte of the member's array data (after the npy header) or text inside the tar and
    ``<member>_bytes`` its length, for ``eeg``, every embedding in order, ``txt`` if the study has captions, and ``json``.
    ``subject``, ``stimulus`` and ``concept`` are rows of the manifest's tables.
    """
    members = ["eeg", *map(check_embedding_name, embeddings), *(["txt"] if captions else []), "json"]
    fields: list[tuple[str, str]] = []
    for member in members:
        fields += [(f"{member}_offset", "<u8"), (f"{member}_bytes", "<u8")]
    fields += [("n_reps", "<i4"), ("subject", "<i4"), ("stimulus", "<i4"), ("concept", "<i4")]
    return np.dtype(fields)
