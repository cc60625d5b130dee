"""Devices of MindBigData, and what its two formats have in common: values as text, of lengths that differ.

Shape suffixes: C channels, T time points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

DeviceName = Literal["MW", "EP", "MU", "IN"]
USUAL_SHARE = 0.05
"""Share of trials that may be shorter than the study's where its length is measured."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """A headset, as the data's author describes it."""

    name: str
    sfreq: float
    """Nominal rate in Hz; files hold no times that would tell another."""
    ch_names: tuple[str, ...]
    microvolts: float
    """Of one unit of its numbers."""


DEVICES: dict[str, Device] = {
    # NeuroSky's converter: 1.8 V over 4,096 steps behind a gain of 2,000.
    "MW": Device(name="MindWave", sfreq=512.0, ch_names=("FP1",), microvolts=1.8e6 / 4096 / 2000),
    "EP": Device(
        name="EPOC",
        sfreq=128.0,
        ch_names=("AF3", "F7", "F3", "FC5", "T7", "P7", "O1", "O2", "P8", "T8", "FC6", "F4", "F8", "AF4"),
        microvolts=1.0,
    ),
    # Ten bits over 1,682.815 µV.
    "MU": Device(name="Muse", sfreq=220.0, ch_names=("TP9", "FP1", "FP2", "TP10"), microvolts=1682.815 / 1023),
    "IN": Device(name="Insight", sfreq=128.0, ch_names=("AF3", "AF4", "T7", "T8", "Pz"), microvolts=1.0),
}
"""Code in the files -> device."""


def numbers(text: bytes) -> np.ndarray | None:
    """Comma-separated values, float64 (T,); None: one of them is no finite number."""
    try:
        found = np.array(text.strip().removesuffix(b",").split(b","), dtype=object).astype(np.float64)
    except ValueError:
        return None
    return found if np.isfinite(found).all() else None


def usual_length(lengths: Sequence[int]) -> int:
    """The most time points that all but one trial in twenty have."""
    return int(np.quantile(np.asarray(lengths), USUAL_SHARE, method="lower"))


def scaled(eeg_CT: np.ndarray, microvolts: float) -> np.ndarray:
    """float32 microvolts around each channel's mean of the trial: headsets add an offset of thousands, which float16 cannot hold."""
    found: np.ndarray = (microvolts * (eeg_CT - eeg_CT.mean(axis=1, keepdims=True))).astype(np.float32)
    return found
