"""Reader of MindBigData's "MNIST of brain digits": one text file a device, a line a channel of a trial of two seconds.

::

    id <tab> event <tab> device <tab> channel <tab> code <tab> size <tab> values with commas
    1142043  173652      IN           AF3           0         256        4259.487179,4237.948717,...

The lines of an event are its channels. An event is kept where every channel of the device is there once, with as many values as ``size``
says, all of them numbers, not one channel constant, and a digit (code -1 stands for none). What is lost is counted by reason. The file does
not say when recordings began: samples lie in as many consecutive parts as asked for, which stand for recordings, so that a split can hold
out whole stretches of time. EEG stays in the file; opening reads it once to check it.

Shape suffixes: C channels, T time points.
"""

from __future__ import annotations

import logging
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data_prep.contract import schema
from data_prep.contract.errors import StudyError
from data_prep.contract.files import check_ordinary
from data_prep.contract.manifest import Stimulus
from data_prep.contract.progress import progress
from data_prep.contract.words import listed, short
from data_prep.studies import trials
from data_prep.studies.base import ReaderConfig, SamplePlan, StudyFacts, hash_files
from data_prep.studies.mindbigdata_signals import DEVICES, DeviceName, numbers, scaled, usual_length
from data_prep.studies.trial_units import measured_unit
from data_prep.studies.trials import TrialsConfig

log = logging.getLogger(__name__)

FIELDS = ("id", "event", "device", "channel", "code", "size", "values")
NO_DIGIT = -1
MOST_LINE_BYTES = 2**20
"""A line of two seconds has some ten thousand."""


@dataclass(frozen=True, kw_only=True)
class MindBigDataReaderConfig(ReaderConfig):
    """MindBigData, the MNIST of brain digits (``MW.txt``, ``EP1.01.txt``, ``MU.txt``, ``IN.txt``)."""

    path: str
    """The text file."""
    device: DeviceName | None = None
    """Headset: ``MW`` (MindWave), ``EP`` (EPOC), ``MU`` (Muse) or ``IN`` (Insight); None: the only one in the file."""
    channels: tuple[str, ...] | None = None
    """Channels that an event must have and that are kept, in this order; None: all of the device."""
    n_times: int | None = None
    """Time points of a trial; shorter ones are dropped, longer ones cut at the end. None: the most that 95 % of the events have."""
    sfreq: float | None = None
    """Rate in Hz; None: the device's nominal one (512, 128, 220, 128)."""
    microvolts_per_unit: float | None = None
    """Microvolts that one unit of the file stands for; None: the device's."""
    parts: int = 10
    """Consecutive parts of the file that stand for recordings."""
    trials: TrialsConfig = field(default_factory=TrialsConfig)
    """Window, resampling and baseline; each channel's mean of the trial is always subtracted first."""

    def __post_init__(self) -> None:
        if self.channels is not None and (not self.channels or len(set(self.channels)) != len(self.channels)):
            raise ValueError(f"channels is {list(self.channels)}, expected at least one name, each once")
        for name in ("n_times", "parts", "sfreq", "microvolts_per_unit"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value}, expected above 0")

    def open(self) -> MindBigDataSource:
        """Read the file once and decide which events stay."""
        return MindBigDataSource(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One channel of an event; its values stay in the file."""

    event: int
    """Of a device with one channel, whose events are not numbered: the line's id."""
    device: str
    channel: str
    code: int
    length: int
    """Values that there are."""
    offset: int
    """Byte of the first value."""
    bytes: int
    fault: str
    """Why it cannot be used: ``size_contradicts``, ``no_numbers``, ``flat``; empty: it can."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """A trial that is kept."""

    event: int
    code: int
    length: int
    spans: tuple[tuple[int, int], ...]
    """Offset and bytes of each channel's values, in the study's order."""


class MindBigDataSource:
    """An opened file."""

    def __init__(self, config: MindBigDataReaderConfig) -> None:
        self.config, path = config, Path(config.path)
        self._path = path
        self._counts: Counter[str] = Counter()
        self._events, code = self._kept(path)
        device = DEVICES[code]
        ch_names = config.channels or device.ch_names
        n_times = config.n_times or usual_length([event.length for event in self._events])
        long_enough = [event for event in self._events if event.length >= n_times]
        if not long_enough:
            raise StudyError(
                f"{path}: not one of {len(self._events)} events has {n_times} time points (n_times), the longest has "
                f"{max(e.length for e in self._events)}"
            )
        self._counts["too_short"] = len(self._events) - len(long_enough)
        self._counts["kept"] = len(long_enough)
        self._events = long_enough
        self._microvolts = config.microvolts_per_unit or device.microvolts
        self._before = trials.TrialFacts(sfreq=config.sfreq or device.sfreq, tmin=0.0, n_times=n_times, ch_names=tuple(ch_names))
        after = trials.facts_in_study(config.trials, self._before)
        _, unit, measured = measured_unit(path, self._raw, len(self._events), "microvolts")
        self._plan(config.parts)
        self.facts = StudyFacts(
            stimulus_level="class",
            unit=unit,
            sfreq=after.sfreq,
            tmin=after.tmin,
            n_times=after.n_times,
            ch_names=list(after.ch_names),
            subjects=["01"],
            stimuli=[Stimulus(id=str(digit), concept=i, image=None, part=None) for i, digit in enumerate(self._digits)],
            concepts=[str(digit) for digit in self._digits],
            sessions=[schema.UNKNOWN],
            recordings=self._recordings,
            preprocessing={
                "reader": "mindbigdata",
                "device": device.name,
                "trials": {name: count for name, count in self._counts.items() if count or name == "kept"},
                "n_times": "stated" if config.n_times else "measured: the most that 95 % of the events have",
                "microvolts_per_unit": self._microvolts,
                "recordings": f"not known: {len(self._recordings)} consecutive parts of the file stand for them",
                **measured,
                "changes": {name: value for name, value in vars(config.trials).items() if value is not None},
            },
        )
        self.source_hash = hash_files([path], path.parent)
        log.info("%s: %s", path, ", ".join(f"{count:,} {what}" for what, count in self._counts.items() if count))

    def eeg(self, i: int) -> np.ndarray:
        """Sample ``i``: float32 (1, n_chans, n_times), microvolts."""
        return trials.apply(self.config.trials, self._raw(i)[None], self._before)

    def _raw(self, i: int) -> np.ndarray:
        """float32 (C, T) in microvolts around each channel's mean."""
        event, n_times = self._events[i], self._before.n_times
        handle = os.open(self._path, os.O_RDONLY)
        try:
            rows = [numbers(os.pread(handle, length, offset)) for offset, length in event.spans]
        finally:
            os.close(handle)
        found = [row for row in rows if row is not None and len(row) >= n_times]
        if len(found) != len(rows):
            raise StudyError(
                f"{self._path}: event {event.event} is not what it was: the file changed while it was read, shard the study anew"
            )
        return scaled(np.stack([row[:n_times] for row in found]), self._microvolts)

    # ------------------------------------------------------------------------------------------------ what is kept

    def _kept(self, path: Path) -> tuple[list[Event], str]:
        """Whole events in the order of the file, and the device."""
        lines: dict[str, dict[int, list[Line]]] = {}
        for line in read_lines(path, self._counts):
            lines.setdefault(line.device, {}).setdefault(line.event, []).append(line)
        wanted: str | None = self.config.device or (next(iter(lines)) if len(lines) == 1 else None)
        if wanted not in lines:
            raise StudyError(
                f"{path}: holds {'lines of ' + listed(lines) if lines else 'no line'}, expected "
                f"{wanted or 'one device, or its code in the field device'}"
            )
        self._counts["of_other_devices"] = sum(len(own) for device, own in lines.items() if device != wanted)
        channels = self._channels(path, wanted)
        judged = [_event(number, own, channels) for number, own in lines[wanted].items()]
        events = [each for each in judged if isinstance(each, Event)]
        self._counts.update(each for each in judged if isinstance(each, str))
        self._counts["in_file"] = len(lines[wanted])
        if not events:
            lost = ", ".join(f"{count} {reason}" for reason, count in self._counts.items() if count)
            raise StudyError(
                f"{path}: no whole event of device {wanted}, expected channels {listed(channels)} once each, with a digit: {lost}"
            )
        return events, wanted

    def _channels(self, path: Path, device: str) -> list[str]:
        known = {name.casefold(): name for name in DEVICES[device].ch_names}
        channels = self.config.channels or DEVICES[device].ch_names
        unknown = [name for name in channels if name.casefold() not in known]
        if unknown:
            raise StudyError(f"{path}: channels has {unknown[0]!r}, device {device} has {listed(known.values())}")
        return [name.casefold() for name in channels]

    def _plan(self, parts: int) -> None:
        count = len(self._events)
        if parts > count:
            raise StudyError(f"{self._path}: {count} events in {parts} parts, expected at least one event a part")
        self._digits = sorted({event.code for event in self._events})
        part_of = np.arange(count) * parts // count
        self._recordings = [f"sub-01_part-{part + 1:02d}" for part in range(parts)]
        self.samples: Sequence[SamplePlan] = [
            SamplePlan(
                key=schema.trial_sample_key("01", schema.UNKNOWN, f"{part + 1:02d}", event.event),
                subject=0,
                stimulus=self._digits.index(event.code),
                n_reps=1,
                session=[0],
                recording=[part],
                trial=[event.event],
                onset_seconds=[None],
                quality=[schema.UNKNOWN],
            )
            for event, part in zip(self._events, part_of.tolist(), strict=True)
        ]


def read_lines(path: Path, counts: Counter[str]) -> Iterator[Line]:
    """The lines of a file, values checked and left where they are; a last line that was cut is counted in ``counts``.

    Raises
    ------
    StudyError
        One sentence with the line's number: another number of fields, a device, code or event that cannot be, a line without end.
    """
    check_ordinary(path)
    if not path.is_file():
        raise StudyError(f"{path}: no such file, expected MindBigData's text file of a device")
    with path.open("rb") as file, progress("MiB read", max(1, path.stat().st_size >> 20)) as advance:
        position = shown = number = 0
        while line := file.readline(MOST_LINE_BYTES):
            number += 1
            start, position = position, position + len(line)
            advance((position >> 20) - shown)
            shown = position >> 20
            whole = line.endswith(b"\n")
            if not whole and len(line) >= MOST_LINE_BYTES:
                raise StudyError(
                    f"{path}: line {number} has more than {MOST_LINE_BYTES:,} bytes, expected a line of two seconds of one channel"
                )
            if not line.strip():
                continue
            fields = line.rstrip(b"\r\n").split(b"\t")
            if len(fields) != len(FIELDS):
                if not whole and number > 1:
                    counts["cut_last_line"] += 1
                    continue
                raise StudyError(
                    f"{path}: line {number} has {len(fields)} fields, expected {len(FIELDS)} with tabs between: {', '.join(FIELDS)}"
                )
            yield _line(path, number, fields, start + len(line.rstrip(b"\r\n")) - len(fields[-1]))


def _line(path: Path, number: int, fields: Sequence[bytes], offset: int) -> Line:
    where = f"{path}: line {number}"
    texts = [each.decode("latin1").strip() for each in fields[:6]]
    whole: dict[str, int] = {}
    for name, text in zip(FIELDS[:6], texts, strict=True):
        if name in ("id", "event", "code", "size"):
            try:
                whole[name] = int(text)
            except ValueError:
                raise StudyError(f"{where} has {name} {short(text)!r}, expected a whole number") from None
    device = texts[2].upper()
    if device not in DEVICES:
        raise StudyError(f"{where} has device {short(texts[2])!r}, expected one of {', '.join(DEVICES)}")
    if not NO_DIGIT <= whole["code"] <= 9:
        raise StudyError(f"{where} has code {whole['code']}, expected a digit, or -1 for none")
    event = whole["id" if len(DEVICES[device].ch_names) == 1 else "event"]
    if event < 0:
        raise StudyError(f"{where} has event {event}, expected 0 or more")
    values = numbers(fields[6])
    length = 0 if values is None else len(values)
    fault = "no_numbers" if values is None else "size_contradicts" if length != whole["size"] else "flat" if np.ptp(values) == 0 else ""
    return Line(
        event=event,
        device=sys.intern(device),
        channel=sys.intern(texts[3]),
        code=whole["code"],
        length=length,
        offset=offset,
        bytes=len(fields[6]),
        fault=fault,
    )


def _event(number: int, lines: Sequence[Line], channels: Sequence[str]) -> Event | str:
    """The event, or why it is lost."""
    by_channel: dict[str, Line] = {}
    for line in lines:
        name = line.channel.casefold()
        if name in channels and by_channel.setdefault(name, line) is not line:
            return "channel_twice"
    if len(by_channel) < len(channels):
        return "channel_missing"
    if len({line.code for line in lines}) > 1:
        return "codes_differ"
    if lines[0].code == NO_DIGIT:
        return "no_digit"
    own = [by_channel[name] for name in channels]
    if fault := next((line.fault for line in own if line.fault), ""):
        return fault
    return Event(
        event=number, code=lines[0].code, length=min(line.length for line in own), spans=tuple((line.offset, line.bytes) for line in own)
    )
