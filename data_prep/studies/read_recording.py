"""One continuous recording: opened, its channels chosen, its events named, cut, and closed.

A function of the reader's config and the recording alone, so that any process may read it; what recordings say of each other is asked
where they come together (:mod:`data_prep.studies.recordings_study`).

Shape suffixes: B trials, C channels, T time points.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.contract.errors import StudyError, UserError
from data_prep.preprocess.linear import sha256_of
from data_prep.preprocess.recording import find_bad
from data_prep.studies.beside import beside, eye_channels, marked_bad
from data_prep.studies.channels import (
    Choice,
    check_level,
    choose,
    levels_apart,
    levels_microvolts,
    refuse_other_channels,
    refuse_what_no_electrode_gives,
)
from data_prep.studies.continuous import Continuous
from data_prep.studies.cutting import Cut, CuttingConfig, Span, cut
from data_prep.studies.edf_header import has_other_rates, read_header, refuse_interrupted
from data_prep.studies.event_names import Named
from data_prep.studies.events import annotated_points, is_segment
from data_prep.studies.kept import Kept
from data_prep.studies.opening import Opening, RecordingsConfig
from data_prep.studies.recording import Recording

log = logging.getLogger(__name__)

RATE_TOLERANCE = 1e-4
"""Share by which the rates of two recordings may differ and count as one."""


@dataclass(frozen=True, kw_only=True)
class First:
    """What the study's first recording asks of the others."""

    file: Path
    ch_names: list[str]
    source_hz: float


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How to read a recording."""

    config: RecordingsConfig
    opening: Opening
    first: First | None
    """None: this is the first."""


@dataclass(kw_only=True)
class ReadRecording:
    """What reading one gave, as far as it went."""

    parts: Sequence[str] = ()
    """Files that it consists of."""
    content: str | None = None
    """SHA-256 of its signal; None: it was not read so far."""
    kept: Kept | None = None
    """What stays of it, its ``first_row`` not yet known."""
    eeg_BCT: np.ndarray | None = None
    """Its trials: float32."""
    fault: StudyError | None = None
    """Why it cannot be used; the lines above tell whether it should have been here at all."""


def read_recording(reading: Reading, recording: Recording) -> ReadRecording:
    """Read one recording; a fault of it is given back, not raised, for another may explain it better."""
    found = ReadRecording()
    try:
        _read(reading, recording, found)
    except StudyError as error:
        found.fault = error
    return found


def _read(reading: Reading, recording: Recording, found: ReadRecording) -> None:
    config, file = reading.config, recording.file
    opened = reading.opening.open(recording)
    found.parts = [str(name) for name in opened.raw.filenames if name]
    choice = choose(opened, config.channels)
    events = reading.opening.events(recording, opened)
    eyes = eye_channels(file, choice, config.trials.eyes)
    if opened.format in ("EDF", "BDF"):
        header = read_header(file)
        refuse_interrupted(file, header)
        read_names = [*choice.source_names, *eyes.values()]
        if has_other_rates(file, header, read_names):
            opened, events = _at_their_own_rate(reading.opening, recording, opened, read_names, events)
    sfreq = _rate(reading, opened)
    ch_names = _order(reading, file, choice)
    source_names = [choice.source_names[choice.ch_names.index(name)] for name in ch_names]
    unit = config.channels.unit_of(recording.subject) or opened.unit
    eeg_CT = opened.microvolts(source_names, unit, config.scratch)
    found.content = sha256_of(eeg_CT)
    level_C = levels_microvolts(eeg_CT, sfreq)
    check_level(file, float(np.median(level_C)), unit)
    bad, breaks = _segments(opened)
    around = beside(recording.label, opened, choice, eyes, config.channels, unit, config.scratch)
    spans = list(zip([0, *breaks], [*breaks, eeg_CT.shape[1]], strict=True))
    with _named(file):
        bad_names = find_bad(eeg_CT, ch_names, sfreq, config.trials, around, spans, bad)
    refuse_what_no_electrode_gives(file, eeg_CT, ch_names, bad_names)
    checked = reading.opening.checked(recording, opened, ch_names, eeg_CT)
    with _named(file):
        trials = cut(eeg_CT, ch_names, sfreq, events.point_N, config.trials, breaks=breaks, bad=bad, beside=around, bad_names=bad_names)
    found.eeg_BCT = _same_length(config.trials, file, trials)
    found.kept = _kept(reading, recording, opened, choice, events, trials, found.eeg_BCT.shape[2], ch_names, level_C, checked)


def _at_their_own_rate(
    opening: Opening, recording: Recording, opened: Continuous, read_names: Sequence[str], events: Named
) -> tuple[Continuous, Named]:
    """Read the chosen channels alone: with others beside them, MNE brings all to the highest rate."""
    alone = opening.open(recording, keep=read_names)
    ratio = alone.sfreq / opened.sfreq
    moved = np.rint(events.point_N * ratio).astype(np.int64)
    notes = {**events.notes, "points_counted_at_hz": opened.sfreq}
    log.info("%s: signals of several rates, those that are kept have %g Hz", opened.file, alone.sfreq)
    quiet = None if events.quiet_N is None else np.rint(events.quiet_N * ratio).astype(np.int64)
    return alone, replace(events, point_N=moved, quiet_N=quiet, notes=notes)


def _rate(reading: Reading, opened: Continuous) -> float:
    wanted, found, first = reading.config.expect_sfreq, opened.sfreq, reading.first
    if wanted is not None and abs(found / wanted - 1) > 0.01:
        raise StudyError(f"{opened.file}: is sampled at {found:g} Hz, expected {wanted:g} Hz (expect_sfreq)")
    if first is not None and reading.config.trials.resample_hz is None and abs(found / first.source_hz - 1) > RATE_TOLERANCE:
        raise StudyError(
            f"{opened.file}: is sampled at {found:g} Hz, {first.file} at {first.source_hz:g} Hz: expected one rate; "
            "trials.resample_hz brings them to one"
        )
    return found


def _order(reading: Reading, file: Path, choice: Choice) -> list[str]:
    """The study's channels: those of the first recording, in its order; others are left out by ``channels.pick`` alone."""
    first = reading.first
    if first is None or reading.config.trials.montage is not None:
        return choice.ch_names
    refuse_other_channels(file, choice.ch_names, first.file, first.ch_names)
    return first.ch_names


def _kept(
    reading: Reading,
    recording: Recording,
    opened: Continuous,
    choice: Choice,
    events: Named,
    trials: Cut,
    n_times: int,
    ch_names: list[str],
    level_C: np.ndarray,
    checked: dict[str, Any],
) -> Kept:
    rows = trials.onset_B.tolist()
    counts = {
        "recording": recording.label,
        "format": opened.format,
        "marked": len(events.point_N),
        **trials.lost,
        "kept": len(rows),
        "source_hz": opened.sfreq,
        "level_microvolts": float(f"{np.median(level_C):.3g}"),
        **({"levels_apart": apart} if (apart := levels_apart(level_C, ch_names)) else {}),
        "left_out_channels": choice.left_out,
        **trials.found,
        **({"marked_bad": marked} if (marked := marked_bad(opened, choice)) else {}),
        "events": events.notes,
        **checked,
        **({"file": dict(opened.notes)} if opened.notes else {}),
    }
    return Kept(
        recording=recording,
        name_B=[events.name_N[row] for row in rows],
        concept_B=None if events.concept_N is None else [events.concept_N[row] for row in rows],
        test_B=None if events.test_N is None else [events.test_N[row] for row in rows],
        clean_B=_clean(reading.opening.naming.clean_seconds, events, rows, opened.sfreq),
        number_B=rows,
        onset_seconds_B=[round(int(events.point_N[row]) / opened.sfreq, 4) for row in rows],
        quality_B=trials.quality_B,
        first_row=-1,
        source_hz=opened.sfreq,
        tmin=trials.tmin,
        sfreq=trials.sfreq,
        n_times=n_times,
        ch_names=ch_names,
        mapped_names=None if reading.config.trials.montage is None else trials.ch_names,
        masked=trials.masked,
        bridged=trials.bridged,
        positions=trials.positions,
        files=[*opened.files, *reading.opening.files(recording)],
        counts=counts,
    )


def _clean(seconds: float | None, events: Named, rows: Sequence[int], sfreq: float) -> list[bool] | None:
    if seconds is None or events.quiet_N is None:
        return None
    return [bool(events.quiet_N[row] >= seconds * sfreq) for row in rows]


def _same_length(config: CuttingConfig, file: Path, trials: Cut) -> np.ndarray:
    """Recordings of several rates, resampled to one, may differ by a point at the end."""
    wanted = round((config.tmax - config.tmin) * trials.sfreq)
    if not wanted <= trials.eeg_BCT.shape[2] <= wanted + 1:
        raise StudyError(f"{file}: its trials have {trials.eeg_BCT.shape[2]} points at {trials.sfreq:g} Hz, expected {wanted}")
    return trials.eeg_BCT[..., :wanted]


def _segments(opened: Continuous) -> tuple[list[Span], list[int]]:
    """Annotated bad segments, and first points after a break."""
    table = opened.raw.annotations
    starts = annotated_points(opened, table.onset)
    stops = annotated_points(opened, table.onset + table.duration)
    bad: list[Span] = []
    breaks = {int(point) for point in opened.breaks}
    for start, stop, text in zip(starts.tolist(), stops.tolist(), table.description, strict=True):
        if str(text).casefold().startswith("bad") and stop > start:
            bad.append((start, stop))
            if "acq_skip" in str(text).casefold():  # nothing was recorded, MNE fills in zeros
                breaks.update((start, stop))
        elif is_segment(str(text)):
            breaks.add(start)
    return bad, sorted(point for point in breaks if 0 < point < opened.n_times)


@contextlib.contextmanager
def _named(file: Path) -> Iterator[None]:
    """What a signal cannot take, as a sentence that names its file."""
    try:
        yield
    except UserError as error:
        raise error if isinstance(error, StudyError) else StudyError(f"{file}: {error}") from error
