"""EEG as a head makes it, small: smooth fields on the scalp, sensor noise, blinks that an EOG channel shows, and line noise.

Shape suffixes: C channels, T time points.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data_prep.preprocess.positions import montage_positions
from data_prep.preprocess.splines import ORIGIN

NAMES = (
    *("Fp1", "Fp2", "F7", "F3", "Fz", "F4", "F8", "T7", "C3", "Cz", "C4", "T8", "P7", "P3", "Pz", "P4", "P8", "O1", "Oz", "O2"),
    *("FC1", "FC2", "CP1", "CP2", "FC5", "FC6", "CP5", "CP6"),
)
"""28 electrodes of the 10-20 system and between."""


def places(names: Sequence[str] = NAMES) -> dict[str, list[float]]:
    """Metres in head coordinates."""
    known = montage_positions("standard_1005", "montage")
    return {name: known[name] for name in names}


def smooth_field(n_times: int, names: Sequence[str] = NAMES, *, seed: int = 0, sources: int = 12) -> np.ndarray:
    """float64 (C, T), about 10 microvolts: sources with broad topographies and time courses of 2 to 20 Hz at 250 Hz."""
    random = np.random.default_rng(seed)
    at_C3 = np.array(list(places(names).values())) - ORIGIN
    at_C3 /= np.linalg.norm(at_C3, axis=1, keepdims=True)
    centres = random.normal(size=(sources, 3))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    topographies = np.exp(2.0 * (at_C3 @ centres.T - 1))
    spectrum = np.fft.rfftfreq(n_times, 1 / 250)
    noise = np.fft.rfft(random.normal(size=(sources, n_times)))
    courses = np.fft.irfft(noise * ((spectrum > 2) & (spectrum < 20)), n_times)
    field_CT = topographies @ courses
    return 10 * field_CT / field_CT.std()


def blinks(n_times: int, sfreq: float = 250.0, every_seconds: float = 2.7) -> np.ndarray:
    """float64 (T,): 250 microvolts, 200 ms each."""
    course_T, width = np.zeros(n_times), round(0.2 * sfreq)
    for start in range(round(sfreq), n_times - width, round(every_seconds * sfreq)):
        course_T[start : start + width] += 250 * np.hanning(width)
    return course_T


def blink_topography(names: Sequence[str] = NAMES) -> np.ndarray:
    """float64 (C,): strong at the forehead."""
    return np.array([np.exp(-(0.09 - place[1]) / 0.04) for place in places(names).values()])
