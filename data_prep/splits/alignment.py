"""Euclidean alignment (He and Wu 2020): the mean covariance of each subject's trials becomes the identity, so that subjects are alike.

The reference is ``R = mean over trials of X Xᵀ / T`` (T time points, nothing subtracted); a trial becomes ``R^(-1/2) X``. It needs no
labels. Fitted on training rows; a subject who has none is refused, or, where the config says so, aligned by their own unlabelled
trials, test trials among them: that is transductive, and the split's audit says it.

Shape suffixes: R repetitions, C channels, T time points, K (subject, session) groups.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data_prep.contract.arrays import read_archive
from data_prep.contract.errors import StudyError
from data_prep.contract.progress import progress
from data_prep.contract.split import Split, assign_parts
from data_prep.shards.open import StudyFolder
from data_prep.splits.config import SplitConfig

NULL = 1e-7
"""Share of the largest eigenvalue below which a direction is rounding: after an average reference there is one, and float16 leaves 3e-8 in
it. It is taken out, as dividing by it would make a channel of noise."""


def fit_alignment(study: StudyFolder, split: Split, config: SplitConfig) -> dict[str, np.ndarray]:
    """As :func:`data_prep.splits.transforms.fit_transform`, and ``transductive`` (K,): whether a row's trials are not training.

    Raises
    ------
    StudyError
        A subject (or session) of validation or test without training trials, or a channel that is constant.
    """
    table, tables = study.table, study.manifest.tables
    part = assign_parts(split, table)
    pairs = np.unique(np.stack([table.subject, table.session], axis=1)[part > 0], axis=0)
    by_session = config.alignment_by == "session"
    matrices: dict[tuple[int, int], tuple[np.ndarray, bool]] = {}
    fits = {(int(subject), int(session) if by_session else -1) for subject, session in pairs}
    with progress("subjects aligned", len(fits)) as advance:
        for subject, session in sorted(fits):
            own = (table.subject == subject) & ((table.session == session) | (session < 0))
            transductive = not (own & (part == 1)).any()
            if transductive and config.alignment_unseen == "refuse":
                where = f" session {tables.sessions[session]}" if by_session else ""
                raise StudyError(
                    f"split {split.name!r}: subject {tables.subjects[subject]}{where} has no training trials, expected some: alignment is "
                    "fitted on training trials; alignment_unseen: own_trials fits it on their own unlabelled trials, which is transductive"
                )
            rows = own & ((part > 1) if transductive else (part == 1))
            matrices[subject, session] = _matrix(study, rows, tables.subjects[subject]), transductive
            advance()
    found = [matrices[int(subject), int(session) if by_session else -1] for subject, session in pairs]
    return {
        "subject": pairs[:, 0].astype(np.int32),
        "session": pairs[:, 1].astype(np.int32),
        "matrix": np.stack([matrix for matrix, _ in found]).astype(np.float32),
        "mean": np.zeros((len(pairs), study.manifest.signal.n_chans), np.float32),
        "split_hash": np.array(split.hash),
        "kind": np.array("euclidean"),
        "transductive": np.array([transductive for _, transductive in found]),
    }


def _matrix(study: StudyFolder, rows: np.ndarray, subject: str) -> np.ndarray:
    """float64 (C, C): inverse square root of the mean covariance of repetitions ``rows``, on the directions that hold a signal."""
    signal = study.manifest.signal
    total_CC, count = np.zeros((signal.n_chans, signal.n_chans)), 0
    first = study.first_repetition()
    for sample in np.unique(study.table.sample[rows]):
        own = rows[first[sample] : first[sample] + study.samples["n_reps"][sample]]
        for eeg_CT in study.eeg(sample)[own].astype(np.float64):
            total_CC += eeg_CT @ eeg_CT.T
            count += 1
    reference_CC = total_CC / (count * signal.n_times)
    silent_C = np.diag(reference_CC) == 0
    masked = study.manifest.masked_channels(np.unique(study.table.recording[rows]).tolist())
    dead = [name for name, silent in zip(signal.ch_names, silent_C, strict=True) if silent and name not in masked]
    if dead:
        raise StudyError(f"{study.root}: channel {dead[0]} of subject {subject} is zero in all trials, expected a signal")
    live = np.flatnonzero(~silent_C)
    values_C, vectors_CC = np.linalg.eigh(reference_CC[np.ix_(live, live)])
    held = values_C > NULL * values_C[-1]
    matrix_CC = np.eye(signal.n_chans)  # a masked channel stays what it is: zero
    matrix_CC[np.ix_(live, live)] = (vectors_CC[:, held] / np.sqrt(values_C[held])) @ vectors_CC[:, held].T
    return matrix_CC


def transductive_rows(root: Path, split: Split) -> list[tuple[int, int]]:
    """(subject, session) whose transform, the one beside ``split``, saw trials that are not training; empty where there is none."""
    path = root / "transforms" / f"{split.name}.npz"
    if not path.is_file():
        return []
    arrays = read_archive(path, ("subject", "session", "split_hash", "kind"))
    if str(arrays["kind"]) != "euclidean" or str(arrays["split_hash"]) != split.hash:
        return []
    return transductive_of(arrays | read_archive(path, ("transductive",)))


def transductive_of(arrays: dict[str, np.ndarray]) -> list[tuple[int, int]]:
    """The same, of a transform's arrays."""
    if "transductive" not in arrays:
        return []
    hit_K = np.flatnonzero(arrays["transductive"]).tolist()
    return [(int(arrays["subject"][k]), int(arrays["session"][k])) for k in hit_K]
