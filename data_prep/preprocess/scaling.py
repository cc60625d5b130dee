"""Robust scaling and clamping of a recording's trials: median and interquartile range by channel.

Shape suffixes: B trials, C channels, T time points.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from data_prep.contract.errors import UserError
from data_prep.contract.words import listed

NORMAL_IQR = 1.3489795003921634
"""Interquartile range of a normal distribution in standard deviations."""


def scale_and_clamp(
    trials_BCT: np.ndarray, ch_names: Sequence[str], *, scale: bool, clamp_sd: float | None, masked: Sequence[str] = ()
) -> tuple[np.ndarray, dict[str, Any]]:
    """Centre and scale every channel, and hold values within limits.

    Parameters
    ----------
    trials_BCT
        All trials of one recording that stay.
    scale
        ``(x - median) / (IQR / 1.349)`` over the recording's trials: scikit-learn's ``RobustScaler(unit_variance=True)``.
    clamp_sd
        Largest distance from the median, in robust standard deviations; None: none.
    masked
        Channels of zeros, which stay.

    Returns
    -------
    (trials, found)
        float32 (B, C, T); what was found, for the manifest.

    Raises
    ------
    UserError
        A channel half of whose values are the same.
    """
    if not len(trials_BCT) or not (scale or clamp_sd):
        return trials_BCT, {}
    out_BCT = np.empty_like(trials_BCT, np.float32)
    clipped, sd = 0, {}
    for c, name in enumerate(ch_names):
        channel_BT = trials_BCT[:, c].astype(np.float64)
        low, median, high = np.percentile(channel_BT, [25, 50, 75])
        spread = (high - low) / NORMAL_IQR
        if name in masked:
            out_BCT[:, c] = channel_BT
            continue
        if not spread > 0:
            raise UserError(
                f"channel {name}: half of its values are {median:g}, expected a signal: robust scaling has nothing to divide by"
            )
        units_BT = (channel_BT - median) / spread
        if clamp_sd is not None:
            clipped += int((np.abs(units_BT) > clamp_sd).sum())
            np.clip(units_BT, -clamp_sd, clamp_sd, out=units_BT)
        out_BCT[:, c] = units_BT if scale else units_BT * spread + median
        sd[name] = float(f"{spread:.4g}")
    if not sd:
        raise UserError(f"all channels are masked ({listed(masked)})")
    return out_BCT, {"robust_sd": sd, **({"clamped_values": clipped} if clamp_sd is not None else {})}
