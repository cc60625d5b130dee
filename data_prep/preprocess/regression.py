"""Regression of eye channels out of EEG (Gratton, Coles and Donchin 1983), by MNE's EOGRegression.

Shape suffixes: C channels, E eye channels, T time points.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from data_prep.contract.errors import UserError
from data_prep.preprocess.fir import Span
from data_prep.preprocess.linear import one_thread, pieces, release
from data_prep.preprocess.positions import info_of
from data_prep.preprocess.sampling import high_passed_part


def subtract(
    eeg_CT: np.ndarray,
    good: Sequence[int],
    eyes_ET: np.ndarray,
    rows: Sequence[int],
    sfreq: float,
    spans: Sequence[Span],
    names: Sequence[str],
) -> dict[str, Any]:
    """Subtract from channels ``good``, in place, what they have of eye channels ``rows``.

    The weights are fitted on the clean part, high-passed at 1 Hz, so that drifts do not count; they are applied to the signal as it is.

    Raises
    ------
    UserError
        Eye channels that are copies of each other.
    """
    import mne

    eye_part_ET = high_passed_part(eyes_ET, rows, sfreq, spans, beside=len(good))
    if np.linalg.matrix_rank(eye_part_ET) < len(rows):
        raise UserError(f"eye channels {', '.join(names)} follow from each other: expected independent ones, name fewer in eyes.channels")
    part_CT = high_passed_part(eeg_CT, good, sfreq, spans, beside=len(rows))
    labels, eyes = [f"EEG{i}" for i in range(len(good))], {f"EOG{i}": "eog" for i in range(len(rows))}
    with one_thread():
        raw = mne.io.RawArray(np.vstack([part_CT, eye_part_ET]), info_of(labels, sfreq, None, eyes), verbose="error")
        raw.set_eeg_reference([], verbose="error")  # as it is
        weights_CE = mne.preprocessing.EOGRegression(picks="eeg").fit(raw).coef_
    mean_E = np.array([float(np.mean(eyes_ET[row], dtype=np.float64)) for row in rows])
    full_CE = np.zeros((len(eeg_CT), len(rows)))
    full_CE[list(good)] = weights_CE
    with one_thread():
        for piece in pieces((eeg_CT.shape[0], eeg_CT.shape[1])):
            eeg_CT[:, piece] -= full_CE @ (eyes_ET[list(rows), piece].astype(np.float64) - mean_E[:, None])
            release(eeg_CT)
    explained = 1 - np.var(part_CT - weights_CE @ eye_part_ET, axis=1) / np.var(part_CT, axis=1)
    return {"method": "regression", "channels": list(names), "share_of_variance": round(float(explained.mean()), 4)}
