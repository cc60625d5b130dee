"""Reader of continuous recordings in any format that a laboratory has, and of the events that say what was shown.

From file to trial::

    ROOT/sub-01/ses-02/rest.vhdr     found by a pattern with {subject}, {session}, {run}; told by its bytes, not its name
        -> channels                  named, typed, picked; unit and level checked
        -> events                    annotations | markers | stim channel | EEGLAB table | TSV/CSV; a pattern names each
        -> notch, band-pass          on the continuous signal, between breaks
        -> windows around onsets     resample, baseline, reject, every loss counted by recording
        -> a file of trials          so that a recording is read once and memory holds one recording

What recordings of any reader go through is in :mod:`data_prep.studies.recordings_study`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_prep.studies.continuous import Continuous
from data_prep.studies.event_names import Named
from data_prep.studies.events import EventsConfig, named_events, table_file
from data_prep.studies.formats import Formats
from data_prep.studies.lookup import Lookup
from data_prep.studies.open_recording import open_recording
from data_prep.studies.opening import RecordingsConfig
from data_prep.studies.patterns import FilePattern
from data_prep.studies.recording import Recording
from data_prep.studies.recording_files import find_recordings
from data_prep.studies.recordings_study import RecordingsSource
from data_prep.studies.signal_tables import ArrayConfig, CsvConfig
from data_prep.studies.xdf import XdfConfig


@dataclass(frozen=True, kw_only=True)
class MneReaderConfig(RecordingsConfig):
    """Continuous recordings: EDF, BDF, GDF, FIF, BrainVision, EEGLAB, Neuroscan and ANT CNT, EGI MFF, Nihon Kohden, XDF, CSV, arrays."""

    files: str
    """Pattern of their paths below ``root``, with {subject} and, where there are, {session} and {run} (letters and digits), ``*``, ``?``
    and ``**/``: ``sub-{subject}/ses-{session}/*.vhdr``. Endings match in either case."""
    events: EventsConfig
    """Where events come from and which stimulus each is."""
    csv: CsvConfig | None = None
    """Columns of CSV recordings."""
    array: ArrayConfig | None = None
    """Facts of bare arrays."""
    xdf: XdfConfig = field(default_factory=XdfConfig)
    """Streams of XDF recordings."""
    cnt_data_format: Literal["int16", "int32"] | None = None
    """Width of a number in Neuroscan CNT files; None: told by the file's size."""

    def __post_init__(self) -> None:
        super().__post_init__()
        FilePattern(self.files)
        if self.events.source == "markers" and self.csv is not None and self.csv.marker is None:
            raise ValueError("events.source is markers and csv.marker is null, expected the name of the marker column")

    def open(self) -> RecordingsSource:
        """Read every recording once, cut its trials into a temporary file and decide which stay."""
        return RecordingsSource(self, _FilesByPattern(self))


class _FilesByPattern:
    """Recordings named by a pattern, with events where the config says (:class:`data_prep.studies.opening.Opening`)."""

    reader = "mne"
    derived = False

    def __init__(self, config: MneReaderConfig) -> None:
        self._config = config
        self.naming = config.events
        self._lookup = Lookup(config.events.lookup, Path(config.root)) if config.events.lookup else None
        self._formats = Formats(csv=config.csv, array=config.array, xdf=config.xdf, cnt_data_format=config.cnt_data_format)

    def recordings(self) -> list[Recording]:
        return find_recordings(Path(self._config.root), FilePattern(self._config.files), self._config.subjects)

    def open(self, recording: Recording, keep: Sequence[str] | None = None) -> Continuous:
        return open_recording(recording.file, self._formats, keep=keep)

    def events(self, recording: Recording, opened: Continuous) -> Named:
        return named_events(opened, recording, self.naming, self._lookup)

    def checked(self, recording: Recording, opened: Continuous, ch_names: Sequence[str], eeg_CT: np.ndarray) -> dict[str, Any]:
        return {}

    def together(self, recording: Recording, counts: dict[str, Any]) -> None:
        pass

    def files(self, recording: Recording) -> list[Path]:
        table = [table_file(recording, self.naming.file)] if self.naming.file else []
        return [*table, *(self._lookup.files if self._lookup else [])]

    def said(self) -> dict[str, Any]:
        return {"events": self.naming.plain()}
