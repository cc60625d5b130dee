"""Artefacts of the eyes, taken out of the continuous signal by ICA or by regression.

Shape suffixes: C channels, E eye channels, T time points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from data_prep.contract.errors import UserError
from data_prep.contract.seed import check_seed
from data_prep.contract.words import listed
from data_prep.preprocess import ica, regression
from data_prep.preprocess.fir import Span


@dataclass(frozen=True, kw_only=True)
class EyesConfig:
    """How blinks and saccades are taken out, before the reference and without the bad channels."""

    method: Literal["ica", "regression"]
    """``ica``: independent components that follow an eye channel are removed (MNE); ``regression``: what each channel has of the eye
    channels is subtracted (Gratton et al. 1983, MNE's EOGRegression), with what brain signal they hold."""
    channels: tuple[str, ...] = ()
    """Eye channels, by our names; empty: all of type eog. ICA may also take an EEG channel beside the eyes (``[Fp1]``)."""
    algorithm: Literal["picard", "fastica", "infomax"] = "picard"
    """``ica``: how components are found (infomax: extended)."""
    num_components: int | None = None
    """``ica``: components; None: as many as the signal has independent channels."""
    criterion: Literal["correlation", "zscore"] = "correlation"
    """``ica``: a component is the eyes' where its correlation with an eye channel at 1 to 10 Hz is above ``least_correlation``, or stands
    out among the components' by ``least_z``, whatever it is (MNE's own; needs ten components or more)."""
    least_correlation: float = 0.5
    """``ica``: limit of the correlation."""
    least_z: float = 3.0
    """``ica``: limit of the z-score, in standard deviations; what is above it is left out and the rest scored anew."""
    muscle: float | None = None
    """``ica``: also remove components that look like muscle, with a score above this (MNE's find_bads_muscle, 0.5 is usual); needs
    positions."""
    max_removed: int = 5
    """``ica``: a recording in which more components would go is refused."""
    seed: int = 0
    """``ica``: of its start."""

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if not 0 < self.least_correlation < 1:
            raise ValueError(f"eyes.least_correlation is {self.least_correlation}, expected between 0 and 1")
        if not self.least_z > 0:
            raise ValueError(f"eyes.least_z is {self.least_z}, expected above 0")
        if self.muscle is not None and not 0 < self.muscle < 1:
            raise ValueError(f"eyes.muscle is {self.muscle}, expected between 0 and 1")
        if self.num_components is not None and self.num_components < 2:
            raise ValueError(f"eyes.num_components is {self.num_components}, expected at least 2")
        if self.max_removed < 1:
            raise ValueError(f"eyes.max_removed is {self.max_removed}, expected at least 1")
        if len(set(self.channels)) != len(self.channels):
            raise ValueError(f"eyes.channels is {list(self.channels)}, expected each name once")
        if self.method == "regression" and (self.muscle is not None or self.num_components is not None):
            raise ValueError("eyes.muscle or eyes.num_components is given with method regression, expected method ica")


def clean_eyes(
    eeg_CT: np.ndarray,
    ch_names: Sequence[str],
    eyes_ET: np.ndarray,
    eye_names: Sequence[str],
    sfreq: float,
    config: EyesConfig,
    *,
    bad: Sequence[str],
    spans: Sequence[Span],
    positions: Mapping[str, Sequence[float]],
) -> dict[str, Any]:
    """Take the eyes out of ``eeg_CT`` (microvolts, filtered) in place; bad channels stay as they are.

    Parameters
    ----------
    eyes_ET, eye_names
        Channels of type eog, filtered as ``eeg_CT``.
    spans
        What it is fitted on: without breaks and bad segments.

    Returns
    -------
    dict
        What was found, for the manifest.

    Raises
    ------
    UserError
        No eye channel, one that does not move, or a signal that ICA cannot take apart.
    """
    wanted = list(config.channels or eye_names)
    if not wanted:
        raise UserError(
            "eyes: there is no channel of type eog: type one (channels.types), or name channels beside the eyes in eyes.channels"
        )
    missing = [name for name in wanted if name not in (*eye_names, *ch_names)]
    if missing:
        raise UserError(
            f"eyes.channels has {listed(missing)}, expected channels of type eog ({listed(eye_names)}) or eeg ({listed(ch_names, 80)})"
        )
    proxies = [name for name in wanted if name in ch_names]
    if proxies and config.method == "regression":
        raise UserError(
            f"eyes.channels has {listed(proxies)}, which is EEG: regression would take the brain's signal in it out of all others; "
            "type it eog (channels.types) or take method ica"
        )
    unusable = [name for name in proxies if name in bad]
    if unusable:
        raise UserError(f"eyes.channels has {listed(unusable)}, which is a bad channel of this recording: name another")
    rows = [list(eye_names).index(name) for name in wanted if name not in proxies]
    still = [eye_names[row] for row in rows if eyes_ET[row].min() == eyes_ET[row].max()]
    if still:
        raise UserError(
            f"eye channel {listed(still)} is constant: it is not connected, leave it out of eyes.channels or drop it (channels.drop)"
        )
    good = [i for i, name in enumerate(ch_names) if name not in bad]
    if config.method == "regression":
        return regression.subtract(eeg_CT, good, eyes_ET, rows, sfreq, spans, [str(name) for name in wanted])
    return ica.remove(
        eeg_CT,
        ch_names,
        good,
        eyes_ET,
        {eye_names[row]: row for row in rows},
        wanted,
        sfreq,
        spans,
        positions,
        settings=ica.Settings(
            algorithm=config.algorithm,
            num_components=config.num_components,
            criterion=config.criterion,
            limit=config.least_correlation if config.criterion == "correlation" else config.least_z,
            muscle=config.muscle,
            max_removed=config.max_removed,
            seed=config.seed,
        ),
    )
