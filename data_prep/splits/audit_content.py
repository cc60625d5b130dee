"""What the writer measured of a study, as reasons of a split's audit: equal trials, equal pictures, concepts of nearly one name, levels."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from data_prep.contract import schema
from data_prep.contract.audit import Finding
from data_prep.contract.split import Split
from data_prep.contract.words import listed
from data_prep.measure.alike_names import alike_names
from data_prep.measure.content import equal_trials, is_copy
from data_prep.shards.open import StudyFolder
from data_prep.shards.shard import MEASURED, read_measured, shard_file

CLAIMS_NEW_IMAGES = ("zero-shot", "closed-set")
"""Policies whose test images were never trained on."""
_CONFIRMED = 64
"""Pairs of trials that are compared point by point."""
_OF_THE_SIGNAL = ("level", "levels_apart", "levels_differ", "unit_unlikely", "flat_channel", "equal_subjects")
"""What the writer found that makes a score hard to read, whatever the split."""


def content_findings(study: StudyFolder, split: Split, part_N: np.ndarray) -> list[Finding]:
    """Reasons that lie in what trials, pictures and names hold."""
    return [*_trials(study, part_N), *_pictures(study, split, part_N), *_names(study, part_N), *_signal(study)]


def _finding(level: Literal["info", "caution", "problem"], kind: str, message: str, **facts: Any) -> Finding:
    return Finding(level=level, kind=kind, message=message, facts=facts)


def _trials(study: StudyFolder, part_N: np.ndarray) -> Iterator[Finding]:
    shards = study.manifest.shards
    if not all(shard_file(study.root, shard.name, MEASURED).is_file() for shard in shards):
        message = "whether trials of train and test are equal was not measured: the study was written by an earlier version"
        yield _finding("info", "content_unmeasured", message)
        return
    rows = read_measured(study.root, shards)
    if len(rows) != len(part_N):
        yield _finding("caution", "content_unmeasured", f"{len(rows)} trials were measured of {len(part_N)}: shard the study again")
        return
    used_N = np.flatnonzero(part_N > 0)
    for number, name in ((2, "validation"), (3, "test")):
        # Of three equal trials each is paired with one: all of train with all of the part, so that none hides another.
        chosen = used_N[(part_N[used_N] == 1) | (part_N[used_N] == number)]
        found = equal_trials(rows["content"][chosen])
        trial, twin = chosen[found.trial], chosen[found.twin]
        across = part_N[trial] != part_N[twin]
        pairs = list(zip(trial[across].tolist(), twin[across].tolist(), strict=True))
        some = [pairs[i] for i in np.linspace(0, len(pairs) - 1, num=min(len(pairs), _CONFIRMED)).astype(int)]
        confirmed = [pair for pair in some if is_copy(*(_eeg(study, row) for row in pair))]
        if confirmed:
            trials = {row for pair in pairs for row in pair if part_N[row] == number}
            message = (
                f"{len(trials)} of {int((part_N == number).sum())} trials of {name} hold the signal of a training trial, such as "
                f"{' and '.join(_where(study, row) for row in confirmed[0])}: they are one recording under two names"
            )
            yield _finding("problem", "equal_trials", message, part=name, trials=len(trials))


def _eeg(study: StudyFolder, row: int) -> np.ndarray:
    eeg_CT: np.ndarray = study.eeg(int(study.table.sample[row]))[int(study.table.repetition[row])]
    return eeg_CT


def _where(study: StudyFolder, row: int) -> str:
    tables, table = study.manifest.tables, study.table
    label = tables.recordings[int(table.recording[row])]
    label = f"sub-{tables.subjects[int(table.subject[row])]}" if label == schema.UNKNOWN else label
    return f"{label} seeing {tables.stimuli[int(table.stimulus[row])].id}"


def _pictures(study: StudyFolder, split: Split, part_N: np.ndarray) -> Iterator[Finding]:
    images = study.manifest.measured.get("images", {})
    stimuli = study.manifest.tables.stimuli
    seen = functools.partial(_seen, study.table.stimulus, part_N)
    for kind, what in (("equal", "the pixels"), ("near", "nearly the pixels")):
        pairs = [(int(a), int(b)) for a, b in images.get(kind, ()) if max(a, b) < len(stimuli)]
        if study.manifest.class_level:
            if pairs:
                message = f"classes {listed(repr(stimuli[i].id) for i in pairs[0])} have pictures with {what} of each other"
                yield _finding("caution", f"{kind}_images", message, pairs=len(pairs))
            continue
        for number, name in ((2, "validation"), (3, "test")):
            train, theirs = seen(1), seen(number)
            both = [(a, b) if b in theirs else (b, a) for a, b in pairs if (a in train and b in theirs) or (b in train and a in theirs)]
            if not both:
                continue
            broken = kind == "equal" and split.policy in CLAIMS_NEW_IMAGES
            message = (
                f"{len({b for _, b in both})} images of {name} have {what} of a training image, such as {stimuli[both[0][1]].id!r} and "
                f"{stimuli[both[0][0]].id!r}" + (": they are no new images" if split.policy in CLAIMS_NEW_IMAGES else "")
            )
            yield _finding("problem" if broken else "caution", f"{kind}_images", message, part=name, pairs=len(both))


def _seen(ids_N: np.ndarray, part_N: np.ndarray, number: int) -> set[int]:
    return set(np.unique(ids_N[part_N == number]).tolist())


def _names(study: StudyFolder, part_N: np.ndarray) -> Iterator[Finding]:
    concepts = study.manifest.tables.concepts
    seen = {number: {concepts[i] for i in _seen(study.table.concept, part_N, number)} for number in (1, 2, 3)}
    for number, name in ((2, "validation"), (3, "test")):
        groups = alike_names(seen[1] | seen[number])
        apart = [group for group in groups if set(group) & (seen[number] - seen[1]) and set(group) & seen[1]]
        if apart:
            message = (
                f"concepts of {name} have a training concept's name but for case, spelling or number, such as "
                f"{listed(map(repr, apart[0]))}: if they are one, its images are of a concept that was trained on"
            )
            yield _finding("caution", "concepts_alike", message, part=name, groups=len(apart))


def _signal(study: StudyFolder) -> Iterator[Finding]:
    for found in study.manifest.measured.get("findings", ()):
        if found.get("kind") in _OF_THE_SIGNAL and found.get("level") != "info":
            yield _finding("caution", str(found["kind"]), str(found.get("message")))
