"""A study measured: a few trials of every part and all images before it is written, every trial in passing, and the sentences of both.

look (early.py) -> refused at once -> shards, each trial measured -> all of them compared -> refused, or in the manifest
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.contract.audit import Finding
from data_prep.contract.errors import StudyError
from data_prep.contract.progress import tracked
from data_prep.contract.records import to_json
from data_prep.contract.words import listed
from data_prep.measure.trials import MEASURED_DTYPE
from data_prep.shards import findings as sentences
from data_prep.shards.early import Early, look
from data_prep.shards.measuring import MeasureConfig
from data_prep.shards.parts import StudyParts
from data_prep.shards.pictures import StudyPictures, compare_pictures, picture_findings
from data_prep.shards.shard import read_samples
from data_prep.studies.base import ReaderConfig, Source


@dataclass(frozen=True, kw_only=True)
class Beforehand:
    """What is known of a study before a shard of it is written."""

    parts: StudyParts
    early: Early
    pictures: StudyPictures
    findings: list[Finding]


@dataclass(frozen=True, kw_only=True)
class Report:
    """What is known of it when all trials were measured."""

    findings: list[Finding]
    levels: dict[str, float]
    """Part -> median standard deviation within a trial."""
    lost: dict[str, int]
    images: dict[str, list[list[int]]]
    """``equal`` and ``near`` pairs of stimuli."""

    def plain(self) -> dict[str, Any]:
        """As the manifest has it."""
        found = {"findings": [to_json(each) for each in self.findings], "levels": self.levels, "lost": self.lost, "images": self.images}
        return {name: value for name, value in found.items() if value}


def where(reader: ReaderConfig) -> str:
    """A study in words: the folder that its reader was given."""
    root = getattr(reader, "root", None) or getattr(reader, "path", None)
    return str(root) if isinstance(root, (str, Path)) else type(reader).__name__


def measure_beforehand(source: Source, config: MeasureConfig) -> Beforehand:
    """Read a few trials of every part, and all images."""
    parts = StudyParts(source)
    early = look(source, parts)
    part_N = parts.of_rows(early.rows)
    found = sentences.level_findings(sentences.part_levels(early.rows, part_N, parts, early), source.facts.unit)
    found += sentences.electrode_findings(early, source.facts)
    if "equal_trials" not in config.drop:
        found += sentences.content_findings(early.rows, part_N, parts, source.eeg)
    return Beforehand(parts=parts, early=early, pictures=compare_pictures(source.facts), findings=found)


def measure_all(source: Source, config: MeasureConfig) -> tuple[np.ndarray, Counter[str]]:
    """Read every sample: rows of the trials that would stay, and how many would not, by reason."""
    rows, lost = [np.zeros(0, MEASURED_DTYPE)], Counter[str]()
    for kept in read_samples(source, tracked(range(len(source.samples)), "samples measured"), config, {}):
        rows.append(kept.rows)
        lost.update(kept.lost)
    return np.concatenate(rows), lost


def find_twins(source: Source, config: MeasureConfig) -> dict[int, list[int]]:
    """Sample -> repetitions that hold the signal of an earlier trial, where such are to be dropped; reads every sample once."""
    if "equal_trials" not in config.drop:
        return {}
    rows, _ = measure_all(source, config)
    twins: dict[int, list[int]] = defaultdict(list)
    for trial, _ in sentences.confirmed(sentences.twins_of(rows), rows, source.eeg):
        twins[int(rows["sample"][trial])].append(int(rows["repetition"][trial]))
    return dict(twins)


def report(source: Source, before: Beforehand, rows: np.ndarray, lost: Mapping[str, int]) -> Report:
    """All that was measured, in sentences; the worst first.

    Raises
    ------
    StudyError
        A subject of whom no trial stayed.
    """
    _refuse_lost_subjects(source, {source.samples[i].subject for i in set(rows["sample"].tolist())}, lost)
    parts, facts = before.parts, source.facts
    part_N = parts.of_rows(rows)
    by_part = sentences.part_levels(rows, part_N, parts, before.early)
    found = sentences.level_findings(by_part, facts.unit) + sentences.electrode_findings(before.early, facts)
    found += sentences.content_findings(rows, part_N, parts, source.eeg) + sentences.loss_findings(lost)
    found += sentences.name_findings(facts) + picture_findings(before.pictures, facts)
    found.sort(key=lambda each: ("problem", "caution", "info").index(each.level))
    return Report(
        findings=found,
        levels={label: float(f"{level.level:.4g}") for label, level in by_part.items()},
        lost=dict(sorted(lost.items())),
        images=before.pictures.pairs(),
    )


def _refuse_lost_subjects(source: Source, subjects: Collection[int], lost: Mapping[str, int]) -> None:
    gone = [label for subject, label in enumerate(source.facts.subjects) if subject not in subjects and _seen(source, subject)]
    if gone:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(lost.items()))
        raise StudyError(f"subject {listed(gone)} has no trial left: in the study {reasons} are none; leave the subject out with subjects")


def _seen(source: Source, subject: int) -> bool:
    return any(plan.subject == subject for plan in source.samples)
