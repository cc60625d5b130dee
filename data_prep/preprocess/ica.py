"""Independent components that follow the eyes, or look like muscle, found and removed by MNE.

Fitted on the clean part of the signal, high-passed at 1 Hz, which drifts would otherwise rule; what it removes is a matrix, applied to
the signal as it is.

Shape suffixes: C channels, E eye channels, T time points, N components.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from data_prep.contract.errors import UserError
from data_prep.contract.words import listed
from data_prep.preprocess.fir import Span
from data_prep.preprocess.linear import apply_in_place, one_thread
from data_prep.preprocess.positions import info_of, places_of
from data_prep.preprocess.sampling import high_passed_part

log = logging.getLogger(__name__)

RANK_TOLERANCE = 1e-9
"""Share of the largest variance below which a direction is rounding: a re-referenced or interpolated signal has such."""
LEAST_FOR_Z = 10
_OPTIONS: dict[str, dict[str, bool]] = {"picard": {"ortho": False, "extended": True}, "fastica": {}, "infomax": {"extended": True}}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Fields of :class:`data_prep.preprocess.eyes.EyesConfig`."""

    algorithm: str
    num_components: int | None
    criterion: Literal["correlation", "zscore"]
    limit: float
    muscle: float | None
    max_removed: int
    seed: int


def remove(
    eeg_CT: np.ndarray,
    ch_names: Sequence[str],
    good: Sequence[int],
    eyes_ET: np.ndarray,
    eye_rows: Mapping[str, int],
    follow: Sequence[str],
    sfreq: float,
    spans: Sequence[Span],
    positions: Mapping[str, Sequence[float]],
    *,
    settings: Settings,
) -> dict[str, Any]:
    """Remove components from channels ``good`` in place.

    Parameters
    ----------
    eye_rows
        Eye channels beside the EEG, and their rows of ``eyes_ET``.
    follow
        Channels that the removed components follow, of either kind.

    Raises
    ------
    UserError
        More components than independent channels, no library of that algorithm, or too many components to remove.
    """
    import mne

    names = [ch_names[i] for i in good]
    part_CT = high_passed_part(eeg_CT, good, sfreq, spans, beside=len(eye_rows))
    rank = rank_of(part_CT)
    wanted = settings.num_components or rank
    if wanted > rank:
        raise UserError(
            f"eyes.num_components is {wanted} and the signal has {rank} independent of {len(good)} channels (an average reference or "
            "interpolation of before takes some): expected at most as many"
        )
    if settings.criterion == "zscore" and wanted < LEAST_FOR_Z:
        raise UserError(f"eyes.criterion is zscore with {wanted} components, expected at least {LEAST_FOR_Z}: among fewer none stands out")
    if rank < 2:
        raise UserError(f"eyes: ICA takes apart signals of several channels, there is {rank} independent one: take method regression")
    places_C3 = None if settings.muscle is None else places_of(names, positions, "eyes.muscle")
    beside = dict.fromkeys(eye_rows, "eog")
    parts = [part_CT]
    if eye_rows:
        parts.append(high_passed_part(eyes_ET, list(eye_rows.values()), sfreq, spans, beside=len(good)))
    with one_thread(), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        raw = mne.io.RawArray(1e-6 * np.vstack(parts), info_of(names, sfreq, places_C3, beside), verbose="error")
        decomposition = mne.preprocessing.ICA(
            n_components=wanted,
            method=settings.algorithm,
            fit_params=_OPTIONS[settings.algorithm] or None,
            random_state=settings.seed % 2**32,
            max_iter="auto",
            verbose="error",
        )
        try:
            decomposition.fit(raw, picks="eeg", verbose="error")
        except ImportError as error:
            raise UserError(f"eyes.algorithm picard needs python-picard ({error}): pip install 'eeg-vision-stack[preprocess]'") from error
        found: dict[int, dict[str, Any]] = {}
        highest = 0.0
        for name in follow:
            with mne.utils.use_log_level("error"):
                numbers, scores_N = decomposition.find_bads_eog(raw, ch_name=name, measure=settings.criterion, threshold=settings.limit)
            highest = max(highest, round(float(np.abs(scores_N).max()), 3))
            found |= {int(n): {"follows": name, "score": round(float(abs(scores_N[n])), 3)} for n in numbers if int(n) not in found}
        if settings.muscle is not None:
            numbers, scores_N = decomposition.find_bads_muscle(raw, threshold=settings.muscle, verbose="error")
            found |= {int(n): {"follows": "muscle", "score": round(float(scores_N[n]), 3)} for n in numbers if int(n) not in found}
        removed = {number: found[number] for number in sorted(found)}
        if len(removed) > settings.max_removed or len(removed) == wanted:
            told = listed(f"{number} ({each['follows']}, {each['score']})" for number, each in removed.items())
            raise UserError(
                f"eyes: {len(removed)} of {wanted} components would go, expected at most eyes.max_removed = {settings.max_removed}: {told}"
            )
        matrix_CC, offset_C = _as_matrix(decomposition, names, sfreq, list(removed))
    converged = not any("converge" in str(warning.message).lower() for warning in said)
    full_CC, full_C = np.eye(len(eeg_CT)), np.zeros(len(eeg_CT))
    full_CC[np.ix_(good, good)], full_C[list(good)] = matrix_CC, offset_C
    if not removed:
        log.warning("eyes: no component follows %s (highest correlation %g)", listed(follow), highest)
    if removed:
        apply_in_place(eeg_CT, full_CC, full_C)
    return {
        "method": "ica",
        "channels": list(follow),
        "components": int(decomposition.n_components_),
        "iterations": int(decomposition.n_iter_),
        **({} if converged else {"converged": False}),
        "highest_correlation": highest,
        "removed": [{"component": number, **each} for number, each in removed.items()],
    }


def rank_of(eeg_CT: np.ndarray) -> int:
    """Independent channels: directions that hold more than rounding."""
    with one_thread():
        scaled_CT = eeg_CT / np.maximum(eeg_CT.std(1, keepdims=True), 1e-300)
        values_C = np.linalg.eigvalsh(np.cov(scaled_CT))
    return int((values_C > RANK_TOLERANCE * values_C[-1]).sum())


def _as_matrix(decomposition: Any, names: Sequence[str], sfreq: float, removed: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """What MNE's ``apply`` does to a signal in microvolts: ``matrix @ x + offset``, learnt from zero and unit signals."""
    import mne

    probes_CT = np.hstack([np.zeros((len(names), 1)), np.eye(len(names))])
    raw = mne.io.RawArray(1e-6 * probes_CT, info_of(names, sfreq, None), verbose="error")
    answers_CT = 1e6 * decomposition.apply(raw, exclude=removed, verbose="error").get_data()
    offset_C = answers_CT[:, 0]
    return answers_CT[:, 1:] - offset_C[:, None], offset_C
