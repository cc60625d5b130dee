"""Train, validation and test as views of one study: ``python -m data_prep split``.

A split says which repetitions are in which part by clauses over ids (:func:`assign_parts`); no trial is copied. The
validation part repeats the test's claim inside the training data, so that a model is never chosen on easier ground than it
is tested on:

==============  ====================================  ==========================================
policy          test                                  validation, out of the training data
==============  ====================================  ==========================================
``zero-shot``   images of concepts never trained on   training concepts held out
``recording``   recordings never trained on           other recordings held out
``subject``     subjects never trained on             another subject held out
``closed-set``  new images of trained concepts        other images of trained concepts
==============  ====================================  ==========================================

Choices are made by hashing labels with the seed, so they depend on nothing else. The audit is written last, beside the split.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from rich.console import Console

from data_prep.contract import cli, schema
from data_prep.contract.errors import StudyError
from data_prep.contract.files import read_json, write_json
from data_prep.contract.manifest import Split, Stimulus, assign_parts
from data_prep.contract.seed import check_seed
from data_prep.shards.open import StudyFolder, open_study
from data_prep.splits import audit, transforms

FORMAT_VERSION = 1
Parts = dict[str, list[dict[str, list[int]]]]


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """Divide a study into train, validation and test; optionally fit a transform on the training trials."""

    study: str
    """Folder of the study."""
    policy: Literal["zero-shot", "recording", "subject", "closed-set"]
    """What the test claims: unseen concepts, unseen recordings, unseen subjects, or new images of known concepts."""
    name: str = ""
    """Name of the split, ``splits/NAME.json``; empty: the policy's. Folds are called ``NAME-00``, ``NAME-01``, ..."""
    seed: int = 0
    """Chooses what is held out where it is not named."""
    subjects: list[str] | None = None
    """Only these subjects; None: all."""
    folds: bool = False
    """``recording`` and ``subject``: write one split for every recording (subject), each the test once."""
    test_recordings: list[str] | None = None
    """``recording``: labels of the test recordings; None: the last recording of every subject."""
    test_subjects: list[str] | None = None
    """``subject``: labels of the test subjects; None: the last subject."""
    num_test_concepts: int | None = None
    """``zero-shot``: hold out this many concepts; None: the images that the source itself calls its test part."""
    test_share: float = 0.1
    """``closed-set``: share of each concept's images in the test part (at least one)."""
    num_validation_concepts: int | None = None
    """``zero-shot``, and ``subject`` with unseen stimuli: training concepts to hold out; None: a tenth, at most 200; 0: no
    validation part."""
    num_validation_recordings: int = 1
    """``recording``: recordings of every test subject to hold out; 0: no validation part."""
    num_validation_subjects: int = 1
    """``subject``: subjects to hold out; 0: no validation part."""
    validation_share: float = 0.1
    """``closed-set``: share of each concept's images in the validation part (at least one); 0: no validation part."""
    unseen_stimuli: bool | None = None
    """``subject``: whether test images are unseen, too, as in published leave-one-subject-out results; None: yes where the
    source has a test part."""
    transform: Literal["none", "zscore", "mvnn"] = "none"
    """Fit by subject and session on the training trials, into ``transforms/NAME.npz``: scaling, or whitening of the noise
    (multivariate noise normalisation)."""
    overwrite: bool = False
    """Replace a split of this name that differs; runs made with the old one can then no longer be resumed."""

    def __post_init__(self) -> None:
        schema.check_split_name(self.name or self.policy)
        check_seed(self.seed)
        for name in ("test_share", "validation_share"):
            value = getattr(self, name)
            if not 0 <= value < 1 or (name == "test_share" and value == 0):
                raise ValueError(f"{name} is {value}, expected a share below 1")
        for name in ("num_test_concepts", "num_validation_concepts", "num_validation_recordings", "num_validation_subjects"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name} is {value}, expected 0 or more")
        if self.folds and self.policy not in ("recording", "subject"):
            raise ValueError(f"folds is true with policy {self.policy!r}, expected policy 'recording' or 'subject'")
        if self.folds and (self.test_recordings or self.test_subjects):
            raise ValueError("folds is true and test_recordings or test_subjects are given, expected one of the two")
        for name, policy in (("test_recordings", "recording"), ("test_subjects", "subject"), ("num_test_concepts", "zero-shot")):
            if getattr(self, name) and self.policy != policy:
                raise ValueError(f"{name} is given with policy {self.policy!r}, expected policy {policy!r}")
        if self.transform != "none" and self.policy == "subject":
            raise ValueError(
                f"transform is {self.transform!r} with policy 'subject': it is fitted by subject and session, and a test subject has no "
                "training trials, expected 'none'"
            )


def run(config: SplitConfig) -> None:
    """Write the split (all folds), its transform and its audit; print one line each."""
    console = Console(stderr=True)
    study = open_study(config.study)
    for number, fold in enumerate(folds(config, study)):
        name = config.name or config.policy
        split, report = write_split(fold, f"{name}-{number:02d}" if config.folds else name, study)
        counts = ", ".join(f"{part} {facts['trials']}" for part, facts in report["parts"].items())
        console.print(f"split {split.name}: trials {counts}; audit: {report['verdict']}", highlight=False, soft_wrap=True)
        for finding in report["findings"]:
            if finding["level"] != "info":
                console.print(f"  {finding['level']}: {finding['message']}", highlight=False, soft_wrap=True)


def folds(config: SplitConfig, study: StudyFolder) -> list[SplitConfig]:
    """One config a fold; the config itself if it asks for no folds."""
    if not config.folds:
        return [config]
    view = _View(study, config)
    if config.policy == "subject":
        return [replace(config, folds=False, test_subjects=[view.subjects[s]]) for s in view.subject_ids]
    return [replace(config, folds=False, test_recordings=[view.recordings[r]]) for r in view.recording_ids]


def write_split(config: SplitConfig, name: str = "", study: StudyFolder | None = None) -> tuple[Split, dict[str, Any]]:
    """Write ``splits/NAME.json``, the transform if one is asked for, and last ``splits/NAME.audit.json``.

    Returns
    -------
    (split, audit)
        As written.

    Raises
    ------
    StudyError
        A part without trials, an unknown label, a policy that the study cannot serve, a different split of that name.
    """
    study = study or open_study(config.study)
    name = name or config.name or config.policy
    split = make_split(config, name, study)
    path = study.root / "splits" / f"{name}.json"
    if path.is_file() and not config.overwrite:
        before = read_json(path)
        if before.get("hash") != split.hash:
            raise StudyError(f"{path}: a different split of this name is there: choose another name, or set overwrite: true")
    arrays = None if config.transform == "none" else transforms.fit_transform(study, split, config.transform)
    write_json(path, split.plain())
    if arrays is not None:
        transforms.write_transform(study.root, name, arrays)
    return split, audit.write_audit(study, split)


def make_split(config: SplitConfig, name: str, study: StudyFolder) -> Split:
    """The split as a value; nothing is written."""
    view = _View(study, config)
    policies = {"zero-shot": _zero_shot, "recording": _recording, "subject": _subject, "closed-set": _closed_set}
    parts = policies[config.policy](view, config)
    if config.subjects is not None:
        for clauses in parts.values():
            for clause in clauses:
                clause.setdefault("subject", view.subject_ids)
    for part in ("train", "test"):
        if not parts[part]:
            raise StudyError(f"split {name!r}: part {part!r} has no trials, expected some")
    options = {k: v for k, v in cli.to_plain(config).items() if k not in ("study", "name", "policy", "transform", "overwrite", "folds")}
    split = Split(
        name=schema.check_split_name(name),
        policy=config.policy,
        options=options,
        fingerprint=study.manifest.fingerprint,
        rows_hash=study.manifest.rows_hash,
        parts=parts,
    )
    assign_parts(split, study.table)  # refuses empty and overlapping parts
    return split


# --------------------------------------------------------------------------------------------------------- policies


class _View:
    """What of the study the split may use: ids that have trials of the chosen subjects, and labels by id."""

    def __init__(self, study: StudyFolder, config: SplitConfig) -> None:
        tables = study.manifest.tables
        self.subjects: list[str] = tables.subjects
        self.recordings: list[str] = tables.recordings
        self.concepts: list[str] = tables.concepts
        self.stimuli: list[Stimulus] = tables.stimuli
        self.stimulus_level: str = study.manifest.stimulus_level
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


def _zero_shot(view: _View, config: SplitConfig) -> Parts:
    train, validation, test = _unseen_concepts(view, config)
    return {"train": [{"stimulus": train}], "validation": _clause(stimulus=validation), "test": [{"stimulus": test}]}


def _unseen_concepts(view: _View, config: SplitConfig) -> tuple[list[int], list[int], list[int]]:
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
    return [i for i in rest if i not in set(validation)], validation, test


def _recording(view: _View, config: SplitConfig) -> Parts:
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
    validation: set[int] = set()
    for subject in sorted({s for r in test for s in owners[r]} & set(view.subject_ids)):
        others = [r for r in by_subject[subject] if r not in test]
        enough = len(view.recording_ids) - len(test) - len(validation) - 1
        _refuse_too_many("num_validation_recordings", config.num_validation_recordings, min(len(others), enough), "other recordings")
        validation |= set(choose(others, config.num_validation_recordings, config.seed, "validation", view.recordings))
    train = [r for r in usable if r not in validation and r not in test]
    return {"train": _clause(recording=train), "validation": _clause(recording=sorted(validation)), "test": _clause(recording=test)}


def _subject(view: _View, config: SplitConfig) -> Parts:
    test = view.subject_ids[-1:] if config.test_subjects is None else find("test_subjects", config.test_subjects, view.subjects)
    others = [s for s in view.subject_ids if s not in test]
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


def _closed_set(view: _View, config: SplitConfig) -> Parts:
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


def _clause(**fields: Sequence[int]) -> list[dict[str, list[int]]]:
    """One clause, or none where any of its fields has no ids."""
    return [{name: list(ids) for name, ids in fields.items()}] if all(fields.values()) else []


def _refuse_too_many(field: str, count: int, most: int, what: str) -> None:
    if count > most:
        raise StudyError(f"{field} is {count}, expected at most {max(most, 0)}: there are no more {what} to spare")


def find(field: str, labels: Sequence[str], table: Sequence[str]) -> list[int]:
    """Ids of labels in a table; an unknown label is a :class:`StudyError` naming the field."""
    unknown = [label for label in labels if label not in table]
    if unknown:
        raise StudyError(f"{field}: {unknown[0]!r} is not in this study, expected some of {', '.join(table[:20])}")
    return sorted(table.index(label) for label in labels)


def choose(ids: Sequence[int], count: int, seed: int, purpose: str, labels: Sequence[str]) -> list[int]:
    """``count`` of ``ids`` in the order of a hash of seed, purpose and label: the same on any machine and version."""

    def rank(i: int) -> str:
        return hashlib.sha256(f"{seed}/{purpose}/{labels[i]}".encode()).hexdigest()

    return sorted(ids, key=rank)[:count]
