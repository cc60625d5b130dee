"""What events stand for: which of them are stimuli, and of which class or image.

Whatever the source, an event is a time point and columns of text; one column names what was shown, by patterns and, where a file
says what a number stands for, by looking it up there.

Shape suffixes: N events.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.contract.errors import StudyError
from data_prep.contract.words import listed, short
from data_prep.studies.cells import columns_of, says_nothing, texts_of
from data_prep.studies.continuous import Events
from data_prep.studies.lookup import Lookup, LookupConfig
from data_prep.studies.patterns import Names, one_blank, text_keys
from data_prep.studies.stimulus_images import concept_name, concept_of


@dataclass(frozen=True, kw_only=True)
class EventsNaming:
    """What each event stands for. Patterns are regular expressions that match a whole value."""

    names: dict[str, str] = field(default_factory=lambda: {"(.*)": "\\1"})
    """Pattern of a value -> the class, or the image (as far as a path as needed), ``\\1`` stands for its first group. Events whose value
    no pattern matches are no stimuli: they are counted in the manifest. The default takes the value itself."""
    column: str = "value"
    """Column whose value names the stimulus: ``trial_type`` of a table, ``position`` of an EEGLAB file; ``value`` is what the source
    calls an event by (description, marker, code, ``type``). Or a template of several: ``{task},{tot_img_number}``. ``n/a`` is no value."""
    where: dict[str, str] = field(default_factory=dict)
    """Column -> pattern: only events that match all of them are looked at, such as ``type: square``."""
    lookup: tuple[LookupConfig, ...] = ()
    """Files, one after the other, that say which image a name stands for."""
    concept_column: str | None = None
    """Image studies: column with the concept of an image; None: the folder that it lies in."""
    check_concept_column: str | None = None
    """Image studies: column that must name the folder that the image lies in; another one is refused."""
    clean_seconds: float | None = None
    """A trial's baseline is clean where no other event, stimulus or not, lies in this many seconds before its onset; the trials table then
    says so, for splits that take such trials alone. None: not known."""
    test_where: dict[str, str] = field(default_factory=dict)
    """Image studies: column -> pattern: images of events that match all of them are the source's test part, the others its training
    part, for the ``zero-shot`` split; empty: the source has no parts."""

    def __post_init__(self) -> None:
        for name in ("names", "where", "test_where"):
            object.__setattr__(self, name, text_keys(getattr(self, name)))
        Names(self.names, "events.names")
        for name in ("where", "test_where"):
            for column, pattern in getattr(self, name).items():
                Names({pattern: ""}, f"events.{name}.{column}")
        if self.clean_seconds is not None and not self.clean_seconds > 0:
            raise ValueError(f"events.clean_seconds is {self.clean_seconds}, expected above 0")
        if not self.names:
            raise ValueError("events.names is empty, expected at least one pattern")

    def plain(self) -> dict[str, Any]:
        """As the manifest says it: what is set."""
        plain = {name: value for name, value in vars(self).items() if value not in (None, {}, ())}
        return plain | ({"lookup": [vars(step) for step in self.lookup]} if self.lookup else {})


@dataclass(frozen=True, kw_only=True)
class Named:
    """Events that stand for a stimulus, in the order of time."""

    point_N: np.ndarray
    """int64: time points."""
    name_N: list[str]
    """Class or image."""
    concept_N: list[str] | None
    """Of every event, where a column says it."""
    test_N: list[bool] | None
    """Whether it belongs to the source's test part; None where there are no parts."""
    notes: dict[str, Any]
    """Counts, as plain values."""
    quiet_N: np.ndarray | None = None
    """Time points since the event before each, whatever it was; those since the recording's start for the first."""


def name_events(
    events: Events, config: EventsNaming, file: Path, lookup: Lookup | None = None, at: str = "at point", near: int = 0
) -> Named:
    """The stimuli among the events of the recording in ``file``; one that is written twice, ``near`` points apart at most, is one. ``at``
    is what its points are.

    Raises
    ------
    StudyError
        No such column, not one event that ``names`` matches, two stimuli at one time, or an image whose concept is another than said.
    """
    _refuse_lacking(events, config, file)
    chosen = _matching(events.columns, config.where, "events.where")
    names, values = Names(config.names, "events.names"), texts_of(config.column, events.columns, file, "events.column")
    found = {i: name for i in np.flatnonzero(chosen).tolist() if values[i].strip() and (name := names.of(values[i]))}
    unnamed = Counter(one_blank(values[i]) for i in np.flatnonzero(chosen).tolist() if i not in found)
    if not found:
        seen = Counter(map(one_blank, values)).most_common()
        raise StudyError(
            f"{file}: no event is a stimulus by events.names{' and events.where' if config.where else ''}; column {config.column!r} has "
            f"{listed(f'{short(value)!r} ({count})' for value, count in seen)}"
        )
    if lookup is not None:
        found = {i: lookup.of(name, file) for i, name in found.items()}
    order, twice = _once(sorted(found, key=lambda i: (events.point_N[i], i)), events.point_N, found, file, at, near)
    notes: dict[str, Any] = {"found": len(values), "named": len(order), **events.notes}
    if not chosen.all():
        notes["outside_where"] = int((~chosen).sum())
    if unnamed:
        notes["unnamed"] = dict(unnamed.most_common(50))
    if twice:
        notes["written_twice"] = twice
    if config.check_concept_column:
        _refuse_other_concepts(
            order, found, texts_of(config.check_concept_column, events.columns, file, "events.check_concept_column"), config, file
        )
    concepts = texts_of(config.concept_column, events.columns, file, "events.concept_column") if config.concept_column else None
    test = _matching(events.columns, config.test_where, "events.test_where") if config.test_where else None
    return Named(
        point_N=events.point_N[order],
        name_N=[found[i] for i in order],
        concept_N=None if concepts is None else [concepts[i] for i in order],
        test_N=None if test is None else [bool(test[i]) for i in order],
        notes=notes,
        quiet_N=_since_the_one_before(events.point_N)[order],
    )


def _since_the_one_before(point_N: np.ndarray) -> np.ndarray:
    """Points since the last earlier event; events at one point have the same one before them."""
    distinct, place_N = np.unique(point_N, return_inverse=True)
    since: np.ndarray = np.diff(distinct, prepend=min(0, *distinct[:1].tolist()))[place_N]
    return since


def _refuse_lacking(events: Events, config: EventsNaming, file: Path) -> None:
    templates = [config.column, *(text for text in (config.concept_column, config.check_concept_column) if text)]
    for column in {*(name for text in templates for name in columns_of(text)), *config.where, *config.test_where}:
        if column not in events.columns:
            raise StudyError(f"{file}: its events have no column {column!r}; they have {listed(events.columns)}")


def _matching(columns: Mapping[str, Sequence[str]], patterns: Mapping[str, str], field_name: str) -> np.ndarray:
    """Rows whose cells match all patterns."""
    rows = len(next(iter(columns.values())))
    matches: np.ndarray = np.ones(rows, bool)
    for column, pattern in patterns.items():
        rule = Names({pattern: "yes"}, f"{field_name}.{column}")
        matches &= np.array([rule.of(value) is not None for value in columns[column]], bool)
    return matches


def _once(order: Sequence[int], point_N: np.ndarray, found: Mapping[int, str], file: Path, at: str, near: int) -> tuple[list[int], int]:
    """Events without those that repeat another one of the same point, or ``near`` it, and how many did."""
    kept: list[int] = []
    for i in order:
        if kept and point_N[i] - point_N[kept[-1]] <= near:
            if found[i] == found[kept[-1]]:
                continue
            raise StudyError(
                f"{file}: {short(found[kept[-1]])!r} and {short(found[i])!r} are both shown {at} {point_N[i]:,}, expected one "
                "stimulus at a "
                "time: see events.where and events.names"
            )
        kept.append(i)
    return kept, len(order) - len(kept)


def _refuse_other_concepts(order: Sequence[int], found: Mapping[int, str], said: Sequence[str], config: EventsNaming, file: Path) -> None:
    for i in order:
        concept = concept_of(found[i], file)
        if not says_nothing(said[i]) and concept_name(said[i]) != concept:
            raise StudyError(
                f"{file}: event {i + 1} shows {short(found[i])!r}, of concept {concept!r}, and its column "
                f"{config.check_concept_column!r} says "
                f"{short(said[i])!r}: expected the same"
            )
