"""Bad channels of a recording: named, marked in the file, or found by the criteria of PREP (Bigdely-Shamlo et al. 2015, by pyprep).

Shape suffixes: C channels, T time points.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from data_prep.contract.errors import UserError
from data_prep.contract.seed import check_seed
from data_prep.contract.words import listed
from data_prep.preprocess.fir import Span
from data_prep.preprocess.linear import extremes, one_thread
from data_prep.preprocess.positions import info_of, places_of
from data_prep.preprocess.sampling import high_passed_part

Criterion = Literal["flat", "deviation", "hf_noise", "correlation", "ransac"]
LEAST_CHANNELS = 8
"""Fewer say nothing of what is usual among them."""
HF_NOISE_HZ = 50.0


@dataclass(frozen=True, kw_only=True)
class BadChannelsConfig:
    """Which channels of a recording are bad; their signal is interpolated from the others by spherical splines."""

    names: tuple[str, ...] = ()
    """Bad in every recording."""
    by_recording: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Pattern of a recording's label (``sub-01_ses-02_run-01``, ``sub-03_.*``) -> channels that are bad there."""
    marked: bool = True
    """Take those that the file itself marks (FIF, BIDS)."""
    find: tuple[Criterion, ...] = ()
    """Find them: ``flat`` (does not move); ``deviation`` (robust z of the amplitude); ``hf_noise`` (robust z of what lies above 50 Hz
    against what lies below); ``correlation`` (with every other channel too low, or without signal, in over 1 % of seconds); ``ransac``
    (predicted badly from the others' positions). On the raw signal, high-passed at 1 Hz; of long recordings on 2^24 values."""
    deviation_z: float = 5.0
    """Limit of ``deviation``, in robust standard deviations."""
    hf_noise_z: float = 5.0
    """Limit of ``hf_noise``, in robust standard deviations."""
    least_correlation: float = 0.4
    """Limit of ``correlation``: the best one with another channel, in a second."""
    max_share: float = 0.25
    """A recording with a larger share of bad channels is refused."""
    max_distance_metres: float = 0.06
    """A bad channel whose nearest good one is farther along the scalp is refused: it cannot be told from the others."""
    seed: int = 0
    """Of the random choice of ``ransac``."""

    def __post_init__(self) -> None:
        check_seed(self.seed)
        for name in ("deviation_z", "hf_noise_z", "least_correlation", "max_share", "max_distance_metres"):
            if not getattr(self, name) > 0:
                raise ValueError(f"bad_channels.{name} is {getattr(self, name)}, expected above 0")
        if not self.least_correlation < 1:
            raise ValueError(f"bad_channels.least_correlation is {self.least_correlation}, expected below 1")
        if not self.max_share < 1:
            raise ValueError(f"bad_channels.max_share is {self.max_share}, expected below 1")
        for pattern in self.by_recording:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"bad_channels.by_recording: {pattern!r} is no pattern ({error})") from error

    def check_labels(self, labels: Iterable[str]) -> None:
        """Refuse a pattern that fits no recording.

        Raises
        ------
        UserError
            Its channels would stay in silence.
        """
        have = list(labels)
        for pattern in self.by_recording:
            if not any(re.fullmatch(pattern, label) for label in have):
                raise UserError(f"bad_channels.by_recording: {pattern!r} fits no recording; there are {listed(have)}")


def bad_channels(
    eeg_CT: np.ndarray,
    ch_names: Sequence[str],
    sfreq: float,
    config: BadChannelsConfig,
    *,
    label: str,
    spans: Sequence[Span],
    positions: Mapping[str, Sequence[float]],
    marked: Sequence[str] = (),
) -> dict[str, list[str]]:
    """Bad channels of the raw signal (microvolts), in the order of ``ch_names``, each with why: named, marked, or the criteria it failed.

    Parameters
    ----------
    spans
        Time points to look at: without breaks and bad segments.
    marked
        Those that the file marks.

    Raises
    ------
    UserError
        A name that is no channel, a criterion that the recording cannot answer, or too many bad channels.
    """
    why: dict[str, list[str]] = {name: [] for name in ch_names}
    named = [*config.names]
    for pattern, own in config.by_recording.items():
        named += own if re.fullmatch(pattern, label) else ()
    missing = [name for name in named if name not in why]
    if missing:
        raise UserError(f"bad_channels names {listed(missing)}, expected channels that are read: {listed(ch_names, 80)}")
    for name in dict.fromkeys(named):
        why[name].append("named")
    for name in marked if config.marked else ():
        why[name].append("marked")
    if config.find:
        known = [name for name, reasons in why.items() if reasons]
        for reason, names in _found(eeg_CT, ch_names, sfreq, config, spans, positions, known).items():
            for name in names:
                why[name].append(reason)
    bad = {name: reasons for name, reasons in why.items() if reasons}
    if len(bad) > config.max_share * len(ch_names):
        told = listed(f"{name} ({', '.join(reasons)})" for name, reasons in bad.items())
        raise UserError(
            f"{len(bad)} of {len(ch_names)} channels are bad, expected at most {config.max_share:.0%} (bad_channels.max_share): {told}"
        )
    return bad


def _found(
    eeg_CT: np.ndarray,
    ch_names: Sequence[str],
    sfreq: float,
    config: BadChannelsConfig,
    spans: Sequence[Span],
    positions: Mapping[str, Sequence[float]],
    known: Sequence[str],
) -> dict[str, list[str]]:
    flat = [name for name, low, high in zip(ch_names, *extremes(eeg_CT), strict=True) if low == high]
    found = {"flat": flat} if "flat" in config.find else {}
    if set(config.find) <= {"flat"}:
        return found
    usable = [name for name in ch_names if name not in {*known, *flat}]
    if len(usable) < LEAST_CHANNELS:
        raise UserError(
            f"bad_channels.find compares channels and there are {len(usable)}, expected at least {LEAST_CHANNELS}: name the bad ones"
        )
    if "hf_noise" in config.find and sfreq <= 2 * HF_NOISE_HZ:
        raise UserError(
            f"bad_channels.find has hf_noise, which looks above {HF_NOISE_HZ:g} Hz, and the recording has {sfreq:g} Hz: leave it out"
        )
    places_C3 = places_of(usable, positions, "bad_channels.find: ransac") if "ransac" in config.find else None
    part_CT = 1e-6 * high_passed_part(eeg_CT, [list(ch_names).index(name) for name in usable], sfreq, spans)
    try:
        from pyprep import NoisyChannels
    except ImportError as error:
        raise UserError(f"bad_channels.find needs pyprep ({error}): pip install 'eeg-vision-stack[preprocess]'") from error
    import mne

    with one_thread(), warnings.catch_warnings(), mne.use_log_level("error"):
        warnings.simplefilter("ignore", RuntimeWarning)
        raw = mne.io.RawArray(part_CT, info_of(usable, sfreq, places_C3))
        channels = NoisyChannels(raw, do_detrend=False, random_state=config.seed % 2**32)
        still = list(channels.bad_by_flat)
        if still and "flat" in config.find:
            found["flat"] = [name for name in ch_names if name in {*flat, *still}]
        if "deviation" in config.find:
            channels.find_bad_by_deviation(config.deviation_z)
            found["deviation"] = channels.bad_by_deviation
        if "hf_noise" in config.find:
            channels.find_bad_by_hfnoise(config.hf_noise_z)
            found["hf_noise"] = channels.bad_by_hf_noise
        if "correlation" in config.find or "ransac" in config.find:  # RANSAC leaves out what is known to be bad
            channels.find_bad_by_correlation(correlation_threshold=config.least_correlation)
        if "correlation" in config.find:
            found["correlation"] = [*channels.bad_by_correlation, *channels.bad_by_dropout]
        if "ransac" in config.find:
            channels.find_bad_by_ransac()
            found["ransac"] = channels.bad_by_ransac
    return {reason: list(dict.fromkeys(names)) for reason, names in found.items()}
