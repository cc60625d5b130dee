"""What is fitted on data, fitted on a split's training rows only: whitening (MVNN) and scaling, by subject and session.

``y = matrix @ (x - mean)`` for every trial; the loader applies it in the batch, on the device. Kept in
``transforms/NAME.npz`` with the hash of the split, so a transform never meets the test rows of another split.

Shape suffixes: R repetitions, C channels, T time points, K (subject, session) groups.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.contract import schema, signals
from data_prep.contract.errors import StudyError
from data_prep.contract.files import write_atomically
from data_prep.contract.progress import Advance, progress
from data_prep.contract.seal import seal
from data_prep.contract.split import Split, assign_parts
from data_prep.shards.open import StudyFolder

KINDS = ("none", "zscore", "mvnn")


def fit_transform(study: StudyFolder, split: Split, kind: str) -> dict[str, np.ndarray]:
    """Fit on the split's training repetitions.

    Parameters
    ----------
    kind
        ``zscore``: every channel's mean 0 and standard deviation 1 over trials and time. ``mvnn``: multivariate noise
        normalisation (Guggenmos et al. 2018): the inverse square root of the noise covariance, which is the covariance of
        the repetitions around their stimulus' mean at each time point, shrunk (Ledoit and Wolf), averaged over time;
        mean is 0.

    Returns
    -------
    dict
        ``subject`` (K,), ``session`` (K,) int32, ``matrix`` (K, C, C), ``mean`` (K, C) float32, ``split_hash`` and ``kind`` 0-d text.

    Raises
    ------
    StudyError
        A (subject, session) of validation or test has no training trials, or no stimulus was repeated. Where the session of a subject's
    training trials is unknown, they may be of any: then its other sessions take what was fitted on those.
    """
    assert kind in ("zscore", "mvnn"), kind
    part = assign_parts(split, study.table)
    groups = _groups(study, split, part)
    fitted = {}
    fit = _fit_zscore if kind == "zscore" else _fit_mvnn
    # The noise around a class's mean takes a pass for the means.
    passes = 2 if kind == "mvnn" and study.manifest.class_level else 1
    num_samples = len(np.unique(np.stack([study.table.sample, study.table.session])[:, part == 1], axis=1).T)
    with progress(f"samples read for {kind}", passes * num_samples) as advance:
        for group in groups:
            fitted[group] = fit(study, part, group, advance)
    unknown = _unknown_session(study)
    for subject, session in _wanted(study, part):
        if (subject, session) not in fitted:
            fitted[subject, session] = fitted[subject, unknown]
    fitted = dict(sorted(fitted.items()))
    return {
        "subject": np.array([subject for subject, _ in fitted], np.int32),
        "session": np.array([session for _, session in fitted], np.int32),
        "matrix": np.stack([matrix for matrix, _ in fitted.values()]).astype(np.float32),
        "mean": np.stack([mean for _, mean in fitted.values()]).astype(np.float32),
        "split_hash": np.array(split.hash),
        "kind": np.array(kind),
    }


def _groups(study: StudyFolder, split: Split, part: np.ndarray) -> list[tuple[int, int]]:
    pairs = np.stack([study.table.subject, study.table.session], axis=1)
    train = {(int(s), int(k)) for s, k in np.unique(pairs[part == 1], axis=0)}
    tables = study.manifest.tables
    unknown = _unknown_session(study)
    for subject, session in _wanted(study, part):
        if (subject, session) not in train and (subject, unknown) not in train:
            raise StudyError(
                f"split {split.name!r}: subject {tables.subjects[subject]} session {tables.sessions[session]} has no training "
                "trials, expected some: a transform is fitted by subject and session on training trials only (use transform: none)"
            )
    return sorted(train)


def _wanted(study: StudyFolder, part: np.ndarray) -> list[tuple[int, int]]:
    """Every (subject, session) of validation and test."""
    pairs = np.stack([study.table.subject, study.table.session], axis=1)
    return [(int(s), int(k)) for s, k in np.unique(pairs[part > 1], axis=0)]


def _unknown_session(study: StudyFolder) -> int:
    sessions = study.manifest.tables.sessions
    return sessions.index(schema.UNKNOWN) if schema.UNKNOWN in sessions else -1


def _training_trials(study: StudyFolder, part: np.ndarray, group: tuple[int, int], advance: Advance) -> Iterator[tuple[np.ndarray, int]]:
    """float64 (R, C, T) and stimulus of every sample that has training repetitions in the group."""
    wanted = _wanted_rows(study, part, group)
    first = study.first_repetition()
    samples = np.unique(study.table.sample[wanted])
    for sample in samples:
        rows = wanted[first[sample] : first[sample] + study.samples["n_reps"][sample]]
        yield study.eeg(sample)[rows].astype(np.float64), int(study.samples["stimulus"][sample])
        advance()


def _wanted_rows(study: StudyFolder, part: np.ndarray, group: tuple[int, int]) -> np.ndarray:
    """Training repetitions of a (subject, session)."""
    rows: np.ndarray = (part == 1) & (study.table.subject == group[0]) & (study.table.session == group[1])
    return rows


def _fit_zscore(study: StudyFolder, part: np.ndarray, group: tuple[int, int], advance: Advance) -> Any:
    n_chans = study.manifest.signal.n_chans
    count, total_C, squares_C = 0, np.zeros(n_chans), np.zeros(n_chans)
    for eeg_RCT, _ in _training_trials(study, part, group, advance):
        count += eeg_RCT.shape[0] * eeg_RCT.shape[2]
        total_C += eeg_RCT.sum(axis=(0, 2))
        squares_C += (eeg_RCT**2).sum(axis=(0, 2))
    mean_C = total_C / count
    std_C = np.sqrt(np.maximum(squares_C / count - mean_C**2, 0))
    recordings = np.unique(study.table.recording[_wanted_rows(study, part, group)]).tolist()
    std_C[[name in study.manifest.masked_channels(recordings) for name in study.manifest.signal.ch_names] & (std_C == 0)] = 1  # stays zero
    if not (std_C > 0).all():
        name = study.manifest.signal.ch_names[int(std_C.argmin())]
        raise StudyError(f"{study.root}: channel {name} is constant in the training trials, expected a signal")
    return np.diag(1 / std_C), mean_C


def _fit_mvnn(study: StudyFolder, part: np.ndarray, group: tuple[int, int], advance: Advance) -> Any:
    sigma_CC = noise_covariance(study, part, group, advance)
    return signals.inverse_sqrt(sigma_CC), np.zeros(len(sigma_CC))


def noise_covariance(study: StudyFolder, part: np.ndarray, group: tuple[int, int], advance: Advance = lambda count=1: None) -> np.ndarray:
    """Covariance of the training repetitions around their stimulus' mean, shrunk by time point, averaged over time: (C, C).

    ``group`` is (subject, session). A study of classes takes the class's mean over the group, an image study the mean of
    the repetitions in one sample.
    """
    by_class = study.manifest.class_level
    means: dict[int, tuple[np.ndarray, int]] = {}
    if by_class:
        for eeg_RCT, stimulus in _training_trials(study, part, group, advance):
            total_CT, count = means.get(stimulus, (0, 0))
            means[stimulus] = total_CT + eeg_RCT.sum(axis=0), count + len(eeg_RCT)

    def around_means() -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
        for eeg_RCT, stimulus in _training_trials(study, part, group, advance):
            total_CT, n = means[stimulus] if by_class else (eeg_RCT.sum(axis=0), len(eeg_RCT))
            yield eeg_RCT, total_CT, n

    covariance_CC = shrunk_noise(around_means(), study.manifest.signal.n_chans, study.manifest.signal.n_times)
    if covariance_CC is None:
        tables = study.manifest.tables
        raise StudyError(
            f"{study.root}: subject {tables.subjects[group[0]]} session {tables.sessions[group[1]]}: no stimulus has two training "
            "repetitions, expected some: mvnn needs them to tell noise from signal (use transform: zscore or none)"
        )
    return covariance_CC


def shrunk_noise(samples: Iterable[tuple[np.ndarray, np.ndarray, int]], n_chans: int, n_times: int) -> np.ndarray | None:
    """Covariance of repetitions around means, shrunk by time point, averaged over time: float64 (C, C); None where nothing is repeated.

    Parameters
    ----------
    samples
        Repetitions float64 (R, C, T), the sum (C, T) of all that share their stimulus, and how many those are.
    """
    products_TCC = np.zeros((n_times, n_chans, n_chans))
    fourth_T, count = np.zeros(n_times), 0
    for eeg_RCT, total_CT, n in samples:
        if n < 2:
            continue
        # A mean over n takes one n-th of the noise with it.
        residual_TRC = ((eeg_RCT - total_CT / n) * np.sqrt(n / (n - 1))).transpose(2, 0, 1)
        products_TCC += residual_TRC.transpose(0, 2, 1) @ residual_TRC
        fourth_T += ((residual_TRC**2).sum(axis=2) ** 2).sum(axis=1)
        count += len(eeg_RCT)
    if not count:
        return None
    covariance_CC: np.ndarray = np.mean(
        [ledoit_wolf(p_CC / count, f / count, count) for p_CC, f in zip(products_TCC, fourth_T, strict=True)], axis=0
    )
    return covariance_CC


def ledoit_wolf(covariance_CC: np.ndarray, fourth_moment: float, count: int) -> np.ndarray:
    """Ledoit and Wolf's shrinkage from sums, so that trials need not be in memory together.

    Parameters
    ----------
    covariance_CC
        Mean of x xᵀ over ``count`` centred observations.
    fourth_moment
        Mean of ‖x‖⁴ over them.
    """
    n_chans = len(covariance_CC)
    mu = np.trace(covariance_CC) / n_chans
    squares = float((covariance_CC**2).sum())
    beta = (fourth_moment - squares) / (n_chans * count)
    delta = squares / n_chans - mu**2
    shrinkage = min(beta, delta) / delta if delta > 0 and beta > 0 else 0.0
    shrunk_CC: np.ndarray = (1 - shrinkage) * covariance_CC + shrinkage * mu * np.eye(n_chans)
    return shrunk_CC


def write_transform(root: Path, name: str, arrays: dict[str, np.ndarray]) -> Path:
    """Write ``transforms/NAME.npz`` atomically; the same arrays give the same bytes (no times inside the zip)."""
    path = root / "transforms" / f"{schema.check_split_name(name)}.npz"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for key, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{key}.npy"), member.getvalue())
    write_atomically(path, buffer.getvalue())
    seal(path.parent, [path])
    return path
