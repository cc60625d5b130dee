"""What a policy tests on, and what it validates on: clauses over ids.

The validation part repeats the test's claim inside the training data, so that a model is never chosen on easier ground than it
is tested on:

======================  ====================================  ==========================================
policy                  test                                  validation, out of the training data
======================  ====================================  ==========================================
``zero-shot``           images of concepts never trained on   training concepts held out
``recording``           recordings never trained on           other recordings held out
``session``             sessions never trained on             other sessions held out
``subject``             subjects never trained on             another subject held out
``closed-set``          new images of trained concepts        other images of trained concepts
``eeg-clip/by-subject`` a tenth of the subjects               another tenth
``official``            what the data's makers chose          what they chose
======================  ====================================  ==========================================

Choices are made by hashing labels with the seed, so they depend on nothing else.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np

from data_prep.contract import schema
from data_prep.contract.errors import StudyError
from data_prep.contract.manifest import Stimulus
from data_prep.contract.words import listed
from data_prep.shards.open import StudyFolder
from data_prep.splits.config import SplitConfig
from data_prep.splits.official import official_rows

Parts = dict[str, list[dict[str, list[int]]]]
"""Part -> clauses; see :func:`data_prep.contract.split.assign_parts`."""


class View:
    """What of the study the split may use: ids that have trials of the chosen subjects, and labels by id."""

    def __init__(self, study: StudyFolder, config: SplitConfig) -> None:
        tables = study.manifest.tables
        self.subjects: list[str] = tables.subjects
        self.recordings: list[str] = tables.recordings
        self.sessions: list[str] = tables.sessions
        self.concepts: list[str] = tables.concepts
        self.stimuli: list[Stimulus] = tables.stimuli
        self.stimulus_level: str = study.manifest.stimulus_level
        self.study = study
        self.table = study.table
        wanted = range(len(self.subjects)) if config.subjects is None else find("subjects", config.subjects, self.subjects)
        self.rows = np.isin(study.table.subject, list(wanted))
        self.subject_ids = self.ids("subject")
        self.recording_ids = self.ids("recording")
        self.stimulus_ids = self.ids("stimulus")

    def ids(self, field: str) -> list[int]:
        ids: list[int] = np.unique(self.table.column(field)[self.rows]).tolist()
        return ids

    def subject_of_recording(self) -> dict[int, set[int]]:
        owners: dict[int, set[int]] = defaultdict(set)
        pairs = np.stack([self.table.recording, self.table.subject], axis=1)[self.rows]
        for recording, subject in np.unique(pairs, axis=0).tolist():
            owners[recording].add(subject)
        return owners

    def test_stimuli(self) -> list[int]:
        return [i for i in self.stimulus_ids if self.stimuli[i].part == "test"]

    def concepts_of(self, stimuli: Iterable[int]) -> list[int]:
        return sorted({self.stimuli[i].concept for i in stimuli})

    def stimuli_of(self, concepts: Iterable[int], stimuli: Iterable[int]) -> list[int]:
        wanted = set(concepts)
        return [i for i in stimuli if self.stimuli[i].concept in wanted]


def divide(view: View, config: SplitConfig) -> Parts:
    """The clauses of each part, as the policy says.

    Raises
    ------
    StudyError
        An unknown label, a policy that the study cannot serve, more to be held out than there is.
    """
    policies = {
        "zero-shot": _zero_shot,
        "recording": _recording,
        "session": _session,
        "subject": _subject,
        "closed-set": _closed_set,
        "official": _official,
        "eeg-clip/by-subject": _share_of_subjects,
    }
    return policies[config.policy](view, config)


def _zero_shot(view: View, config: SplitConfig) -> Parts:
    train, validation, test = _unseen_concepts(view, config)
    return {"train": [{"stimulus": train}], "validation": _clause(stimulus=validation), "test": [{"stimulus": test}]}


def _unseen_concepts(view: View, config: SplitConfig) -> tuple[list[int], list[int], list[int]]:
    """Stimulus ids of train, validation and test, without a concept in common."""
    if config.num_test_concepts:
        concepts = view.concepts_of(view.stimulus_ids)
        _refuse_too_many("num_test_concepts", config.num_test_concepts, len(concepts) - 1, "concepts")
        held_out = choose(concepts, config.num_test_concepts, config.seed, "test", view.concepts)
        test = view.stimuli_of(held_out, view.stimulus_ids)
    else:
        test = view.test_stimuli()
        if not test:
            raise StudyError("policy 'zero-shot': the source names no test images, expected num_test_concepts")
    seen = set(test)
    rest = [i for i in view.stimulus_ids if i not in seen]
    both = set(view.concepts_of(test)) & set(view.concepts_of(rest))
    if both:
        raise StudyError(
            f"policy 'zero-shot': concept {view.concepts[min(both)]!r} and {len(both) - 1} more are both in training and test images, "
            "expected none: use policy 'closed-set'"
        )
    concepts = view.concepts_of(rest)
    count = min(200, max(1, len(concepts) // 10)) if config.num_validation_concepts is None else config.num_validation_concepts
    _refuse_too_many("num_validation_concepts", count, len(concepts) - 1, "training concepts")
    validation = view.stimuli_of(choose(concepts, count, config.seed, "validation", view.concepts), rest)
    if config.num_validation_concepts is None and len(validation) == 1 and len(concepts) > 3:  # among one image the first is always right
        validation = view.stimuli_of(choose(concepts, 2, config.seed, "validation", view.concepts), rest)
    return [i for i in rest if i not in set(validation)], validation, test


def _recording(view: View, config: SplitConfig) -> Parts:
    usable = [r for r in view.recording_ids if view.recordings[r] != schema.UNKNOWN]
    if len(usable) < len(view.recording_ids):
        raise StudyError("policy 'recording': the source has lost which trial is from which recording, expected known recordings")
    owners = view.subject_of_recording()
    by_subject = {s: [r for r in usable if s in owners[r]] for s in view.subject_ids}
    if config.test_recordings is None:
        test = sorted({recordings[-1] for recordings in by_subject.values()})
    else:
        test = find("test_recordings", config.test_recordings, view.recordings)
        absent = set(test) - set(usable)
        if absent:
            raise StudyError(f"test_recordings: {view.recordings[min(absent)]!r} has no trials of the chosen subjects, expected some")
    _refuse_nobody(set(usable) - set(test), test, view.recordings, "recording")
    validation: set[int] = set()
    for subject in sorted({s for r in test for s in owners[r]} & set(view.subject_ids)):
        others = [r for r in by_subject[subject] if r not in test]
        enough = len(view.recording_ids) - len(test) - len(validation) - 1
        _refuse_too_many("num_validation_recordings", config.num_validation_recordings, min(len(others), enough), "other recordings")
        validation |= set(choose(others, config.num_validation_recordings, config.seed, "validation", view.recordings))
    train = [r for r in usable if r not in validation and r not in test]
    return {"train": _clause(recording=train), "validation": _clause(recording=sorted(validation)), "test": _clause(recording=test)}


def _session(view: View, config: SplitConfig) -> Parts:
    """A session is one of a subject: labels such as ``01`` come again with each."""
    pairs = np.unique(np.stack([view.table.subject, view.table.session], axis=1)[view.rows], axis=0).tolist()
    if any(view.sessions[session] == schema.UNKNOWN for _, session in pairs):
        raise StudyError("policy 'session': the source has lost which trial is from which session, expected known sessions")
    wanted = None if config.test_sessions is None else set(find("test_sessions", config.test_sessions, view.sessions))
    if wanted is not None and (absent := wanted - {session for _, session in pairs}):
        raise StudyError(f"test_sessions: {view.sessions[min(absent)]!r} has no trials of the chosen subjects, expected some")
    parts: Parts = {"train": [], "validation": [], "test": []}
    for subject in view.subject_ids:
        own = [session for owner, session in pairs if owner == subject]
        test = own[-1:] if wanted is None else [session for session in own if session in wanted]
        others = [session for session in own if session not in test]
        validation: list[int] = []
        if test:
            if not others:
                held_out = listed((view.sessions[session] for session in test), 5)
                raise StudyError(
                    f"policy 'session': with session {held_out} as the test no session of subject {view.subjects[subject]} is left to "
                    "train on, expected at least one more"
                )
            _refuse_too_many("num_validation_sessions", config.num_validation_sessions, len(others) - 1, "other sessions")
            validation = sorted(choose(others, config.num_validation_sessions, config.seed, "validation", view.sessions))
        train = [session for session in others if session not in validation]
        for part, sessions in (("train", train), ("validation", validation), ("test", test)):
            parts[part] += _clause(subject=[subject], session=sessions)
    return parts


def _share_of_subjects(view: View, config: SplitConfig) -> Parts:
    """As EEG-CLIP divides: subjects apart, all images in every part."""
    order = choose(view.subject_ids, len(view.subject_ids), config.seed, "eeg-clip/by-subject", view.subjects)
    num_test = max(1, round(config.test_share * len(order)))
    num_validation = max(1, round(config.validation_share * len(order))) if config.validation_share else 0
    _refuse_nobody(order[num_test + num_validation :], order[: num_test + num_validation], view.subjects, "subject")
    test, validation, train = order[:num_test], order[num_test : num_test + num_validation], order[num_test + num_validation :]
    return {
        "train": _clause(subject=sorted(train)),
        "validation": _clause(subject=sorted(validation)),
        "test": _clause(subject=sorted(test)),
    }


def _subject(view: View, config: SplitConfig) -> Parts:
    test = view.subject_ids[-1:] if config.test_subjects is None else find("test_subjects", config.test_subjects, view.subjects)
    others = [s for s in view.subject_ids if s not in test]
    _refuse_nobody(others, test, view.subjects, "subject")
    count = config.num_validation_subjects
    _refuse_too_many("num_validation_subjects", count, len(others) - 1, "subjects besides the test's")
    validation = choose(others, count, config.seed, "validation", view.subjects)
    train = [s for s in others if s not in validation]
    unseen = bool(view.test_stimuli()) if config.unseen_stimuli is None else config.unseen_stimuli
    if not unseen:
        return {"train": _clause(subject=train), "validation": _clause(subject=validation), "test": _clause(subject=test)}
    if view.stimulus_level == "class":
        raise StudyError("unseen_stimuli is true, but this study has classes, not images: expected unseen_stimuli: false")
    train_stimuli, validation_stimuli, test_stimuli = _unseen_concepts(view, config)
    return {
        "train": _clause(subject=train, stimulus=train_stimuli),
        "validation": _clause(subject=validation, stimulus=validation_stimuli),
        "test": _clause(subject=test, stimulus=test_stimuli),
    }


def _closed_set(view: View, config: SplitConfig) -> Parts:
    parts: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    by_concept: dict[int, list[int]] = defaultdict(list)
    for stimulus in view.stimulus_ids:
        by_concept[view.stimuli[stimulus].concept].append(stimulus)
    labels = [stimulus.id for stimulus in view.stimuli]
    needed = 3 if config.validation_share else 2
    for stimuli in by_concept.values():
        if len(stimuli) < needed:  # too few images to hold one out: the concept is trained on, not tested
            parts["train"] += stimuli
            continue
        order = choose(stimuli, len(stimuli), config.seed, "closed-set", labels)
        num_test = min(max(1, round(config.test_share * len(stimuli))), len(stimuli) - needed + 1)
        num_validation = max(1, round(config.validation_share * len(stimuli))) if config.validation_share else 0
        num_validation = min(num_validation, len(stimuli) - num_test - 1)
        parts["test"] += order[:num_test]
        parts["validation"] += order[num_test : num_test + num_validation]
        parts["train"] += order[num_test + num_validation :]
    if not parts["test"]:
        raise StudyError(f"policy 'closed-set': no concept has {needed} images, expected some: use policy 'recording' or 'subject'")
    return {part: _clause(stimulus=sorted(stimuli)) for part, stimuli in parts.items()}


def _official(view: View, config: SplitConfig) -> Parts:
    assert config.file is not None
    return {part: _clause(row=rows) for part, rows in official_rows(view.study, Path(config.file), config.split_number).items()}


def _clause(**fields: Sequence[int]) -> list[dict[str, list[int]]]:
    """One clause, or none where any of its fields has no ids."""
    return [{name: list(ids) for name, ids in fields.items()}] if all(fields.values()) else []


def _refuse_nobody(others: Collection[int], test: Sequence[int], labels: Sequence[str], what: str) -> None:
    if not others:
        held_out = listed((labels[i] for i in test), 5)
        raise StudyError(f"policy {what!r}: with {what} {held_out} as the test no {what} is left to train on, expected at least one more")


def _refuse_too_many(field: str, count: int, most: int, what: str) -> None:
    if count > max(most, 0):
        instead = f"there are no more {what} to spare" if most > 0 else f"there are no {what} to spare, set {field} to 0 and hold none out"
        raise StudyError(f"{field} is {count}, expected at most {max(most, 0)}: {instead}")


def find(field: str, labels: Sequence[str], table: Sequence[str]) -> list[int]:
    """Ids of labels in a table; an unknown label is a :class:`StudyError` naming the field."""
    unknown = [label for label in labels if label not in table]
    if unknown:
        raise StudyError(f"{field}: {unknown[0]!r} is not in this study, expected some of {listed(table)}")
    return sorted(table.index(label) for label in labels)


def choose(ids: Sequence[int], count: int, seed: int, purpose: str, labels: Sequence[str]) -> list[int]:
    """``count`` of ``ids`` in the order of a hash of seed, purpose and label: the same on any machine and version."""

    def rank(i: int) -> str:
        return hashlib.sha256(f"{seed}/{purpose}/{labels[i]}".encode()).hexdigest()

    return sorted(ids, key=rank)[:count]
