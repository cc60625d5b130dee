"""Channels of a recording: their names, which of them are EEG, at what level and where on the head.

Shape suffixes: C channels, T time points.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.contract.errors import StudyError
from data_prep.contract.words import listed
from data_prep.preprocess.linear import extremes, release
from data_prep.preprocess.positions import montage_positions
from data_prep.studies.continuous import MICROVOLTS, Continuous, Unit
from data_prep.studies.patterns import Names

TYPES = ("eeg", "eog", "ecg", "emg", "stim", "misc")
PLAUSIBLE_MICROVOLTS = (0.2, 2_000.0)
"""Standard deviation within a second, median over channels and time, that scalp EEG can have, from a quiet to an unfiltered one."""
_USUAL_MICROVOLTS = 15.0
MOST_MICROVOLTS = 1e7
"""No amplifier takes ten volts, whatever offset its electrodes have."""
_RECOGNISED = (
    ("ecg", re.compile(r"(ecg|ekg)([ _+-].*|\d*)", re.IGNORECASE)),
    ("eog", re.compile(r"[vh]?eog.*", re.IGNORECASE)),
    ("emg", re.compile(r"emg([ _+-].*|\d*)", re.IGNORECASE)),
    ("stim", re.compile(r"(trigger|trig|status|sti ?\d+|stim|marker|event)s?([ _+-].*|\d*)", re.IGNORECASE)),
    (
        "misc",
        re.compile(
            r"(gsr|eda|resp.*|temp.*|photo.*|aux.*|right aux|left aux|acc[ _]?[xyz]?|gyro[ _]?[xyz]?|spo2|pulse.*|pleth.*)", re.IGNORECASE
        ),
    ),
)
"""Names that are no EEG electrode's, whatever type a format gives them (EDF and BrainVision call all of them EEG)."""


@dataclass(frozen=True, kw_only=True)
class ChannelsConfig:
    """Which channels are read, under which names. Patterns are regular expressions that match a whole name."""

    rename: dict[str, str] = field(default_factory=dict)
    """Pattern of a file's name -> ours, ``\\1`` stands for its first group: ``"EEG (.*)-Ref": '\\1'``, ``'(.*?)\\.+': '\\1'``."""
    types: dict[str, str] = field(default_factory=dict)
    """Pattern of a name (ours) -> eeg, eog, ecg, emg, stim or misc; those that are not eeg are left out, and counted. Comes
    before the format's type and before names that are recognised (ECG, EMG, VEOG, Status ...)."""
    pick: tuple[str, ...] | None = None
    """Channels to keep, by our names, in this order; None: all that are EEG, in the order of the first recording."""
    drop: tuple[str, ...] = ()
    """Channels to leave out, by our names."""
    unit: Unit | None = None
    """Unit of the numbers as they are read; None: what the format says. For files whose header says none or a wrong one."""
    unit_by_subject: dict[str, Unit] = field(default_factory=dict)
    """Subject -> unit, where one subject's files have another."""
    montage: str | None = None
    """Positions: one of MNE's standard montages (``standard_1005``, ``biosemi64``, ...) or a file of positions; None: the files' own."""

    def unit_of(self, subject: str) -> Unit | None:
        """Stated unit of a subject's numbers."""
        return self.unit_by_subject.get(subject, self.unit)

    def __post_init__(self) -> None:
        Names(self.rename, "channels.rename")
        Names(self.types, "channels.types")
        unknown = sorted(set(self.types.values()) - set(TYPES))
        if unknown:
            raise ValueError(f"channels.types has {unknown[0]!r}, expected one of {', '.join(TYPES)}")
        if self.pick is not None and (not self.pick or len(set(self.pick)) != len(self.pick)):
            raise ValueError(f"channels.pick is {list(self.pick)}, expected at least one name, each once")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The EEG channels of one recording."""

    ch_names: list[str]
    """Ours, in order."""
    source_names: list[str]
    """Those of the file, in the same order."""
    left_out: dict[str, str]
    """Our name -> why, of all others."""
    eyes: dict[str, list[str]] = field(default_factory=dict)
    """Channels of type eog: our name -> the file's, one as a rule."""


def choose(opened: Continuous, config: ChannelsConfig, wanted: str = "eeg") -> Choice:
    """Name and type every channel; keep those that are EEG, or of the type ``wanted``.

    Raises
    ------
    StudyError
        Names that come twice, a wanted channel that is not there, or no EEG channel.
    """
    rename, types = Names(config.rename, "channels.rename"), Names(config.types, "channels.types")
    file, source = opened.file, list(opened.raw.ch_names)
    ours = [rename.of(name) or " ".join(name.split()) for name in source]
    kept: dict[str, str] = {}
    left_out: dict[str, str] = {}
    eyes: dict[str, list[str]] = {}
    for name, original, given in zip(ours, source, opened.raw.get_channel_types(), strict=True):
        kind = types.of(name) or (None if opened.typed else recognised(name)) or given
        if name in config.drop:
            left_out[name] = "dropped"
        elif kind != wanted:
            left_out[name] = kind
            if kind == "eog":
                eyes.setdefault(name, []).append(original)
        elif config.pick is not None and name not in config.pick:
            left_out[name] = "not picked"
        elif name in kept:
            raise StudyError(
                f"{file}: channels {kept[name]!r} and {original!r} are both {name!r} after channels.rename, expected names that differ"
            )
        else:
            kept[name] = original
    missing = [name for name in config.pick or () if name not in kept]
    if missing:
        why = f" (it is there as {left_out[missing[0]]})" if missing[0] in left_out else ""
        raise StudyError(f"{file}: has no {wanted.upper()} channel {missing[0]!r}{why}; it has {listed(kept or ours, 80)}")
    if not kept:
        raise StudyError(
            f"{file}: has no {wanted.upper()} channel; it has {listed(f'{name} ({why})' for name, why in left_out.items())}: see "
            "channels.types"
        )
    _refuse_duplicates(file, kept, source, config, rename)
    order = list(config.pick or kept)
    return Choice(ch_names=order, source_names=[kept[name] for name in order], left_out=left_out, eyes=eyes)


def recognised(name: str) -> str | None:
    """Type of a channel by a name that no EEG electrode has; None: its name says nothing."""
    return next((kind for kind, pattern in _RECOGNISED if pattern.fullmatch(name)), None)


def _refuse_duplicates(file: Path, kept: Mapping[str, str], source: Sequence[str], config: ChannelsConfig, rename: Names) -> None:
    """MNE numbers labels that a file has twice, ``F1-0`` and ``F1-1``: which is which has to be said."""
    for name, original in kept.items():
        stem, _, number = original.rpartition("-")
        twins = [f"{stem}-{i}" for i in range(2)]
        if number.isdigit() and set(twins) <= set(source) and rename.of(original) is None and name not in (config.pick or ()):
            raise StudyError(
                f"{file}: has the label {stem!r} twice (read as {', '.join(twins)}): name them in channels.rename, or pick or drop "
                "one in channels"
            )


# ----------------------------------------------------------------------------------------------------------- level


def levels_microvolts(eeg_CT: np.ndarray, sfreq: float) -> np.ndarray:
    """Level of every channel: median over seconds of the standard deviation within one, which drifts and single artefacts do not move."""
    n_times = eeg_CT.shape[1]
    length = min(max(int(sfreq), 2), n_times)
    starts = np.unique(np.linspace(0, n_times - length, num=min(64, max(n_times // length, 1))).astype(int))
    with np.errstate(over="ignore", invalid="ignore"):  # a damaged file may hold any number
        std_NC = []
        for start in starts.tolist():
            std_NC.append(np.std(eeg_CT[:, start : start + length], axis=1))
            release(eeg_CT)
        level_C: np.ndarray = np.median(std_NC, axis=0)
    return level_C


def levels_apart(level_C: np.ndarray, ch_names: Sequence[str]) -> dict[str, float]:
    """Channels whose level is a hundred times another than the median: of another unit, or of no electrode."""
    apart_C = np.abs(np.log10(np.maximum(level_C, 1e-30) / np.median(level_C))) > 2
    return {name: float(f"{level:.3g}") for name, level, apart in zip(ch_names, level_C, apart_C, strict=True) if apart}


def refuse_what_no_electrode_gives(file: Path, eeg_CT: np.ndarray, ch_names: Sequence[str], bad: Collection[str] = ()) -> None:
    """Refuse a channel that does not move in the whole recording, or that reaches ten volts, unless it is known to be ``bad``.

    Raises
    ------
    StudyError
        The channels are named.
    """
    lowest_C, highest_C = extremes(eeg_CT)
    still = [name for name, low, high in zip(ch_names, lowest_C, highest_C, strict=True) if low == high and name not in bad]
    if still:
        raise StudyError(
            f"{file}: channel {listed(still)} is constant in all {eeg_CT.shape[1]:,} points: not connected, leave it out with channels.drop"
        )
    peak_C = np.where([name in bad for name in ch_names], 0.0, np.maximum(highest_C, -lowest_C))
    if peak_C.max() > MOST_MICROVOLTS:
        worst = int(peak_C.argmax())
        raise StudyError(
            f"{file}: channel {ch_names[worst]} reaches {peak_C[worst]:.3g} µV, expected at most {MOST_MICROVOLTS:.0e}: the file is "
            "damaged, or "
            "the channel is no EEG (channels.types)"
        )


def check_level(file: Path, level: float, unit: Unit, fields: str = "channels.unit, channels.unit_by_subject") -> None:
    """Refuse a level that EEG cannot have; the sentence says which unit would make it plausible.

    Raises
    ------
    StudyError
        With the measured level, and the unit that it suggests.
    """
    if PLAUSIBLE_MICROVOLTS[0] <= level <= PLAUSIBLE_MICROVOLTS[1]:
        return
    numbers = level / MICROVOLTS[unit]  # as they stand in the file
    suits = [u for u, factor in MICROVOLTS.items() if PLAUSIBLE_MICROVOLTS[0] <= numbers * factor <= PLAUSIBLE_MICROVOLTS[1]]
    suits.sort(key=lambda u: abs(np.log(numbers * MICROVOLTS[u] / _USUAL_MICROVOLTS)))
    hint = f"they look like {suits[0]} ({fields})" if suits else "no unit makes that EEG"
    raise StudyError(
        f"{file}: its EEG read as {unit} has a level of {level:.3g} µV (standard deviation within a second), expected "
        f"{PLAUSIBLE_MICROVOLTS[0]:g} to {PLAUSIBLE_MICROVOLTS[1]:g} µV: {hint}"
    )


# ------------------------------------------------------------------------------------------------------- positions


def positions_of(opened: Continuous, choice: Choice, config: ChannelsConfig) -> dict[str, list[float]]:
    """Our name -> [x, y, z] in metres, head coordinates, of the channels that have a position.

    Raises
    ------
    StudyError
        A montage that there is not, or one that lacks a channel: those are named.
    """
    if config.montage is None:
        places = _places(opened.raw.info)
        return {name: places[source] for name, source in zip(choice.ch_names, choice.source_names, strict=True) if source in places}
    known = montage_positions(config.montage, "channels.montage")
    folded = {name.casefold(): place for name, place in known.items()}
    lacking = [name for name in choice.ch_names if name.casefold() not in folded]
    if lacking:
        raise StudyError(
            f"{opened.file}: montage {config.montage} has no position for {listed(lacking)}: rename, drop or pick channels, or say "
            "another montage"
        )
    return {name: folded[name.casefold()] for name in choice.ch_names}


def _places(info: Any) -> dict[str, list[float]]:
    """[x, y, z] in metres of the channels of an MNE ``Info`` that have a position."""
    located = {channel["ch_name"]: channel["loc"][:3] for channel in info["chs"]}
    return {name: [round(float(value), 6) for value in loc] for name, loc in located.items() if np.isfinite(loc).all() and np.any(loc)}


def refuse_other_channels(file: Path, ch_names: Sequence[str], first: Path, wanted: Sequence[str]) -> None:
    """Refuse a recording without the channels of the study's first, or with others besides, which ``channels.pick`` alone leaves out.

    Raises
    ------
    StudyError
    """
    lacking = [name for name in wanted if name not in ch_names]
    more = [name for name in ch_names if name not in wanted]
    if lacking or more:
        differs = f"lacks {listed(lacking)}" if lacking else f"has {listed(more)} besides"
        raise StudyError(f"{file}: {differs}, {first} has {len(wanted)} channels: expected the same; see channels.pick")
