"""What trials look like together, gathered in one pass: evoked responses, spectra, levels, and how well two halves agree.

G: groups, S: subjects, U: pairs of subject and part, C: channels, T: time points, F: frequencies, R: repetitions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import fft

from data_prep.contract.progress import tracked
from data_prep.shards.open import StudyFolder

MOST_GROUPS = 6
"""Rows of the figure of evoked responses."""
_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Agreement of two halves of the repetitions, across stimuli: see :func:`gather`."""

    subject: int
    part: str | None
    """The source's own division of the stimuli."""
    stimuli: int
    repetitions: int
    """Median over the stimuli."""
    r_T: np.ndarray
    """Spearman-Brown corrected correlation, its mean over channels, by time point."""


@dataclass(frozen=True, kw_only=True)
class Responses:
    """What :func:`gather` found; EEG in the study's unit."""

    trials: int
    """Trials that were read."""
    groups: Sequence[str]
    evoked_GCT: np.ndarray
    count_G: np.ndarray
    frequency_F: np.ndarray
    """In Hz."""
    power_SF: np.ndarray
    """Mean power density over channels and trials, unit² / Hz; NaN where no trial of a subject was read."""
    subject_N: np.ndarray
    session_N: np.ndarray
    level_N: np.ndarray
    """Standard deviation over time of each trial, the median over channels."""
    reliabilities: Sequence[Reliability]
    classes_r: float | None
    """Class-level studies: correlation over channels and time points of the classes' responses, less their mean, in two halves of the
    trials, Spearman-Brown corrected; None where it does not apply."""


def choose_samples(study: StudyFolder, most_trials: int) -> np.ndarray:
    """Numbers of samples, ascending: evenly spread over each subject's stimuli of each part, so many that trials stay within a limit."""
    reps, stimulus = study.samples["n_reps"].astype(np.int64), study.samples["stimulus"]
    if reps.sum() <= most_trials:
        return np.arange(len(reps))
    parts = [each.part for each in study.manifest.tables.stimuli]
    part_order = sorted({part or "" for part in parts})
    part_of = np.array([part_order.index(part or "") for part in parts])[stimulus]
    unit = study.samples["subject"].astype(np.int64) * len(part_order) + part_of
    units = np.unique(unit)
    chosen = []
    for each in units:
        own = np.flatnonzero(unit == each)
        count = max(1, int(most_trials / len(units) / reps[own].mean()))
        chosen.append(own[np.linspace(0, len(own) - 1, min(count, len(own))).round().astype(int)])
    return np.unique(np.concatenate(chosen))


def gather(study: StudyFolder, most_trials: int) -> Responses:
    """Read trials once and gather what a page shows of them.

    Repetitions of a sample are dealt into two halves by a fixed draw. Of an image study the halves' averages are correlated across
    stimuli, at every channel and time point; of a class study the averages by class are.
    """
    manifest, table = study.manifest, study.table
    signal, tables = manifest.signal, manifest.tables
    class_level = manifest.class_level
    groups, group_of = _groups(study)
    shape = (signal.n_chans, signal.n_times)
    half_HGCT = np.zeros((2, len(groups), *shape))
    count_HG = np.zeros((2, len(groups)), np.int64)
    window_T = np.hanning(signal.n_times + 2)[1:-1]
    frequency_F = fft.rfftfreq(signal.n_times, 1 / signal.sfreq)
    power_SF, power_S = np.zeros((len(tables.subjects), len(frequency_F))), np.zeros(len(tables.subjects), np.int64)
    units: dict[tuple[int, str | None], _Halves] = {}
    subject_N, session_N, level_N = [], [], []
    first = study.first_repetition()
    rng = np.random.default_rng(_SEED)
    for sample in tracked(choose_samples(study, most_trials).tolist(), "samples read"):
        row = study.samples[sample]
        subject, stimulus, reps = int(row["subject"]), int(row["stimulus"]), int(row["n_reps"])
        eeg_RCT = study.eeg(sample).astype(np.float32)
        half_R = rng.permutation(reps) % 2 if reps > 1 else rng.integers(2, size=1)
        group = group_of[int(row["concept"]) if class_level else subject]
        for half in (0, 1):
            half_HGCT[half, group] += eeg_RCT[half_R == half].sum(0, dtype=np.float64)
            count_HG[half, group] += int((half_R == half).sum())
        centred_RCT = eeg_RCT - eeg_RCT.mean(-1, keepdims=True)
        power_SF[subject] += np.square(np.abs(fft.rfft(centred_RCT * window_T.astype(np.float32)))).mean(1).sum(0)
        power_S[subject] += reps
        level_N.append(np.median(centred_RCT.std(-1), axis=1))
        subject_N.append(np.full(reps, subject))
        session_N.append(table.session[first[sample] : first[sample] + reps])
        if not class_level and reps > 1:
            unit = units.setdefault((subject, tables.stimuli[stimulus].part), _Halves(shape))
            unit.add(eeg_RCT[half_R == 0].mean(0), eeg_RCT[half_R == 1].mean(0), reps)
    count_G = count_HG.sum(0)
    scale = signal.sfreq * np.square(window_T).sum() / 2  # one-sided density
    with np.errstate(invalid="ignore"):
        power = power_SF / power_S[:, None] / scale
    return Responses(
        trials=int(count_G.sum()),
        groups=groups,
        evoked_GCT=half_HGCT.sum(0) / np.maximum(count_G, 1)[:, None, None],
        count_G=count_G,
        frequency_F=frequency_F,
        power_SF=power,
        subject_N=np.concatenate(subject_N),
        session_N=np.concatenate(session_N),
        level_N=np.concatenate(level_N),
        reliabilities=[found for key, unit in sorted(units.items(), key=str) if (found := unit.reliability(*key)) is not None],
        classes_r=_classes_r(half_HGCT, count_HG) if class_level else None,
    )


def _groups(study: StudyFolder) -> tuple[list[str], np.ndarray]:
    """Names of the groups, and the group of each class, or of each subject: those with the most trials stand alone."""
    table, tables = study.table, study.manifest.tables
    labels, column = (tables.concepts, table.concept) if study.manifest.class_level else (tables.subjects, table.subject)
    counts = np.bincount(column, minlength=len(labels))
    alone = np.sort(np.argsort(-counts, kind="stable")[: MOST_GROUPS if len(labels) <= MOST_GROUPS else MOST_GROUPS - 1])
    group_of = np.full(len(labels), len(alone))
    group_of[alone] = np.arange(len(alone))
    prefix = "" if study.manifest.class_level else "subject "
    names = [f"{prefix}{labels[each]}" for each in alone]
    if len(labels) > len(alone):
        names.append(f"{len(labels) - len(alone)} other {'classes' if study.manifest.class_level else 'subjects'}")
    return names, group_of


class _Halves:
    """Sums from which correlations across stimuli follow, so that no average has to be kept."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self._sums_KCT = np.zeros((5, *shape))
        self._reps: list[int] = []
        self._shift_CT: np.ndarray | None = None

    def add(self, a_CT: np.ndarray, b_CT: np.ndarray, reps: int) -> None:
        if self._shift_CT is None:
            self._shift_CT = a_CT.astype(np.float64)  # sums of squares lose their digits where a mean is far from zero
        a, b = a_CT - self._shift_CT, b_CT - self._shift_CT
        for total, value in zip(self._sums_KCT, (a, b, a * a, b * b, a * b), strict=True):
            total += value
        self._reps.append(reps)

    def reliability(self, subject: int, part: str | None) -> Reliability | None:
        n = len(self._reps)
        if n < 3:
            return None
        a, b, aa, bb, ab = self._sums_KCT / n
        with np.errstate(invalid="ignore", divide="ignore"):
            r_CT = (ab - a * b) / np.sqrt((aa - a * a) * (bb - b * b))
            corrected_CT = spearman_brown(r_CT)
        # A channel that is constant has no correlation.
        finite_CT = np.isfinite(corrected_CT)
        total_T = np.where(finite_CT, corrected_CT, 0.0).sum(0)
        r_T = total_T / np.maximum(finite_CT.sum(0), 1)
        return Reliability(subject=subject, part=part, stimuli=n, repetitions=int(np.median(self._reps)), r_T=r_T)


def spearman_brown(r: np.ndarray) -> np.ndarray:
    """Reliability of the whole from the correlation of its halves; one below zero stays as it is, for there the formula runs away."""
    corrected: np.ndarray = np.where(r > 0, 2 * r / (1 + r), r)
    return corrected


def _classes_r(half_HGCT: np.ndarray, count_HG: np.ndarray) -> float | None:
    if half_HGCT.shape[1] < 2 or (count_HG < 2).any():
        return None
    mean_HGCT = half_HGCT / count_HG[:, :, None, None]
    mean_HGCT = mean_HGCT - mean_HGCT.mean(1, keepdims=True)
    a, b = mean_HGCT.reshape(2, -1)
    norm = np.linalg.norm(a) * np.linalg.norm(b)
    return float(spearman_brown(np.array(a @ b / norm))) if norm > 0 else None
