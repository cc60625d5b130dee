"""Which of a study's images are one picture: read once, before shards are written."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from data_prep.contract.audit import Finding
from data_prep.contract.errors import StudyError
from data_prep.contract.images import open_image
from data_prep.contract.progress import tracked
from data_prep.contract.words import listed
from data_prep.measure.pictures import Alike, Picture, alike_pictures, look_at
from data_prep.studies.base import StudyFacts
from data_prep.studies.image_names import inside

_WORKERS = 4
_MOST_PAIRS = 10_000
"""Pairs that are kept in the manifest."""


@dataclass(frozen=True, kw_only=True)
class StudyPictures:
    """Images of a study that are there, and what was found of them."""

    names: list[str]
    stimulus: list[int]
    """Row of the stimuli; in a class-level study of the class."""
    alike: list[Alike]
    unreadable: list[str]
    """Sentences."""

    def pairs(self) -> dict[str, list[list[int]]]:
        """Pairs of stimuli for the manifest: ``equal`` and ``near``; a class's images stand for it."""
        found: dict[str, list[list[int]]] = {"equal": [], "near": []}
        for pair in self.alike:
            stimuli = [self.stimulus[pair.first], self.stimulus[pair.second]]
            if stimuli[0] != stimuli[1] and len(found["equal"]) + len(found["near"]) < _MOST_PAIRS:
                found["equal" if pair.equal else "near"].append(stimuli)
        return {kind: pairs for kind, pairs in found.items() if pairs}


def compare_pictures(facts: StudyFacts) -> StudyPictures:
    """Look at every image of the study that is there; studies without any are compared as quickly as that."""
    files = [(stimulus, path) for stimulus, path in _files(facts) if path.is_file()]
    if not files:
        return StudyPictures(names=[], stimulus=[], alike=[], unreadable=[])
    seen: list[Picture] = []
    kept: list[tuple[int, Path]] = []
    unreadable: list[str] = []
    with ThreadPoolExecutor(_WORKERS) as pool:
        found = pool.map(_look, [path for _, path in files], chunksize=16)
        for (stimulus, path), picture in zip(files, tracked(found, "images compared", len(files)), strict=True):
            if isinstance(picture, StudyError):
                unreadable.append(str(picture))
            else:
                seen.append(picture)
                kept.append((stimulus, path))
    return StudyPictures(
        names=[path.name for _, path in kept],
        stimulus=[stimulus for stimulus, _ in kept],
        alike=alike_pictures(seen),
        unreadable=unreadable,
    )


def _look(path: Path) -> Picture | StudyError:
    try:
        return look_at(open_image(path))
    except StudyError as error:
        return error


def _files(facts: StudyFacts) -> Sequence[tuple[int, Path]]:
    if facts.class_images is not None:
        by_concept = {stimulus.concept: number for number, stimulus in enumerate(facts.stimuli)}
        return [
            (by_concept[concept], Path(path)) for concept, paths in facts.class_images.items() if concept in by_concept for path in paths
        ]
    root = facts.image_root
    if root is None:
        return []
    return [(number, inside(root, stimulus.image)) for number, stimulus in enumerate(facts.stimuli) if stimulus.image]


def picture_findings(pictures: StudyPictures, facts: StudyFacts) -> list[Finding]:
    """Images that are one picture under two names."""
    found: list[Finding] = []
    for equal, kind, what in ((True, "equal_images", "the same pixels"), (False, "near_images", "nearly the same pixels")):
        pairs = [pair for pair in pictures.alike if pair.equal is equal]
        if not pairs:
            continue
        stimuli = [(facts.stimuli[pictures.stimulus[pair.first]], facts.stimuli[pictures.stimulus[pair.second]]) for pair in pairs]
        apart = sum(one.part != other.part for one, other in stimuli)
        concepts = sum(one.concept != other.concept for one, other in stimuli)
        first = [_label(pictures, facts, number) for number in (pairs[0].first, pairs[0].second)]
        message = f"{len(pairs)} pairs of images have {what}, such as {' and '.join(first)}"
        message += f"; {apart} lie in training and test" if apart else ""
        message += f"; {concepts} show two concepts" if concepts else ""
        found.append(Finding(level="caution", kind=kind, message=message, facts={"pairs": len(pairs), "across_parts": apart}))
    if pictures.unreadable:
        message = f"{len(pictures.unreadable)} images cannot be read: {listed(pictures.unreadable, 1)}"
        found.append(Finding(level="caution", kind="unreadable_images", message=message, facts={"images": len(pictures.unreadable)}))
    return found


def _label(pictures: StudyPictures, facts: StudyFacts, number: int) -> str:
    stimulus = facts.stimuli[pictures.stimulus[number]]
    return stimulus.image or f"{pictures.names[number]} ({stimulus.id})"
