"""Reader of the Brain Download Datasets: 40 s CSV records of an Emotiv Insight, five channels, 128 Hz, by experiment.

::

    ROOT/Image-Blank/*.csv   ROOT/Left-Right_Arrows/*.csv   ROOT/Visual_Q&A/*.csv   ROOT/Baseline/Closed_*.csv, Open_*.csv
    COUNTER, AF3, T7, Pz, T8, AF4, MARKERS['Blank','Image'], TICK, ContactQuality

TICK changes with each stimulus, about every two seconds; MARKERS is its code, and the header says what each code stands for. COUNTER runs
from 0 to 127 and tells of lost packets, across which nothing is filtered or cut; where ContactQuality is too low, trials are lost and
counted.
In Baseline nothing is shown: the class is the beginning of the file's name, eyes closed or open. A record is a recording, an experiment is
a session; what is done to a recording is what the reader ``mne`` does.

Shape suffixes: C channels, T time points.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.contract.errors import StudyError
from data_prep.contract.files import check_ordinary
from data_prep.contract.words import listed, short
from data_prep.studies.channels import ChannelsConfig
from data_prep.studies.continuous import Continuous, Events, raw_of
from data_prep.studies.cutting import CuttingConfig
from data_prep.studies.event_names import EventsNaming, Named, name_events
from data_prep.studies.opening import RecordingsConfig
from data_prep.studies.recording import Recording
from data_prep.studies.recordings_study import RecordingsSource

CHANNELS = ("AF3", "AF4", "T7", "T8", "Pz")
SFREQ = 128.0
"""Hz; records hold no times that would tell another."""
COUNTER_STEPS = 128
BASELINE = "baseline"
_COLUMNS = ("COUNTER", "MARKERS", "TICK", "ContactQuality")
_MARKERS = re.compile(r"MARKERS\s*\[(?P<names>[^\]]*)\]")
_MOST_HEADER_BYTES = 2**14


@dataclass(frozen=True, kw_only=True)
class BddReaderConfig(RecordingsConfig):
    """Brain Download Datasets: what was on the screen, or whether eyes were closed, by trial."""

    experiments: tuple[str, ...] | None = None
    """Folders to read, such as ``Image-Blank``; None: all that hold records."""
    min_contact_quality: float = 100.0
    """Trials that meet a lower ContactQuality (percent) are lost; 0 keeps all."""
    channels: ChannelsConfig = field(default_factory=lambda: ChannelsConfig(pick=CHANNELS, montage="standard_1005"))
    """Channels in the order of MindBigData's Insight files, so that what is pretrained on one fits the other."""
    trials: CuttingConfig = field(default_factory=lambda: CuttingConfig(band_hz=(1.0, 45.0), tmin=0.0, tmax=1.9))
    """Filters, window, baseline and rejection; stimuli follow each other after 1.95 s at the earliest."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stimulus_level != "class":
            raise ValueError(f"stimulus_level is {self.stimulus_level!r}, expected class: records do not say which image was shown")
        if self.experiments is not None and (not self.experiments or len(set(self.experiments)) != len(self.experiments)):
            raise ValueError(f"experiments is {list(self.experiments)}, expected at least one folder, each once")

    def open(self) -> RecordingsSource:
        """Read every record once, cut its trials into a temporary file and decide which stay."""
        return RecordingsSource(self, _Records(self))


class _Records:
    """Records by experiment (:class:`data_prep.studies.opening.Opening`)."""

    reader = "bdd"
    derived = False

    def __init__(self, config: BddReaderConfig) -> None:
        self._config = config
        self.naming = EventsNaming()

    def recordings(self) -> list[Recording]:
        root = Path(self._config.root)
        if not root.is_dir():
            raise StudyError(f"{root}: no such folder, expected one of experiments (Image-Blank, Left-Right_Arrows, ...) with CSV records")
        found = {
            folder.name: files
            for folder in sorted(root.iterdir())
            if folder.is_dir() and folder.name[0] != "." and (files := _csv_files(folder))
        }
        wanted = list(found) if self._config.experiments is None else list(self._config.experiments)
        missing = [name for name in wanted if name not in found]
        if missing or not wanted:
            raise StudyError(f"{root}: has no records of {missing[0] if missing else 'any experiment'}; it has {listed(found)}")
        if self._config.subjects not in (None, ("01",)):
            raise StudyError(f"{root}: subjects is {list(self._config.subjects or ())}, expected 01: the records are of one person")
        labels = {name: re.sub(r"[^A-Za-z0-9]", "", name) for name in wanted}
        if len(set(labels.values())) < len(labels) or not all(labels.values()):
            raise StudyError(f"{root}: holds {listed(wanted)}, expected folders that differ in letters and digits")
        width = max(2, len(str(max(len(found[name]) for name in wanted))))
        return [
            Recording(file=file, subject="01", session=labels[name], run=f"{number:0{width}d}")
            for name in wanted
            for number, file in enumerate(found[name], start=1)
        ]

    def open(self, recording: Recording, keep: Sequence[str] | None = None) -> Continuous:
        import mne

        file = recording.file
        names, codes = read_header(file)
        table_TN = _table(file, len(names))
        column = dict(zip(names, table_TN.T, strict=True))
        eeg = [name for name in names if name not in _COLUMNS]
        raw = raw_of(file, np.ascontiguousarray([column[name] for name in eeg]), eeg, SFREQ)
        low_T = column["ContactQuality"] < self._config.min_contact_quality
        starts, stops = _runs(low_T)
        poor = [(start, stop) for start, stop in zip(starts, stops, strict=True) if low_T[start]]
        raw.set_annotations(
            mne.Annotations(
                [start / SFREQ for start, _ in poor], [(stop - start) / SFREQ for start, stop in poor], ["BAD_contact"] * len(poor)
            )
        )
        step_T = np.diff(column["COUNTER"]) % COUNTER_STEPS
        breaks = (np.flatnonzero(step_T != 1) + 1).tolist()
        notes = {"lost_packets_at": len(breaks)} if breaks else {}
        markers = _markers(file, column, codes, recording.file.parent.name)
        return Continuous(file=file, format="CSV", raw=raw, unit="microvolts", markers=markers, breaks=breaks, files=[file], notes=notes)

    def events(self, recording: Recording, opened: Continuous) -> Named:
        assert opened.markers is not None
        return name_events(opened.markers, self.naming, recording.file)

    def checked(self, recording: Recording, opened: Continuous, ch_names: Sequence[str], eeg_CT: np.ndarray) -> dict[str, Any]:
        return {}

    def together(self, recording: Recording, counts: dict[str, Any]) -> None:
        pass

    def files(self, recording: Recording) -> list[Path]:
        return []

    def said(self) -> dict[str, Any]:
        return {
            "min_contact_quality": self._config.min_contact_quality,
            "classes": "what the headers call marker codes; in Baseline, of file names",
        }


def read_header(file: Path) -> tuple[list[str], list[str]]:
    """Names of the columns, the marker column as ``MARKERS``, and what its codes stand for from 0 on.

    Raises
    ------
    StudyError
        Another header.
    """
    check_ordinary(file)
    with file.open("rb") as stream:
        line = stream.readline(_MOST_HEADER_BYTES).decode("utf-8-sig", "replace")
    marked = _MARKERS.search(line)
    names = [name.strip() for name in _MARKERS.sub("MARKERS", line).split(",")]
    expected = "COUNTER, channels, MARKERS['A','B'], TICK, ContactQuality"
    lacking = [name for name in _COLUMNS if names.count(name) != 1]
    if marked is None or lacking:
        raise StudyError(
            f"{file}: has columns {short(line.strip(), 120)}, expected {expected}: {lacking[0] if lacking else 'MARKERS'} is not there once"
        )
    if len(set(names)) != len(names) or len(names) <= len(_COLUMNS) or not all(names):
        raise StudyError(f"{file}: has columns {listed(names)}, expected {expected}, each once")
    return names, [name.strip().strip("'\"").strip() for name in marked["names"].split(",")]


def _csv_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() == ".csv" and path.name[0] != "." and path.is_file())


def _table(file: Path, num_columns: int) -> np.ndarray:
    """float64 (T, columns)."""
    with file.open(encoding="utf-8-sig", errors="replace") as lines, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # no rows: said below
        lines.readline()
        try:
            found: np.ndarray = np.loadtxt(lines, delimiter=",", ndmin=2)
        except ValueError as error:
            raise StudyError(f"{file}: not a table of numbers ({short(error, 120)})") from error
    if len(found) < 2 or found.shape[1] != num_columns:
        raise StudyError(f"{file}: has {len(found)} rows of {found.shape[1]} numbers, its header {num_columns} columns: expected a record")
    return found


def _runs(value_T: np.ndarray) -> tuple[list[int], list[int]]:
    """Where stretches of one value begin and end."""
    changes = (np.flatnonzero(value_T[1:] != value_T[:-1]) + 1).tolist()
    return [0, *changes], [*changes, len(value_T)]


def _markers(file: Path, column: dict[str, np.ndarray], codes: Sequence[str], experiment: str) -> Events:
    """A stimulus for each stretch of TICK; its code must be one from its first to its last point."""
    starts, stops = _runs(column["TICK"])
    if len(starts) < 2:
        raise StudyError(f"{file}: TICK is {column['TICK'][0]:g} in all {stops[-1]} rows, expected a change with each stimulus")
    if experiment.casefold() == BASELINE:
        state = file.stem.partition("_")[0]
        return Events(point_N=np.array(starts, np.int64), columns={"value": [state] * len(starts)})
    marker_T = column["MARKERS"]
    values = []
    for start, stop in zip(starts, stops, strict=True):
        code = marker_T[start]
        if (marker_T[start:stop] != code).any():
            raise StudyError(
                f"{file}: MARKERS changes between rows {start + 2} and {stop + 1} while TICK does not, expected one stimulus there"
            )
        if code != int(code) or not 0 <= code < len(codes):
            raise StudyError(
                f"{file}: MARKERS is {code:g} in row {start + 2}, expected 0 to {len(codes) - 1}: the header names {listed(codes)}"
            )
        values.append(codes[int(code)])
    return Events(point_N=np.array(starts, np.int64), columns={"value": values})
