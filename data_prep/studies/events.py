"""What was shown when: events of a recording from annotations, markers, a stim channel, an EEGLAB table or a table beside it.

Whatever the source, an event is a time point and columns of text; one column names what was shown, by patterns.

Shape suffixes: N events, T time points.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from data_prep.contract.errors import StudyError
from data_prep.contract.words import listed
from data_prep.studies.continuous import Continuous, Events
from data_prep.studies.event_names import EventsNaming, Named, name_events
from data_prep.studies.event_tables import NEAR_SECONDS, OnsetUnit, refuse_outside, table_events
from data_prep.studies.lookup import Lookup
from data_prep.studies.patterns import fill
from data_prep.studies.recording import Recording
from data_prep.studies.trigger_channel import rising_edges


@dataclass(frozen=True, kw_only=True)
class EventsConfig(EventsNaming):
    """Where events come from and what each stands for. Patterns are regular expressions that match a whole value."""

    source: Literal["annotations", "markers", "stim", "eeglab", "table"]
    """``annotations`` of the recording; ``markers``: a marker column of a CSV or a marker stream of XDF; ``stim``: a trigger channel;
    ``eeglab``: the event table of a ``.set``; ``table``: a TSV or CSV file."""
    stim_channel: str | None = None
    """Name of the trigger channel; None: the only one."""
    stim_mask: int | None = None
    """Bits of the trigger channel that count; None: all but those that are set while nothing happens (an offset of the amplifier)."""
    file: str | None = None
    """Path of the table from the recording's folder, with {stem}, {subject}, {session}, {run}: ``{stem}_events.tsv``."""
    onset_column: str = "onset"
    """Column of onsets of a table; rows without an onset are counted and left out."""
    onset_unit: OnsetUnit | None = None
    """Unit of the onsets of a table; None: told by the recording's length, refused where more than one unit fits."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.source == "table") != (self.file is not None):
            raise ValueError(
                f"events.source is {self.source} and events.file {self.file!r}: expected a file with source table, and only there"
            )


def named_events(opened: Continuous, recording: Recording, config: EventsConfig, lookup: Lookup | None = None) -> Named:
    """The stimuli of a recording.

    Raises
    ------
    StudyError
        No such source or column, a table that contradicts the recording, or not one event that ``names`` matches.
    """
    events = _READERS[config.source](opened, recording, config)
    near = round(NEAR_SECONDS * opened.sfreq)
    named = name_events(with_labels(events, recording), config, opened.file, lookup, near=near)
    if config.source == "table":
        refuse_outside(table_file(recording, str(config.file)), named.point_N, named.name_N, opened.n_times, opened.sfreq)
    return named


def with_labels(events: Events, recording: Recording) -> Events:
    """Events with the recording's own labels as columns (subject, session, run; task and others in BIDS), but those that they have."""
    labels = {"subject": recording.subject, "session": recording.session, "run": recording.run, **recording.entities}
    columns = {name: [label] * len(events.point_N) for name, label in labels.items()}
    return replace(events, columns={**columns, **events.columns})


# --------------------------------------------------------------------------------------------------------- sources


def _annotations(opened: Continuous, recording: Recording, config: EventsConfig) -> Events:
    table = opened.raw.annotations
    outside = int(opened.notes.get("annotations_outside", 0))
    if outside > max(1, len(table) // 50):
        raise StudyError(
            f"{opened.file}: {outside} of {outside + len(table)} annotations lie outside of the recording, which has "
            f"{opened.n_times / opened.sfreq:g} s: expected onsets in seconds from its start (milliseconds or points would lie so)"
        )
    if not len(table):
        raise StudyError(f"{opened.file}: has no annotations; {_what_there_is(opened)}")
    events = [i for i, text in enumerate(table.description) if not is_segment(str(text))]
    columns = {"value": [str(table.description[i]) for i in events]}
    return Events(point_N=annotated_points(opened, table.onset[events]), columns=columns)


def is_segment(description: str) -> bool:
    """Whether an annotation speaks of the recording, not of a stimulus: MNE's ``BAD`` and ``EDGE``, EEGLAB's ``boundary``, BrainVision's
    ``New Segment``."""
    return description.casefold().startswith(("bad", "edge", "boundary", "new segment"))


def annotated_points(opened: Continuous, onset_N: np.ndarray) -> np.ndarray:
    """Time points of annotations' onsets, which MNE counts from the clock's start where the recording has a date."""
    start = opened.raw.first_time if opened.raw.info["meas_date"] is not None else 0.0
    points: np.ndarray = np.rint((np.asarray(onset_N) - start) * opened.raw.info["sfreq"]).astype(np.int64)
    return points


def _markers(opened: Continuous, recording: Recording, config: EventsConfig) -> Events:
    if opened.markers is None or not len(opened.markers.point_N):
        outside = 0 if opened.markers is None else opened.markers.notes.get("outside_the_recording", 0)
        said = f"its {outside} markers lie outside of the EEG's time, by their own clock" if outside else "it has no marker"
        raise StudyError(f"{opened.file}: no stimulus onset: {said}; {_what_there_is(opened)}")
    return opened.markers


def _eeglab(opened: Continuous, recording: Recording, config: EventsConfig) -> Events:
    if opened.format != "EEGLAB" or opened.markers is None:
        raise StudyError(f"{opened.file}: is {opened.format}, events.source is eeglab: expected a .set file; {_what_there_is(opened)}")
    return opened.markers


def _stim(opened: Continuous, recording: Recording, config: EventsConfig) -> Events:
    have = _stim_channels(opened)
    name = config.stim_channel or (have[0] if len(have) == 1 else None)
    if name is None or name not in opened.raw.ch_names:
        wanted = repr(config.stim_channel) if config.stim_channel else "one, or its name in events.stim_channel"
        raise StudyError(f"{opened.file}: stim channels are {listed(have)}, expected {wanted}; {_what_there_is(opened)}")
    level_T = np.rint(opened.raw.get_data([name], verbose="error")[0]).astype(np.int64)
    return rising_edges(level_T, config.stim_mask, near=max(2, round(NEAR_SECONDS * opened.sfreq)))


def _stim_channels(opened: Continuous) -> list[str]:
    return [name for name, kind in zip(opened.raw.ch_names, opened.raw.get_channel_types(), strict=True) if kind == "stim"]


def _what_there_is(opened: Continuous) -> str:
    there = [
        f"{len(opened.raw.annotations)} annotations",
        f"{0 if opened.markers is None else len(opened.markers.point_N)} markers",
        f"stim channels {listed(_stim_channels(opened))}",
    ]
    return f"it has {', '.join(there)} (events.source)"


# ---------------------------------------------------------------------------------------------- a table beside it


def table_file(recording: Recording, template: str) -> Path:
    """Path of the table of a recording."""
    labels = {"stem": recording.file.stem, "subject": recording.subject, "session": recording.session, "run": recording.run}
    return recording.file.parent / fill(template, labels, "events.file")


def _table(opened: Continuous, recording: Recording, config: EventsConfig) -> Events:
    file = table_file(recording, str(config.file))
    return table_events(file, opened, config.onset_column, config.onset_unit)


_READERS = {"annotations": _annotations, "markers": _markers, "stim": _stim, "eeglab": _eeglab, "table": _table}
