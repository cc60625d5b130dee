"""What stays of recordings once they are closed, and what it makes together: stimuli, samples, positions.

Shape suffixes: B trials.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_prep.contract import schema
from data_prep.contract.errors import StudyError
from data_prep.contract.manifest import Stimulus
from data_prep.contract.words import listed
from data_prep.studies.base import SamplePlan
from data_prep.studies.recording import Recording
from data_prep.studies.stimulus_images import ImageFolder, concept_of

POSITION_TOLERANCE_METRES = 1e-3


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What stays of one recording once it is closed."""

    recording: Recording
    name_B: list[str]
    """Class or image of every trial."""
    concept_B: list[str] | None
    test_B: list[bool] | None
    """Whether a trial belongs to the source's test part."""
    clean_B: list[bool] | None
    """Whether nothing else was shown before a trial; None where that is not asked for."""
    number_B: list[int]
    """Place among all stimuli of the recording, lost ones included."""
    onset_seconds_B: list[float | None]
    quality_B: list[str]
    first_row: int
    """Of the study's trials."""
    source_hz: float
    tmin: float
    sfreq: float
    n_times: int
    ch_names: list[str]
    """Of the recording."""
    mapped_names: list[str] | None = None
    """Of its trials, where they are those of a common montage; None: the recording's."""
    masked: tuple[str, ...] = ()
    """Channels of its trials that are zero in this recording."""
    bridged: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """Pairs of channels whose raw signal is one -> in which share of the trials."""
    positions: Mapping[str, Sequence[float]]
    files: list[Path]
    counts: dict[str, Any]

    @property
    def trial_names(self) -> list[str]:
        """Channels of its trials."""
        return self.mapped_names or self.ch_names


@dataclass(frozen=True, kw_only=True)
class StimulusTables:
    """What was shown in a study."""

    stimuli: list[Stimulus]
    concepts: list[str]
    stimulus_of: dict[str, int]
    """Row of ``stimuli`` of every name that events gave."""


def class_tables(used: Sequence[Kept], said: Sequence[str]) -> StimulusTables:
    """Classes in the order in which a config names them (``said``), then those that it does not, by name."""
    shown = {name for kept in used for name in kept.name_B}
    first = [name for name in dict.fromkeys(said) if name in shown]
    classes = first + sorted(shown - set(first))
    stimuli = [Stimulus(id=name, concept=i, image=None, part=None) for i, name in enumerate(classes)]
    return StimulusTables(stimuli=stimuli, concepts=classes, stimulus_of=_numbered(classes))


def image_tables(used: Sequence[Kept], folder: ImageFolder | None, concepts_are: Literal["folder", "image"]) -> StimulusTables:
    """Images and their concepts, both by name.

    Raises
    ------
    StudyError
        A name that means no image or several, an image without a concept or with two, or one that is test and training.
    """
    images: dict[str, str] = {}
    concepts: dict[str, str] = {}
    tests: dict[str, bool | None] = {}
    for kept in used:
        file = kept.recording.file
        for i, name in enumerate(kept.name_B):
            image = images.get(name) or (folder.find(name, file) if folder else name.replace("\\", "/"))
            images[name] = image
            concept = _concept(kept, i, image, concepts.get(image), concepts_are)
            if not concept or concepts.setdefault(image, concept) != concept:
                raise StudyError(f"{file}: image {image!r} has concept {concept!r}, expected {concepts.get(image)!r} as before")
            test = kept.test_B[i] if kept.test_B is not None else None
            if tests.setdefault(image, test) != test:
                raise StudyError(f"{file}: image {image!r} is of the test part here and of the training part elsewhere (events.test_where)")
    rows, labels = _numbered(sorted(concepts)), _numbered(sorted(set(concepts.values())))
    part = {None: None, True: "test", False: "training"}
    stimuli = [
        Stimulus(id=image, concept=labels[concepts[image]], image=image if folder else None, part=part[tests[image]]) for image in rows
    ]
    return StimulusTables(stimuli=stimuli, concepts=list(labels), stimulus_of={name: rows[image] for name, image in images.items()})


def _concept(kept: Kept, i: int, image: str, known: str | None, concepts_are: Literal["folder", "image"]) -> str:
    if kept.concept_B is not None:
        return kept.concept_B[i]
    return known or (image if concepts_are == "image" else concept_of(image, kept.recording.file))


def plan_samples(
    used: Sequence[Kept], stimulus_of: Mapping[str, int], level: Literal["image", "class"]
) -> tuple[list[SamplePlan], list[list[int]]]:
    """Samples, and for each its rows of all trials: a trial, in the order of recordings, or all trials of a subject and an image."""
    subjects, sessions = _numbered(labels_of(used, "subject")), _numbered(labels_of(used, "session"))
    groups: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for number, kept in enumerate(used):
        for i, name in enumerate(kept.name_B):
            groups[(number, i) if level == "class" else (subjects[kept.recording.subject], stimulus_of[name])].append((number, i))
    plans, rows = [], []
    for _, own in sorted(groups.items()):
        first, i = used[own[0][0]], own[0][1]
        recording, stimulus = first.recording, stimulus_of[first.name_B[i]]
        if level == "class":
            key = schema.trial_sample_key(recording.subject, recording.session, recording.run, first.number_B[i])
        else:
            key = schema.stimulus_sample_key(recording.subject, stimulus)
        plans.append(
            SamplePlan(
                key=key,
                subject=subjects[recording.subject],
                stimulus=stimulus,
                n_reps=len(own),
                session=[sessions[used[number].recording.session] for number, _ in own],
                recording=[number for number, _ in own],
                trial=[used[number].number_B[j] for number, j in own],
                onset_seconds=[used[number].onset_seconds_B[j] for number, j in own],
                quality=[used[number].quality_B[j] for number, j in own],
                clean_baseline=_clean(used, own),
            )
        )
        rows.append([used[number].first_row + j for number, j in own])
    return plans, rows


def _clean(used: Sequence[Kept], own: Sequence[tuple[int, int]]) -> list[bool | None] | None:
    if any(used[number].clean_B is None for number, _ in own):
        return None
    return [(used[number].clean_B or [])[j] for number, j in own]


def common_positions(used: Sequence[Kept]) -> tuple[list[list[float]] | None, str]:
    """Positions of the first recording, where all channels have one; and in words what they are."""
    first = used[0]
    lacking = [name for name in first.trial_names if name not in first.positions]
    if lacking:
        return None, f"none: {listed(lacking)} have no position in {first.recording.label}"
    places = [np.array([kept.positions.get(name, [np.nan] * 3) for name in first.trial_names]) for kept in used]
    apart = max(float(np.nanmax(np.linalg.norm(other - places[0], axis=1), initial=0.0)) for other in places)
    differs = f"; others differ by up to {1e3 * apart:.1f} mm" if apart > POSITION_TOLERANCE_METRES else ""
    return places[0].tolist(), f"of {first.recording.label}{differs}"


def labels_of(used: Sequence[Kept], name: str) -> list[str]:
    """Distinct labels of recordings (``subject``, ``session``), in their order."""
    return list(dict.fromkeys(getattr(kept.recording, name) for kept in used))


def _numbered(names: Sequence[str]) -> dict[str, int]:
    return {name: i for i, name in enumerate(names)}
