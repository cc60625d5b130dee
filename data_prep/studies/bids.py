"""Reader of BIDS datasets: recordings by their names, and what the files beside them say, held against the signal.

From file to trial::

    ROOT/sub-01/ses-02/eeg/sub-01_ses-02_task-x_run-01_eeg.vhdr     chosen by entities (select), participants, derivative
        -> *_eeg.json, *_channels.tsv      inherited; rate, length, channels, units, reference, line against the signal
        -> *_events.tsv                    columns declared in the config; onsets in seconds, milliseconds or samples, measured
        -> *_electrodes.tsv                in head coordinates, the unit measured
        -> trials                          as for every continuous recording: :mod:`data_prep.studies.recordings_study`

mne-bids reads names and knows the coordinate systems; its reader of recordings is not used: it takes rate, units and events as they
are said. Columns of events, the recording's entities (``task``, ``run`` ...) among them, name the stimulus.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_prep.contract.errors import StudyError
from data_prep.studies.bids_checks import ACCEPTABLE, Contradictions, bad_channels, check_layout, check_signal, refuse_other_rate
from data_prep.studies.bids_files import ENTITIES, SHORT, Tree, find_bids, tree_of
from data_prep.studies.bids_marks import compared, marks_of
from data_prep.studies.bids_participants import unlike_the_table, wanted_subjects
from data_prep.studies.bids_positions import Places, read_places
from data_prep.studies.bids_sidecars import Sidecars, dataset_said, onset_unit_said, read_sidecars
from data_prep.studies.continuous import Continuous, Events
from data_prep.studies.event_names import EventsNaming, Named, name_events
from data_prep.studies.event_tables import NEAR_SECONDS, OnsetUnit, refuse_outside, table_events
from data_prep.studies.events import with_labels
from data_prep.studies.formats import Formats
from data_prep.studies.lookup import Lookup
from data_prep.studies.open_recording import open_recording
from data_prep.studies.opening import RecordingsConfig
from data_prep.studies.patterns import Names, text_keys
from data_prep.studies.recording import Recording
from data_prep.studies.recordings_study import RecordingsSource

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class BidsEventsConfig(EventsNaming):
    """Columns of ``events.tsv``, and what they stand for. The recording's entities are columns too, where the table has none of that
    name."""

    column: str = "trial_type"
    """Column whose value names the stimulus: ``trial_type``, ``stim_file``, or a template of several: ``{task},{tot_img_number}``."""
    onset_column: str = "onset"
    """Column of onsets; rows without an onset are counted and left out."""
    onset_unit: OnsetUnit | None = None
    """Unit of onsets; None: as ``events.json`` says; and where that says nothing, told by the recording's length, refused where more than
    one unit fits. One that the recording contradicts is refused."""
    marks: Literal["say", "refuse"] = "say"
    """What to do where the recording's own marks (``.vmrk``, annotations, a stim channel) lack an event or lie elsewhere: say it in the
    manifest, or refuse the study."""


@dataclass(frozen=True, kw_only=True)
class BidsReaderConfig(RecordingsConfig):
    """A BIDS dataset of EEG, or a derivative of one."""

    events: BidsEventsConfig = field(default_factory=BidsEventsConfig)
    """Which events are stimuli, and of what."""
    select: dict[str, list[str]] = field(default_factory=dict)
    """Entity -> the labels to read: ``{task: [train, test], run: ['01', '02']}``; ``ses``, ``acq``, ``proc``, ``desc`` are known too, and
    ``none`` is a name without it. Empty reads all."""
    participants: dict[str, str] = field(default_factory=dict)
    """Column of ``participants.tsv`` -> pattern: only subjects whose cells match all of them, such as ``exclude: '0'``."""
    derivative: str | None = None
    """Folder below ``root/derivatives`` that holds the recordings; events and positions that it lacks are the dataset's own. None:
    ``root``."""
    space: str | None = None
    """Space of the positions (``space-CapTrak_electrodes.tsv``); None: the only one."""
    bad_channels: Literal["keep", "drop"] = "keep"
    """Channels with status ``bad`` in ``channels.tsv``: keep them and say so in the manifest (``trials.bad_channels`` mends them), or leave
    them out."""
    accept: tuple[str, ...] = ()
    """Statements of sidecars that may contradict the signal, which is right then: SamplingFrequency, RecordingDuration, RecordingType,
    EEGChannelCount, channels, units, EEGReference, PowerLineFrequency."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "participants", text_keys(self.participants))
        object.__setattr__(
            self, "select", {SHORT.get(name, name): [str(value) for value in values] for name, values in self.select.items()}
        )
        for name in self.select:
            if name not in ENTITIES or name == "split":
                raise ValueError(f"select has {name!r}, expected one of {', '.join((*SHORT, *ENTITIES))}")
        for column, pattern in self.participants.items():
            Names({pattern: ""}, f"participants.{column}")
        unknown = [name for name in self.accept if name not in ACCEPTABLE]
        if unknown:
            raise ValueError(f"accept has {unknown[0]!r}, expected one of {', '.join(ACCEPTABLE)}")

    def open(self) -> RecordingsSource:
        """Read every recording once, cut its trials into a temporary file and decide which stay."""
        return RecordingsSource(self, _Dataset(self))


class _Dataset:
    """Recordings of a dataset (:class:`data_prep.studies.opening.Opening`)."""

    reader = "bids"

    def __init__(self, config: BidsReaderConfig) -> None:
        self._config = config
        self.derived = config.derivative is not None
        self.naming = config.events
        self._root = Path(config.root)
        self._tree: Tree = tree_of(self._root, config.derivative)
        self._description = dataset_said(self._root)
        if "odd" in self._description:
            log.warning("%s", self._description["odd"])
        self._lookup = Lookup(config.events.lookup, self._root) if config.events.lookup else None
        self._rename = Names(config.channels.rename, "channels.rename")
        self._sidecars: dict[str, Sidecars] = {}
        self._places: dict[str, Places | None] = {}
        self._found: dict[str, Contradictions] = {}
        self._parts: dict[str, list[Path]] = {}
        self._participants: dict[str, Any] = {}
        self._reference: tuple[Recording, str] | None = None

    def recordings(self) -> list[Recording]:
        subjects, left_out = wanted_subjects(self._root, self._config.participants, self._config.subjects)
        found = find_bids(self._tree, subjects, self._config.select)
        self._participants = {
            **left_out,
            **unlike_the_table(self._root, [recording.subject for recording, _ in found], self._config.subjects),
        }
        self._parts = {recording.label: files for recording, files in found}
        return [recording for recording, _ in found]

    # -------------------------------------------------------------------------------------------- one recording

    def open(self, recording: Recording, keep: Sequence[str] | None = None) -> Continuous:
        opened = open_recording(recording.file, Formats(), keep=keep)
        again = recording.label in self._sidecars
        if not again:
            self._sidecars[recording.label] = read_sidecars(recording, self._tree)
            self._found[recording.label] = Contradictions(self._config.accept)
            self._refuse_lone_parts(recording, opened)
        sidecars = self._sidecars[recording.label]
        opened = check_layout(opened, sidecars, self._rename, Contradictions(ACCEPTABLE) if again else self._found[recording.label])
        if self._config.channels.montage is None:
            if not again:
                self._places[recording.label] = read_places(recording, self._tree, self._config.space)
            _place(opened, self._places[recording.label], self._rename)
        return self._without_bad(opened, sidecars)

    def _refuse_lone_parts(self, recording: Recording, opened: Continuous) -> None:
        read = {Path(name).resolve() for name in opened.raw.filenames if name}
        alone = [file for file in self._parts.get(recording.label, []) if len(read) and file.resolve() not in read]
        if alone and len(self._parts[recording.label]) > 1:
            raise StudyError(
                f"{alone[0]}: is a part of {recording.file.name} by its name, which does not lead to it: expected the parts of one "
                "recording"
            )

    def _without_bad(self, opened: Continuous, sidecars: Sidecars) -> Continuous:
        bad = [name for name in bad_channels(sidecars.channels) if name in opened.raw.ch_names]
        opened.raw.info["bads"] = bad
        if bad and self._config.bad_channels == "drop":
            opened.raw.set_channel_types(dict.fromkeys(bad, "misc"), on_unit_change="ignore", verbose="error")
        return opened

    def events(self, recording: Recording, opened: Continuous) -> Named:
        sidecars = self._sidecars[recording.label]
        if sidecars.events is None:
            raise StudyError(f"{recording.file}: has no events.tsv, beside it or above it, that speaks of it: expected a table of events")
        points = marks_of(opened)
        table = self._table(sidecars, opened, list(points.values()))
        near = round(NEAR_SECONDS * opened.sfreq)
        named = name_events(with_labels(table, recording), self.naming, sidecars.events, self._lookup, near=near)
        refuse_outside(sidecars.events, named.point_N, named.name_N, opened.n_times, opened.sfreq)
        marks = {name: compared(named.point_N, point_M, opened.sfreq) for name, point_M in points.items()}
        self._refuse_other_marks(recording, sidecars.events, marks)
        lone = min((each["events_without_a_mark"] for each in marks.values()), default=0)
        if lone:
            log.warning("%s: %d of %d stimuli have no mark in %s", sidecars.events, lone, len(named.point_N), recording.file)
        return replace(named, notes={**named.notes, **({"marks": marks} if marks else {})})

    def _table(self, sidecars: Sidecars, opened: Continuous, marks: Sequence[np.ndarray]) -> Events:
        assert sidecars.events is not None
        config = self.naming
        said = onset_unit_said(sidecars.events_said, config.onset_column) if config.onset_unit is None else None
        unit, by = said or (config.onset_unit, "events.onset_unit says")
        table = table_events(sidecars.events, opened, config.onset_column, unit, by, marks=marks, own=not sidecars.events_are_raw)
        if sidecars.events_are_raw and table.notes["onset_unit"] == "samples":
            raise StudyError(
                f"{sidecars.events}: counts samples of the raw recording, and {opened.file} is a derivative, whose rate may be "
                "another: expected seconds"
            )
        return table

    def _refuse_other_marks(self, recording: Recording, table: Path, marks: dict[str, dict[str, Any]]) -> None:
        if self.naming.marks != "refuse":
            return
        if not marks:
            raise StudyError(f"{recording.file}: has no marks to hold {table} against (events.marks: refuse)")
        agree = [name for name, each in marks.items() if not each["events_without_a_mark"]]
        if not agree:
            name, each = min(marks.items(), key=lambda row: row[1]["events_without_a_mark"])
            raise StudyError(
                f"{table}: {each['events_without_a_mark']} of its {each['events']} stimuli have no mark in the {name} of "
                f"{recording.file} ({each['marks']} "
                f"marks; median {each['median_ms_behind_mark']:g} ms behind one): expected a mark each (events.marks: refuse)"
            )

    def checked(self, recording: Recording, opened: Continuous, ch_names: Sequence[str], eeg_CT: np.ndarray) -> dict[str, Any]:
        sidecars, found = self._sidecars[recording.label], self._found[recording.label]
        if not found.sentences:
            refuse_other_rate(opened, sidecars, found)
        notes = check_signal(opened, sidecars, ch_names, eeg_CT, self._config.trials.notch_hz, found)
        bad = bad_channels(sidecars.channels)
        places = self._places.get(recording.label)
        return {
            "sidecars": notes,
            **({"bad_channels": {"channels": bad, "are": "dropped" if self._config.bad_channels == "drop" else "kept"}} if bad else {}),
            **({"electrodes": places.said} if places is not None else {}),
            **({"contradictions": found.sentences} if found.sentences else {}),
        }

    def together(self, recording: Recording, counts: dict[str, Any]) -> None:
        """Recordings with references of their own are no one study, unless they are referenced anew."""
        reference = counts["sidecars"].get("reference")
        if reference is None or self._config.trials.reference is not None:
            return
        first = self._reference = self._reference or (recording, reference)
        if first[1].casefold() == reference.casefold():
            return
        found = Contradictions(self._config.accept)
        here, there = (read_sidecars(each, self._tree).eeg.sources["EEGReference"] for each in (recording, first[0]))
        found.add("EEGReference", f"{here}: EEGReference is {reference}, {there} says {first[1]}: expected one, or trials.reference")
        counts["contradictions"] = [*counts.get("contradictions", []), *found.sentences]

    def files(self, recording: Recording) -> list[Path]:
        places = self._places.get(recording.label)
        beside = [*self._sidecars[recording.label].files, *(places.files if places is not None else [])]
        return [*beside, *self._parts.get(recording.label, []), *(self._lookup.files if self._lookup else [])]

    def said(self) -> dict[str, Any]:
        config = self._config
        chosen = {name: value for name in ("select", "participants", "derivative", "accept") if (value := getattr(config, name))}
        return {
            "dataset": self._description,
            "events": self.naming.plain(),
            **chosen,
            **({"subjects": self._participants} if self._participants else {}),
        }


def _place(opened: Continuous, places: Places | None, rename: Names) -> None:
    """Give ``raw`` the positions, by its names, the renamed ones or either in another case."""
    if places is None or not places.metres:
        return
    import mne

    folded = {name.casefold(): place for name, place in places.metres.items()}
    given = {}
    for name in opened.raw.ch_names:
        ours = rename.of(name) or name
        place = places.metres.get(name) or places.metres.get(ours) or folded.get(name.casefold()) or folded.get(ours.casefold())
        if place is not None:
            given[name] = np.array(place)
    if given:
        opened.raw.set_montage(mne.channels.make_dig_montage(given, coord_frame="head"), on_missing="ignore", verbose="error")
