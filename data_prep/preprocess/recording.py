"""What is done to a recording before trials are cut, in the order of :mod:`data_prep.preprocess`, and what was found.

Shape suffixes: C channels, E eye channels, T time points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_prep.contract import signals
from data_prep.contract.errors import UserError
from data_prep.contract.words import listed
from data_prep.preprocess import fir
from data_prep.preprocess.bad_channels import BadChannelsConfig, bad_channels
from data_prep.preprocess.eyes import EyesConfig, clean_eyes
from data_prep.preprocess.fir import Span
from data_prep.preprocess.linear import applied, apply_in_place, release
from data_prep.preprocess.montage import MontageConfig, to_montage
from data_prep.preprocess.positions import places_of
from data_prep.preprocess.reference import KINDS, rereference
from data_prep.preprocess.sampling import without
from data_prep.preprocess.splines import distances, spline_matrix

MOST_HARMONICS = 100


@dataclass(frozen=True, kw_only=True)
class SignalConfig:
    """What is done to a continuous recording."""

    band_hz: tuple[float | None, float | None] | None = (0.5, 45.0)
    """Pass band of a zero-phase filter on the continuous signal, Hz; an edge may be null; null: no filter."""
    notch_hz: tuple[float, ...] = ()
    """Line frequencies to remove, Hz; harmonics are named too, or ``notch_harmonics``."""
    reference: tuple[str, ...] | None = None
    """``[average]``, the channels whose mean is subtracted (``[M1, M2]``), or ``[rest]``: a point at infinity; None keeps the recording's
    reference."""
    filter: Literal["butterworth", "fir"] = "butterworth"
    """``butterworth``: order 4, forward and backward, a channel in memory; ``fir``: MNE's windowed sinc, in overlapping chunks, for
    recordings longer than memory."""
    notch_harmonics: bool = False
    """Also remove every multiple of ``notch_hz`` below Nyquist."""
    bad_channels: BadChannelsConfig | None = None
    """Bad channels, named or found, which are interpolated; None: none are."""
    eyes: EyesConfig | None = None
    """ICA or regression of eye artefacts; None: none."""
    montage: MontageConfig | None = None
    """Electrodes that all recordings are brought to; None: they keep theirs, which must be the same."""

    def __post_init__(self) -> None:
        if self.notch_harmonics and not self.notch_hz:
            raise ValueError("notch_harmonics is true and notch_hz is empty, expected a line frequency")
        if self.reference is not None and len(set(self.reference)) != len(self.reference):
            raise ValueError(f"reference is {list(self.reference)}, expected each name once")
        kinds = [name for name in self.reference or () if name in KINDS]
        if kinds and len(self.reference or ()) > 1:
            raise ValueError(f"reference is {list(self.reference or ())}, expected [{kinds[0]}] alone, or names of channels")

    def line_frequencies(self, sfreq: float) -> list[float]:
        """All that are removed, Hz, rising.

        Raises
        ------
        UserError
            A named one at or above Nyquist.
        """
        found = set()
        for line_hz in self.notch_hz:
            if not 0 < line_hz < sfreq / 2:
                raise UserError(
                    f"notch_hz is {line_hz} Hz, expected above 0 and below the Nyquist frequency of {sfreq / 2:g} Hz (sfreq {sfreq:g} Hz)"
                )
            most = MOST_HARMONICS if self.notch_harmonics else 1
            # The last half hertz below Nyquist has no room for a notch's transition.
            found |= {line_hz * k for k in range(1, most + 1) if k == 1 or line_hz * k * (1 + 1 / 400) + 0.5 < sfreq / 2}
        return sorted(found) if self.notch_harmonics else list(self.notch_hz)

    def plain(self) -> dict[str, Any]:
        """As the manifest says it; fields that came after the first are left out where they change nothing."""
        later = {f.name for f in fields(SignalConfig)} - {"band_hz", "notch_hz", "reference"}
        shown = {name: _plain(value) for name, value in vars(self).items()}
        return {name: value for name, value in shown.items() if name not in later or value not in (None, False, "butterworth")}

    def libraries(self) -> dict[str, str]:
        """Versions of what computes the steps that this config has, for the manifest; empty where it has only those that are our own."""
        used = ["pyprep"] if self.bad_channels is not None and set(self.bad_channels.find) - {"flat"} else []
        used += ["python-picard"] if self.eyes is not None and (self.eyes.method, self.eyes.algorithm) == ("ica", "picard") else []
        used += ["scikit-learn"] if self.eyes is not None and (self.eyes.method, self.eyes.algorithm) == ("ica", "fastica") else []
        by_mne = self.filter == "fir" or self.bad_channels or self.eyes or self.montage or self.reference == ("rest",)
        return {name: version(name) for name in ["mne", "scipy", *used]} if by_mne else {}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else asdict(value) if hasattr(value, "__dataclass_fields__") else value


@dataclass(frozen=True, kw_only=True)
class Beside:
    """What a recording has beside its EEG."""

    label: str = ""
    """``sub-01_ses-02_run-01``."""
    positions: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Channel -> [x, y, z] in metres, head coordinates, of those that have one."""
    eyes_ET: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    """float64 microvolts of the channels of type eog; filtered in place with the EEG."""
    eye_names: tuple[str, ...] = ()
    marked_bad: tuple[str, ...] = ()
    """Channels that the file marks as bad."""
    scratch: str | Path | None = None
    """Folder for what is too large for memory; None: the system's."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A recording whose trials can be cut."""

    eeg_CT: np.ndarray
    ch_names: list[str]
    positions: Mapping[str, Sequence[float]]
    masked: tuple[str, ...]
    """Channels that are zero: targets of a common montage far from every electrode."""
    found: dict[str, Any]
    """What each step found, for the manifest."""


def find_bad(
    eeg_CT: np.ndarray,
    ch_names: Sequence[str],
    sfreq: float,
    config: SignalConfig,
    beside: Beside,
    spans: Sequence[Span],
    bad: Sequence[Span],
) -> dict[str, list[str]]:
    """Bad channels of the raw signal, each with why: see :func:`data_prep.preprocess.bad_channels.bad_channels`."""
    if config.bad_channels is None:
        return {}
    return bad_channels(
        eeg_CT,
        ch_names,
        sfreq,
        config.bad_channels,
        label=beside.label,
        spans=without(spans, bad),
        positions=beside.positions,
        marked=[name for name in beside.marked_bad if name in ch_names],
    )


def prepare(
    eeg_CT: np.ndarray,
    ch_names: Sequence[str],
    sfreq: float,
    config: SignalConfig,
    beside: Beside,
    *,
    spans: Sequence[Span],
    bad: Sequence[Span],
    bad_names: Mapping[str, Sequence[str]],
) -> Prepared:
    """Filter, take the eyes out, interpolate, re-reference, bring to a common montage; ``eeg_CT`` (microvolts) is overwritten.

    Parameters
    ----------
    spans
        Between breaks: nothing is filtered across one.
    bad
        Bad segments, on which nothing is fitted.
    bad_names
        From :func:`find_bad`.

    Raises
    ------
    UserError
        A step that the recording cannot take.
    """
    filter_in_place(eeg_CT, sfreq, spans, config)
    found: dict[str, Any] = {}
    if config.eyes is not None:
        if beside.eye_names:
            filter_in_place(beside.eyes_ET, sfreq, spans, config)
        found["eyes"] = clean_eyes(
            eeg_CT,
            ch_names,
            beside.eyes_ET,
            beside.eye_names,
            sfreq,
            config.eyes,
            bad=list(bad_names),
            spans=without(spans, bad),
            positions=beside.positions,
        )
    if bad_names:
        assert config.bad_channels is not None
        found["bad_channels"] = {name: list(why) for name, why in bad_names.items()}
        _interpolate(eeg_CT, ch_names, bad_names, beside.positions, config.bad_channels.max_distance_metres)
    if config.reference is not None:
        unusable = [name for name in config.reference if name in bad_names]
        if unusable:
            raise UserError(f"reference has {listed(unusable)}, a bad channel of this recording: expected a reference that is good")
        rereference(eeg_CT, ch_names, config.reference, beside.positions)
    if config.montage is None:
        return Prepared(eeg_CT=eeg_CT, ch_names=list(ch_names), positions=beside.positions, masked=(), found=found)
    mapped = to_montage(ch_names, beside.positions, config.montage)
    found["montage"] = {"from": list(ch_names), "masked": list(mapped.masked)}
    return Prepared(
        eeg_CT=applied(eeg_CT, mapped.matrix_OS, beside.scratch),
        ch_names=list(config.montage.channels),
        positions=config.montage.target_positions(),
        masked=mapped.masked,
        found=found,
    )


def filter_in_place(eeg_CT: np.ndarray, sfreq: float, spans: Sequence[Span], config: SignalConfig) -> None:
    """Notch and band-pass a recording within each span, channel by channel: memory for one more channel, not for one more recording."""
    lines = config.line_frequencies(sfreq)
    if config.filter == "fir":
        all_taps = [fir.notch_taps(sfreq, line_hz) for line_hz in lines]
        if config.band_hz is not None:
            all_taps.append(fir.band_taps(sfreq, *config.band_hz))
        if all_taps:
            fir.filter_in_chunks(eeg_CT, fir.combined_taps(all_taps), spans, sfreq=sfreq)
        return
    for start, stop in spans:
        for channel_T in eeg_CT[:, start:stop]:
            filtered_T = channel_T
            for line_hz in lines:
                filtered_T = signals.notch(filtered_T, sfreq, notch_hz=line_hz)
            if config.band_hz is not None:
                filtered_T = signals.band_pass(filtered_T, sfreq, low_hz=config.band_hz[0], high_hz=config.band_hz[1])
            channel_T[:] = filtered_T
            release(channel_T)


def _interpolate(
    eeg_CT: np.ndarray,
    ch_names: Sequence[str],
    bad_names: Mapping[str, Sequence[str]],
    positions: Mapping[str, Sequence[float]],
    max_metres: float,
) -> None:
    """Bad channels from the good ones, in place."""
    places_C3 = places_of(ch_names, positions, "interpolation of bad channels")
    bad_rows = [i for i, name in enumerate(ch_names) if name in bad_names]
    good_rows = [i for i, name in enumerate(ch_names) if name not in bad_names]
    nearest = distances(places_C3[good_rows], places_C3[bad_rows]).min(1)
    far = [f"{ch_names[row]} ({metres:.3f} m)" for row, metres in zip(bad_rows, nearest, strict=True) if metres > max_metres]
    if far:
        raise UserError(
            f"bad channels {listed(far)} lie farther from good ones than bad_channels.max_distance_metres = {max_metres:g} m: they cannot "
            "be interpolated; leave them out with channels.drop"
        )
    matrix_CC = np.eye(len(ch_names))
    matrix_CC[bad_rows] = 0
    matrix_CC[np.ix_(bad_rows, good_rows)] = spline_matrix(places_C3[good_rows], places_C3[bad_rows])
    apply_in_place(eeg_CT, matrix_CC)
