"""Sidecars of a BIDS recording held against its signal: what contradicts is refused with both, or accepted by config and written down.

Shape suffixes: C channels, T time points, F frequencies.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from data_prep.contract.errors import StudyError
from data_prep.contract.words import listed
from data_prep.studies.bids_sidecars import TYPES, Sidecars, Table
from data_prep.studies.cells import says_nothing
from data_prep.studies.channels import recognised
from data_prep.studies.continuous import MICROVOLTS, Continuous, Unit
from data_prep.studies.edf_header import has_other_rates, read_header
from data_prep.studies.patterns import Names

ACCEPTABLE = (
    "SamplingFrequency",
    "RecordingDuration",
    "RecordingType",
    "EEGChannelCount",
    "channels",
    "units",
    "EEGReference",
    "PowerLineFrequency",
)
"""What may differ by config: the signal is right then, and the sidecar is not."""
RATE_SHARE = 1e-3
_LINE_RATIO = 10.0
"""Power at the line frequency over that beside it, from which on there is one."""
_UNITS: dict[str, Unit] = {
    **dict.fromkeys(("v", "volt", "volts"), "volts"),
    **dict.fromkeys(("mv", "millivolt", "millivolts"), "millivolts"),
    **dict.fromkeys(("µv", "μv", "uv", "microv", "microvolt", "microvolts"), "microvolts"),
    **dict.fromkeys(("nv", "nanovolt", "nanovolts"), "nanovolts"),
}


class Contradictions:
    """What sidecar and signal disagree on, in sentences."""

    def __init__(self, accept: Sequence[str]) -> None:
        self._accept = accept
        self.sentences: list[str] = []

    def add(self, name: str, sentence: str) -> None:
        """Refuse, or write down where the config accepts ``name``.

        Raises
        ------
        StudyError
        """
        if name not in self._accept:
            raise StudyError(f"{sentence}; accept: [{name}] goes by the signal")
        self.sentences.append(sentence)


def check_layout(opened: Continuous, sidecars: Sidecars, rename: Names, found: Contradictions) -> Continuous:
    """Rate, length, channels and units of a recording against its sidecars; its channels typed as ``channels.tsv`` says."""
    rates = _check_rate(opened, sidecars, found)
    _check_length(opened, sidecars, found)
    kind = sidecars.eeg.text("RecordingType")
    if kind is not None and kind.casefold() == "epoched":
        source = sidecars.eeg.sources["RecordingType"]
        found.add("RecordingType", f"{source}: RecordingType is {kind}, expected a continuous recording, from which trials are cut")
    if sidecars.channels is None:
        names = [
            name
            for name, given in zip(opened.raw.ch_names, opened.raw.get_channel_types(), strict=True)
            if (recognised(name) or given) == "eeg"
        ]
        _check_count(opened, sidecars, len(names), str(opened.file), found)
        return opened
    rows = _rows(opened, sidecars.channels, rename, found)
    opened = _typed(opened, sidecars.channels, rows)
    kinds = [cell.strip().upper() for cell in sidecars.channels.column("type")]
    if set(kinds) - {"N/A", ""}:
        _check_count(opened, sidecars, kinds.count("EEG"), str(sidecars.channels.file), found)
        opened = _check_units(opened, sidecars.channels, rows, kinds, found)
    if rates:
        _check_channel_rates(opened, sidecars.channels, kinds, found)
    return opened


def _check_rate(opened: Continuous, sidecars: Sidecars, found: Contradictions) -> bool:
    """Whether the rate of ``opened`` is that of its EEG: EDF files of several rates are opened again with the channels that are kept."""
    if opened.format in ("EDF", "BDF") and len(set(read_header(opened.file).points)) > 1:
        header = read_header(opened.file)
        kept = [name for name in opened.raw.ch_names if recognised(name) is None]
        if has_other_rates(opened.file, header, kept[:1]):
            return False
    refuse_other_rate(opened, sidecars, found)
    return True


def refuse_other_rate(opened: Continuous, sidecars: Sidecars, found: Contradictions) -> None:
    """``SamplingFrequency`` against the rate of the signal."""
    said = sidecars.eeg.number("SamplingFrequency")
    if said is not None and not (said > 0 and abs(opened.sfreq / said - 1) <= RATE_SHARE):
        source = sidecars.eeg.sources["SamplingFrequency"]
        found.add(
            "SamplingFrequency",
            f"{source}: SamplingFrequency is {said:g} Hz, {opened.file} is sampled at {opened.sfreq:g} Hz: expected the same",
        )


def _check_channel_rates(opened: Continuous, table: Table, kinds: Sequence[str], found: Contradictions) -> None:
    for name, kind, cell in zip(table.column("name"), kinds, table.column("sampling_frequency"), strict=True):
        try:
            said = float(cell)
        except ValueError:
            continue
        if kind == "EEG" and np.isfinite(said) and not (said > 0 and abs(opened.sfreq / said - 1) <= RATE_SHARE):
            found.add(
                "SamplingFrequency",
                f"{table.file}: sampling_frequency of {name} is {said:g} Hz, {opened.file} is sampled at {opened.sfreq:g} Hz: "
                "expected the same",
            )
            return


def _check_length(opened: Continuous, sidecars: Sidecars, found: Contradictions) -> None:
    said = sidecars.eeg.number("RecordingDuration")
    if said is None:
        return
    seconds = opened.n_times / opened.sfreq
    filled = read_header(opened.file).seconds if opened.format in ("EDF", "BDF") else 0.0  # their last data record is filled up
    if not -max(2 / opened.sfreq, 0.01 * seconds) <= seconds - said <= max(2 / opened.sfreq, 0.01 * seconds, filled):
        source = sidecars.eeg.sources["RecordingDuration"]
        found.add("RecordingDuration", f"{source}: RecordingDuration is {said:g} s, {opened.file} has {seconds:g} s: expected the same")


def _check_count(opened: Continuous, sidecars: Sidecars, count: int, where: str, found: Contradictions) -> None:
    said = sidecars.eeg.number("EEGChannelCount")
    if said is not None and said != count:
        source = sidecars.eeg.sources["EEGChannelCount"]
        found.add("EEGChannelCount", f"{source}: EEGChannelCount is {said:g}, {where} has {count} channels of type EEG: expected as many")


def _rows(opened: Continuous, table: Table, rename: Names, found: Contradictions) -> dict[str, int]:
    """The recording's name of a channel -> its row of the table; by either's spelling, the case does not matter."""
    names = list(table.column("name"))
    exact = {name: row for row, name in enumerate(names)}
    folded = {name.casefold(): row for row, name in enumerate(names)}
    rows: dict[str, int] = {}
    for name in opened.raw.ch_names:
        ours = rename.of(name) or " ".join(name.split())
        row = next(
            (
                table[key]
                for table, key in ((exact, name), (exact, ours), (folded, name.casefold()), (folded, ours.casefold()))
                if key in table
            ),
            None,
        )
        if row is not None:
            rows[name] = row
    missing = [name for row, name in enumerate(names) if row not in rows.values()]
    more = [name for name in opened.raw.ch_names if name not in rows and recognised(name) is None]
    if missing:
        found.add(
            "channels",
            f"{table.file}: lists {listed(missing)}, {opened.file} has no such channel, but {listed(more or opened.raw.ch_names)}",
        )
    elif more:
        found.add("channels", f"{opened.file}: has {listed(more)}, which {table.file} does not list: expected a row for each channel")
    return rows


def _typed(opened: Continuous, table: Table, rows: dict[str, int]) -> Continuous:
    types = table.column("type")
    kinds: dict[str, str] = {}
    for name, given in zip(opened.raw.ch_names, opened.raw.get_channel_types(), strict=True):
        said = types[rows[name]].strip().upper() if name in rows else ""
        kinds[name] = TYPES.get(said, "misc") if not says_nothing(said) else recognised(name) or given
    known = {name: kind for name, kind in kinds.items() if kind in ("eeg", "eog", "ecg", "emg", "stim", "misc")}
    opened.raw.set_channel_types(known, on_unit_change="ignore", verbose="error")
    return replace(opened, typed=True)


def _check_units(opened: Continuous, table: Table, rows: dict[str, int], kinds: Sequence[str], found: Contradictions) -> Continuous:
    """The table's units against the file's own; volts are what many programs write whatever the file has."""
    cells = table.column("units")
    own = dict(getattr(opened.raw, "_orig_units", {}))
    said: dict[str, Unit] = {}
    for name, row in rows.items():
        if kinds[row] != "EEG" or says_nothing(cells[row]):
            continue
        unit = _UNITS.get(cells[row].strip().casefold())
        if unit is None:
            found.add("units", f"{table.file}: {name} is EEG in {cells[row]!r}, expected a unit of voltage")
            continue
        said[name] = unit
        inside = _UNITS.get(str(own.get(name, "")).strip().casefold())
        if inside is not None and "volts" not in (unit, inside) and unit != inside:
            found.add("units", f"{table.file}: {name} is in {unit}, {opened.file} says {inside}: expected the same")
    unsaid = [name for name in said if str(own.get(name, "")).strip().casefold() in ("n/a", "na")]
    if unsaid and len(unsaid) == len(said) and len(set(said.values())) == 1 and opened.format in ("EDF", "BDF"):
        return replace(opened, unit=next(iter(said.values())))  # numbers without a unit of their own
    return opened


# ---------------------------------------------------------------------------------------------------------- signal


def check_signal(
    opened: Continuous, sidecars: Sidecars, ch_names: Sequence[str], eeg_CT: np.ndarray, notch_hz: Sequence[float], found: Contradictions
) -> dict[str, Any]:
    """Reference and line frequency of a recording against its signal (microvolts): notes for the manifest."""
    notes: dict[str, Any] = {}
    reference = sidecars.eeg.text("EEGReference")
    if reference is not None:
        notes["reference"] = reference
        words = [name for name in ch_names if re.search(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])", reference)]
        source = sidecars.eeg.sources["EEGReference"]
        if reference.casefold() in (name.casefold() for name in ch_names):
            found.add(
                "EEGReference", f"{source}: EEGReference is {reference}, {opened.file} has a signal of channel {reference}: expected none"
            )
        elif words:
            notes["reference_odd"] = f"{source.name} names {listed(words)} as reference, which has a signal of its own"
    said = sidecars.eeg.number("PowerLineFrequency")
    ratios = line_ratios(eeg_CT, opened.sfreq)
    strong = [line for line, ratio in ratios.items() if ratio >= _LINE_RATIO]
    if said is not None:
        notes["line_hz"] = said
        source = sidecars.eeg.sources["PowerLineFrequency"]
        other = [line for line in strong if abs(line - said) > 1]
        if other and not any(abs(line - said) <= 1 for line in strong):
            found.add(
                "PowerLineFrequency",
                f"{source}: PowerLineFrequency is {said:g} Hz, {opened.file} has its line at {other[0]:g} Hz "
                f"({ratios[other[0]]:.0f} times the power "
                "beside it): expected the same",
            )
        wrong = [line for line in notch_hz if abs(line / said - round(line / said)) * said > 1 or line < said - 1]
        if wrong:
            found.add(
                "PowerLineFrequency",
                f"{source}: PowerLineFrequency is {said:g} Hz, trials.notch_hz takes {wrong[0]:g} Hz out: expected its multiples",
            )
    if strong:
        notes["line_measured_hz"] = strong
    filters = sidecars.eeg.text("SoftwareFilters")
    if filters is not None:
        notes["software_filters"] = filters[:200]
    return notes


def line_ratios(eeg_CT: np.ndarray, sfreq: float) -> dict[float, float]:
    """Power at 50 and 60 Hz over the median beside it, median over channels; none where the rate is too low."""
    from scipy.signal import welch

    if sfreq < 140 or eeg_CT.shape[1] < 4 * sfreq:
        return {}
    length = int(min(eeg_CT.shape[1], 120 * sfreq))
    picked = np.unique(np.linspace(0, len(eeg_CT) - 1, 8).astype(int))
    hz_F, power_CF = welch(eeg_CT[picked, :length], sfreq, nperseg=int(2 * sfreq))
    power_F = np.median(power_CF / np.maximum(power_CF.mean(1, keepdims=True), 1e-30), axis=0)
    ratios: dict[float, float] = {}
    for line in (50.0, 60.0):
        beside = (np.abs(hz_F - line) > 1.5) & (np.abs(hz_F - line) < 5)
        ratios[line] = float(power_F[np.abs(hz_F - line) <= 0.5].max() / max(float(np.median(power_F[beside])), 1e-30))
    return ratios


def bad_channels(table: Table | None) -> dict[str, str]:
    """Channels that a person called bad -> why, in the table's spelling."""
    if table is None:
        return {}
    rows = zip(table.column("name"), table.column("status"), table.column("status_description"), strict=True)
    return {name: "" if says_nothing(why) else why for name, status, why in rows if status.strip().casefold() == "bad"}


assert set(_UNITS.values()) == set(MICROVOLTS)
