"""What the files beside a BIDS recording say of it, and from which file each statement is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_prep.contract.errors import StudyError
from data_prep.contract.files import read_json
from data_prep.contract.json_text import parse_json
from data_prep.contract.limits import limits, too_much
from data_prep.contract.words import listed, short
from data_prep.studies.bids_files import Tree, inherited, nearest
from data_prep.studies.cells import says_nothing
from data_prep.studies.event_tables import OnsetUnit, read_table
from data_prep.studies.recording import Recording

TYPES = {"EEG": "eeg", "EOG": "eog", "HEOG": "eog", "VEOG": "eog", "ECG": "ecg", "EMG": "emg", "TRIG": "stim"}
"""Type of channels.tsv -> MNE's; all others are ``misc``."""
ONSET_UNITS: dict[str, OnsetUnit] = {
    **dict.fromkeys(("s", "sec", "second", "seconds"), "seconds"),
    **dict.fromkeys(("ms", "msec", "millisecond", "milliseconds"), "milliseconds"),
    **dict.fromkeys(("sample", "samples", "sampling points", "sampling point", "datapoints", "data points"), "samples"),
}
"""What ``Units`` of a column of events says -> the unit."""


@dataclass(frozen=True, kw_only=True)
class Said:
    """JSON files of one kind, added up."""

    values: Mapping[str, Any] = field(default_factory=dict)
    sources: Mapping[str, Path] = field(default_factory=dict)
    """Field -> the file that says it."""
    files: Sequence[Path] = ()

    def number(self, name: str) -> float | None:
        """A number; None where nothing is said.

        Raises
        ------
        StudyError
            Something else, which is no ``n/a``.
        """
        value = self.values.get(name)
        if value is None or (isinstance(value, str) and says_nothing(value)) or isinstance(value, (list, dict)):
            return None
        try:
            if isinstance(value, bool):
                raise ValueError
            return float(value)
        except ValueError:
            raise StudyError(f"{self.sources[name]}: {name} is {short(str(value))!r}, expected a number") from None

    def text(self, name: str) -> str | None:
        """A text; None where nothing is said."""
        value = self.values.get(name)
        return None if value is None or says_nothing(str(value)) else " ".join(str(value).split())


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table and its file."""

    file: Path
    columns: Mapping[str, Sequence[str]]

    def column(self, name: str) -> Sequence[str]:
        """Cells; ``n/a`` in every row where there is no such column."""
        return self.columns.get(name, ["n/a"] * len(next(iter(self.columns.values()))))


@dataclass(frozen=True, kw_only=True)
class Sidecars:
    """Everything beside one recording."""

    recording: Recording
    eeg: Said
    channels: Table | None
    events: Path | None
    events_are_raw: bool
    """Whether the events are those of the raw dataset of a derivative, whose rate may be another one."""
    events_said: Said

    @property
    def files(self) -> list[Path]:
        """All that were read."""
        tables = [self.channels.file] if self.channels else []
        return [*self.eeg.files, *tables, *([self.events] if self.events else []), *self.events_said.files]


def read_sidecars(recording: Recording, tree: Tree, datatype: str = "eeg") -> Sidecars:
    """The files that speak of a recording.

    Raises
    ------
    StudyError
        One that cannot be read, or two that say as much.
    """
    channels = nearest(inherited(recording, tree, "channels.tsv"), among="a table of channels")
    events = nearest(inherited(recording, tree, "events.tsv", from_raw=True), among="a table of events")
    return Sidecars(
        recording=recording,
        eeg=added_up(inherited(recording, tree, f"{datatype}.json")),
        channels=None if channels is None else channel_table(channels),
        events=events,
        events_are_raw=events is not None and not events.is_relative_to(tree.root),
        events_said=added_up(inherited(recording, tree, "events.json", from_raw=True)),
    )


def added_up(files: Sequence[Path]) -> Said:
    """Fields of JSON files, the last one's where several have one."""
    values: dict[str, Any] = {}
    sources: dict[str, Path] = {}
    for file in files:
        content = _object(file)
        values |= content
        sources |= dict.fromkeys(content, file)
    return Said(values=values, sources=sources, files=files)


def channel_table(file: Path) -> Table:
    """``channels.tsv``.

    Raises
    ------
    StudyError
        No column of names, or a name twice.
    """
    columns = read_table(file)
    names = columns.get("name", [])
    if not names or len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise StudyError(
            f"{file}: {f'has {listed(twice)} twice' if twice else f'has no names, its columns are {listed(columns)}'}, expected a "
            "row a channel"
        )
    return Table(file=file, columns=columns)


def onset_unit_said(said: Said, column: str) -> tuple[OnsetUnit, str] | None:
    """Unit of onsets by ``events.json``, and who says it."""
    described = said.values.get(column)
    unit = described.get("Units") if isinstance(described, dict) else None
    found = ONSET_UNITS.get(str(unit).strip().casefold()) if unit is not None else None
    return None if found is None else (found, f"{said.sources[column]} says")


def dataset_said(root: Path) -> dict[str, Any]:
    """What ``dataset_description.json`` says, and in a sentence what is odd about it.

    Raises
    ------
    StudyError
        It is no JSON.
    """
    file = root / "dataset_description.json"
    if not file.is_file():
        return {"odd": f"{file}: no such file, nothing says that this is BIDS"}
    content = _object(file)
    said = {name: str(content[name])[:200] for name in ("Name", "BIDSVersion", "DatasetType", "License", "DatasetDOI") if content.get(name)}
    lacking = [name for name in ("Name", "BIDSVersion") if name not in said]
    if lacking:
        return {**said, "odd": f"{file}: has no {listed(lacking)}"}
    if said.get("DatasetType", "raw").casefold() != "raw":
        return {**said, "odd": f"{file}: DatasetType is {said['DatasetType']}, its recordings are not raw ones"}
    return said


def _object(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        marked = stream.read(3) == b"\xef\xbb\xbf"
    if marked and file.stat().st_size > limits().json_bytes:
        raise too_much(file, f"{file.stat().st_size:,} bytes of JSON", "json_bytes")
    content = parse_json(file.read_bytes()[3:], file) if marked else read_json(file)
    if not isinstance(content, dict):
        raise StudyError(f"{file}: holds a {type(content).__name__}, expected an object")
    return content
