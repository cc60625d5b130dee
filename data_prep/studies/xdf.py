"""Recordings of the Lab Streaming Layer: one EEG stream, chosen by its type, and the marker streams beside it.

Shape suffixes: C channels, T time points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_prep.contract.errors import StudyError
from data_prep.contract.words import listed
from data_prep.studies.continuous import Continuous, Events, Unit, raw_of
from data_prep.studies.timestamps import MAX_RATE_DEVIATION, longest_piece, rate_of

_UNITS: dict[str, Unit] = {
    **dict.fromkeys(("microvolts", "microvolt", "uv", "µv", "μv"), "microvolts"),
    **dict.fromkeys(("volts", "volt", "v"), "volts"),
    **dict.fromkeys(("millivolts", "millivolt", "mv"), "millivolts"),
    **dict.fromkeys(("nanovolts", "nanovolt", "nv"), "nanovolts"),
}


@dataclass(frozen=True, kw_only=True)
class XdfConfig:
    """Which streams of an XDF file are meant."""

    type: str = "EEG"
    """Type of the stream that holds EEG, in either case."""
    name: str | None = None
    """Its name, where several have that type."""
    markers: str | None = None
    """Name of the marker stream; None: all streams whose type says Marker."""
    max_gap_seconds: float = 0.25
    """Longest step between neighbouring timestamps."""
    gaps: Literal["refuse", "split"] = "refuse"
    """What to do with a longer step, and with a clock that was reset: refuse the file, or filter and cut on either side alone."""


def open_xdf(file: Path, config: XdfConfig) -> Continuous:
    """The EEG stream at the rate that its timestamps have; markers at the nearest time point.

    Raises
    ------
    StudyError
        No such stream with samples or several, a clock that jumps, an unknown rate.
    """
    import pyxdf

    streams, _ = pyxdf.load_xdf(str(file), dejitter_timestamps=False, verbose=False)
    stream = _eeg_stream(file, streams, config)
    seconds_T = np.asarray(stream["time_stamps"], np.float64)
    data_CT = np.asarray(stream["time_series"]).T
    if data_CT.dtype.kind not in "fiu":
        raise StudyError(f"{file}: stream {_name(stream)!r} holds {data_CT.dtype}, expected numbers")
    breaks = _breaks(file, seconds_T, config)
    nominal = float(_info(stream, "nominal_srate") or 0)
    measured = _rate(file, seconds_T, breaks)
    notes: dict[str, Any] = {"stream": _name(stream), "nominal_hz": nominal, "measured_hz": round(measured, 3)}
    confirmed = nominal > 0 and abs(measured / nominal - 1) <= MAX_RATE_DEVIATION
    sfreq = nominal if confirmed else round(measured, 1)
    ch_names, unit = _channels(stream, len(data_CT))
    raw = raw_of(file, np.ascontiguousarray(data_CT, np.float64), ch_names, sfreq)
    markers = _markers(file, streams, config, seconds_T, sfreq)
    return Continuous(file=file, format="XDF", raw=raw, unit=unit, markers=markers, breaks=breaks, notes=notes)


def _eeg_stream(file: Path, streams: Sequence[Any], config: XdfConfig) -> Any:
    found = [s for s in streams if _info(s, "type").lower() == config.type.lower() and config.name in (None, _name(s))]
    full = [s for s in found if len(s["time_stamps"]) > 1]
    if len(full) != 1:
        have = listed(f"{_name(s)} (type {_info(s, 'type')}, {len(s['time_stamps'])} samples)" for s in streams)
        wanted = f"of type {config.type}" + (f" named {config.name}" if config.name else "")
        raise StudyError(f"{file}: {len(full)} streams with samples {wanted}, expected one (xdf.type, xdf.name); it has {have}")
    return full[0]


def _info(stream: Any, name: str) -> str:
    value = stream["info"].get(name) or [""]
    return str(value[0] or "").strip()


def _name(stream: Any) -> str:
    return _info(stream, "name")


def _breaks(file: Path, seconds_T: np.ndarray, config: XdfConfig) -> list[int]:
    step = np.diff(seconds_T)
    breaks = [int(i) + 1 for i in np.flatnonzero((step > config.max_gap_seconds) | (step < -config.max_gap_seconds))]
    if breaks and config.gaps == "refuse":
        at = breaks[0]
        kind = "a gap" if step[at - 1] > 0 else "its clock is reset, a step"
        raise StudyError(
            f"{file}: {kind} of {step[at - 1]:.3f} s after point {at:,}, longer than xdf.max_gap_seconds = {config.max_gap_seconds}: "
            "xdf.gaps: split reads it in pieces"
        )
    return breaks


def _rate(file: Path, seconds_T: np.ndarray, breaks: Sequence[int]) -> float:
    piece_T = seconds_T[longest_piece(breaks, len(seconds_T))]
    if len(piece_T) < 2:
        raise StudyError(f"{file}: its longest piece between gaps has {len(piece_T)} points, expected a recording")
    return rate_of(file, piece_T)


def _channels(stream: Any, count: int) -> tuple[list[str], Unit]:
    description = (stream["info"].get("desc") or [None])[0]
    channels: list[Mapping[str, Any]] = []
    if isinstance(description, Mapping) and description.get("channels") and isinstance(description["channels"][0], Mapping):
        channels = description["channels"][0].get("channel") or []
    labels = [str((channel.get("label") or channel.get("name") or [""])[0] or "") for channel in channels]
    units = {str((channel.get("unit") or [""])[0] or "").strip().lower() for channel in channels}
    names = labels if len(labels) == count and all(labels) else [f"EEG{i:03d}" for i in range(1, count + 1)]
    known: list[Unit] = [_UNITS[unit] for unit in units if unit in _UNITS]
    return names, known[0] if len(known) == 1 else "microvolts"


def _markers(file: Path, streams: Sequence[Any], config: XdfConfig, seconds_T: np.ndarray, sfreq: float) -> Events | None:
    chosen = [s for s in streams if (_name(s) == config.markers if config.markers else "marker" in _info(s, "type").lower())]
    if config.markers and not chosen:
        raise StudyError(f"{file}: no stream named {config.markers!r} (xdf.markers); it has {listed(map(_name, streams))}")
    rows = [(float(time), ",".join(map(str, np.atleast_1d(value))), _name(s)) for s in chosen for time, value in _pairs(s)]
    if not rows:
        return None
    order = np.argsort(seconds_T, kind="stable")
    times = seconds_T[order]
    kept, points, outside = [], [], 0
    for time, value, stream in sorted(rows):
        right = int(np.clip(np.searchsorted(times, time), 1, len(times) - 1))
        nearest = right if times[right] - time < time - times[right - 1] else right - 1
        if abs(times[nearest] - time) > max(1 / sfreq, config.max_gap_seconds):
            outside += 1  # before the EEG began, after it ended, or in a gap
            continue
        kept.append((value, stream))
        points.append(int(order[nearest]))
    columns = {"value": [value for value, _ in kept], "stream": [stream for _, stream in kept]}
    return Events(point_N=np.array(points, np.int64), columns=columns, notes={"outside_the_recording": outside} if outside else {})


def _pairs(stream: Any) -> list[tuple[Any, Any]]:
    return list(zip(stream["time_stamps"], stream["time_series"], strict=True))
