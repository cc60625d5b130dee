"""What a split can and cannot show: ``python -m data_prep audit``; ``splits/NAME.audit.json`` beside every split.

Findings have a level: ``problem`` (the claim does not hold), ``caution`` (it may not, or a number is easily misread) and
``info``. The verdict is the worst of them: ``unsound``, ``caution`` or ``sound``.

Shape suffixes: R repetitions, C channels.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from data_prep.contract import schema
from data_prep.contract.audit import Audit, Finding, write_audit_file
from data_prep.contract.errors import StudyError
from data_prep.contract.lock import alone
from data_prep.contract.progress import progress
from data_prep.contract.split import Split, assign_parts, read_split
from data_prep.contract.terminal import Terminal
from data_prep.shards.open import StudyFolder, open_study
from data_prep.splits import transforms

VERDICTS: dict[str, Literal["sound", "caution", "unsound"]] = {"info": "sound", "caution": "caution", "problem": "unsound"}
CLAIMS = {
    "zero-shot": ("concept", "stimulus"),
    "recording": ("recording",),
    "subject": ("subject",),
    "closed-set": ("stimulus",),
}
"""What must not be shared between train and another part for the policy's claim to hold."""
SENTENCES = {
    "zero-shot": "tells images of concepts never trained on apart, for subjects that were trained on",
    "recording": "decodes new recordings of subjects that were trained on",
    "subject": "decodes subjects that were never trained on",
    "closed-set": "recognises new images of concepts that were trained on; it says nothing about new concepts",
}
RUN_LIMIT = 0.5
"""Share of neighbouring trials with one label, above chance (0) up to always (1), from which a design counts as blocked."""


@dataclass(frozen=True, kw_only=True)
class AuditConfig:
    """Audit a split again, for example after an upgrade."""

    study: str
    """Folder of the study."""
    split: str
    """Name of the split."""


def run(config: AuditConfig) -> int:
    """Write and print the audit; exit status 1 if it is unsound."""
    study = open_study(config.study)
    report = write_audit(study, read_split(study.root, study.manifest, config.split))
    console = Terminal()
    console.print(f"{config.split}: {report.verdict}: {report.claim}", soft_wrap=True)
    for finding in report.findings:
        console.print(f"  {finding.level}: {finding.message}", soft_wrap=True)
    return int(report.verdict == "unsound")


def write_audit(study: StudyFolder, split: Split) -> Audit:
    """Audit a split and write ``splits/NAME.audit.json``; returns what was written."""
    report = audit(study, split)
    with alone(study.root):
        if read_split(study.root, study.manifest, split.name).hash != split.hash:
            raise StudyError(f"{study.root}: split {split.name!r} was replaced while it was audited: audit it again")
        write_audit_file(study.root, report)
    return report


def audit(study: StudyFolder, split: Split) -> Audit:
    """The audit of a split."""
    part = assign_parts(split, study.table)
    findings: list[Finding] = []
    with progress(f"audit checks of {split.name}", 5) as advance:
        _overlaps(study, split, part, findings)
        advance()
        _blocks(study, part, findings)
        advance()
        _lost(study, split, part, findings)
        advance()
        _balance(study, part, findings)
        advance()
        _whitened(study, part, findings)
        advance()
    worst = max((finding.level for finding in findings), key=list(VERDICTS).index, default="info")
    what = SENTENCES.get(split.policy, "holds for trials like the test part's")
    if split.policy == "subject" and not set(_ids(study, part, 1, "concept")) & set(_ids(study, part, 3, "concept")):
        what += ", on images of concepts never trained on"
    verb = "does NOT show" if worst == "problem" else "shows"
    level = "images" if study.manifest.stimulus_level == "image" else "classes, never single images"
    return Audit(
        name=split.name,
        split_hash=split.hash,
        verdict=VERDICTS[worst],
        claim=f"A score on this test part {verb} that a model {what} (stimuli are {level}).",
        findings=tuple(findings),
        parts={name: _count(study, part == number) for number, name in enumerate(schema.PARTS, start=1)},
    )


def _finding(level: Literal["info", "caution", "problem"], kind: str, message: str, **facts: Any) -> Finding:
    return Finding(level=level, kind=kind, message=message, facts=facts)


def _count(study: StudyFolder, rows: np.ndarray) -> dict[str, Any]:
    fields = ("sample", "subject", "stimulus", "concept", "session", "recording")
    counts: dict[str, Any] = {
        f"{name}s" if name != "stimulus" else "stimuli": len(np.unique(study.table.column(name)[rows])) for name in fields
    }
    counts["trials"] = int(rows.sum())
    if study.manifest.class_level:
        names, numbers = np.unique(study.table.concept[rows], return_counts=True)
        counts["trials_by_concept"] = {study.manifest.tables.concepts[c]: int(n) for c, n in zip(names, numbers, strict=True)}
    return counts


def _ids(study: StudyFolder, part: np.ndarray, number: int, field: str) -> list[int]:
    ids: list[int] = np.unique(study.table.column(field)[part == number]).tolist()
    return ids


def _label(study: StudyFolder, field: str, i: int) -> str:
    return study.manifest.tables.labels(field)[i]


def _overlaps(study: StudyFolder, split: Split, part: np.ndarray, findings: list[Finding]) -> None:
    for number, name in ((2, "validation"), (3, "test")):
        for field in ("subject", "concept", "stimulus", "session", "recording"):
            if field in ("stimulus", "concept") and study.manifest.class_level:
                continue
            theirs = _ids(study, part, number, field)
            shared = sorted(set(_ids(study, part, 1, field)) & set(theirs))
            if not shared or (field in ("session", "recording") and _label(study, field, shared[0]) == schema.UNKNOWN):
                continue
            broken = field in CLAIMS.get(split.policy, ())
            findings.append(
                _finding(
                    level="problem" if broken else "info",
                    kind=f"{field}_overlap",
                    message=f"{len(shared)} of {len(theirs)} {field} ids of {name} are in train as well"
                    + (f", first {_label(study, field, shared[0])!r}: the policy promises none" if broken else ""),
                    part=name,
                    shared=len(shared),
                )
            )


def _blocks(study: StudyFolder, part: np.ndarray, findings: list[Finding]) -> None:
    """Whether labels come in runs inside recordings that train and test share: then slow drift tells the label."""
    table = study.table
    shared = set(_ids(study, part, 1, "recording")) & set(_ids(study, part, 3, "recording"))
    # Drift can only tell a label that was trained on.
    if not shared or not set(_ids(study, part, 1, "concept")) & set(_ids(study, part, 3, "concept")):
        return
    orders: dict[int, list[tuple[int, int]]] = defaultdict(list)
    lost = 0
    first = study.first_repetition()
    for sample in np.unique(table.sample[np.isin(table.recording, sorted(shared)) & (part > 0)]).tolist():
        described = study.description(sample)
        for repetition, trial in enumerate(described["trial"]):
            row = first[sample] + repetition
            if trial == schema.UNKNOWN:
                lost += 1
            elif int(table.recording[row]) in shared:
                orders[int(table.recording[row])].append((trial, int(table.concept[row])))
    if lost:
        findings.append(
            _finding(
                level="caution",
                kind="order_unknown",
                message=f"the order of {lost} trials is lost, and train and test may share recordings: blocks cannot be ruled out",
                trials=lost,
            )
        )
    pairs, same, counts = 0, 0, Counter[int]()
    for trials in orders.values():
        labels = [concept for _, concept in sorted(trials)]
        counts.update(labels)
        pairs += len(labels) - 1
        same += sum(a == b for a, b in itertools.pairwise(labels))
    if not pairs or len(counts) < 2:
        return
    chance = sum((n / counts.total()) ** 2 for n in counts.values())
    runs = (same / pairs - chance) / (1 - chance)
    if runs > RUN_LIMIT:
        findings.append(
            _finding(
                level="problem",
                kind="block_design",
                message=f"block design: {same / pairs:.0%} of neighbouring trials have the same label ({chance:.0%} by chance) in "
                f"{len(orders)} recordings that train and test share, so slow drift gives the label away and accuracy is inflated "
                "(Li et al. 2021)",
                recordings=len(orders),
                same_neighbours=round(same / pairs, 4),
                chance=round(chance, 4),
            )
        )


def _lost(study: StudyFolder, split: Split, part: np.ndarray, findings: list[Finding]) -> None:
    for field in ("session", "recording"):
        labels = study.manifest.tables.labels(field)
        unknown = labels.index(schema.UNKNOWN) if schema.UNKNOWN in labels else -1
        lost = int(((part == 3) & (study.table.column(field) == unknown)).sum())
        if lost:
            findings.append(
                _finding(
                    level="problem" if field in CLAIMS.get(split.policy, ()) else "caution",
                    kind=f"{field}_unknown",
                    message=f"the {field} of {lost} test trials is unknown: train and test may share it, and its effect cannot be "
                    "separated",
                    trials=lost,
                )
            )


def _balance(study: StudyFolder, part: np.ndarray, findings: list[Finding]) -> None:
    concepts = study.manifest.tables.concepts
    if study.manifest.class_level:
        for number, name in enumerate(schema.PARTS, start=1):
            counts = np.bincount(study.table.concept[part == number], minlength=len(concepts))
            if not counts.sum():
                continue
            if (counts == 0).any():
                message = f"class {concepts[int(counts.argmin())]!r} has no trials in {name}: no AUC can be computed there"
                findings.append(_finding(level="problem", kind="class_missing", message=message, part=name))
            elif counts.max() > 1.5 * counts.min():
                share = counts.max() / counts.sum()
                message = (
                    f"{share:.0%} of {name} is {concepts[int(counts.argmax())]!r}: always saying so is right as often; read AUC or "
                    "balanced accuracy, and mind that a rare target evokes a response of its own"
                )
                findings.append(_finding(level="caution", kind="imbalance", message=message, part=name))
    elif len(_ids(study, part, 3, "stimulus")) < 2:
        findings.append(_finding(level="problem", kind="tiny_gallery", message="the test part has one stimulus: nothing to choose among"))
    if not (part == 2).any():
        message = "there is no validation part: a model chosen on the test part is overfitted to it"
        findings.append(_finding(level="caution", kind="no_validation", message=message))


def _whitened(study: StudyFolder, part: np.ndarray, findings: list[Finding]) -> None:
    """A source in z-scores whose test noise is white was whitened by somebody, perhaps with the test's own covariance."""
    if study.manifest.signal.unit != "zscore" or study.manifest.class_level:
        return
    rows = np.flatnonzero(part == 3)
    group = int(study.table.subject[rows[0]]), int(study.table.session[rows[0]])
    try:
        sigma_CC = transforms.noise_covariance(study, np.where(part == 3, 1, 0), group)
    except StudyError:
        return
    std_C = np.sqrt(np.diag(sigma_CC))
    correlation_CC = sigma_CC / np.outer(std_C, std_C)
    off = np.abs(correlation_CC[~np.eye(len(std_C), dtype=bool)])
    if len(off) and off.mean() < 0.1 and std_C.max() < 1.25 * std_C.min():
        findings.append(
            _finding(
                level="caution",
                kind="whitened_source",
                message=f"the source is whitened already (test noise: mean correlation between channels {off.mean():.3f}, standard "
                f"deviations {std_C.min():.2f} to {std_C.max():.2f}); if its matrices saw the test trials, the test is not untouched",
                mean_abs_correlation=round(float(off.mean()), 4),
            )
        )
