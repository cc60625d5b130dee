"""What a split can and cannot show: ``python -m data_prep audit``; ``splits/NAME.audit.json`` beside every split.

Findings have a level: ``problem`` (the claim does not hold), ``caution`` (it may not, or a number is easily misread) and
``info``. The verdict is the worst of them: ``unsound``, ``caution`` or ``sound``.

Shape suffixes: R repetitions, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from data_prep.contract.words import listed
from data_prep.shards.open import StudyFolder, open_study
from data_prep.splits import transforms
from data_prep.splits.alignment import transductive_rows
from data_prep.splits.audit_content import content_findings
from data_prep.splits.claims import claims
from data_prep.splits.time_baseline import time_baseline

VERDICTS: dict[str, Literal["sound", "caution", "unsound"]] = {"info": "sound", "caution": "caution", "problem": "unsound"}
CLAIMS = {
    "zero-shot": ("concept", "stimulus"),
    "recording": ("recording",),
    "session": ("session",),
    "subject": ("subject",),
    "eeg-clip/by-subject": ("subject",),
    "closed-set": ("stimulus",),
    "official": ("stimulus",),
}
"""What must not be shared between train and another part for the policy's claim to hold."""
SENTENCES = {
    "zero-shot": "tells images of concepts never trained on apart, for subjects that were trained on",
    "recording": "decodes new recordings of subjects that were trained on",
    "session": "decodes new sessions of subjects that were trained on",
    "subject": "decodes subjects that were never trained on",
    "eeg-clip/by-subject": "decodes subjects that were never trained on, on images that were",
    "closed-set": "recognises new images of concepts that were trained on; it says nothing about new concepts",
    "official": "recognises the images that the data's makers held out",
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
    for claim in report.claims:
        because = f" ({'; '.join(claim.reasons)})" if claim.reasons else ""
        console.print(f"  claim {claim.name!r}, that {claim.sentence}: {claim.verdict}{because}", soft_wrap=True)
    return int(report.verdict == "unsound")


def write_audit(study: StudyFolder, split: Split) -> Audit:
    """Audit a split and write ``splits/NAME.audit.json``; returns what was written."""
    report = audit(study, split)
    with alone(study.root):
        if read_split(study.root, study.manifest, split.name).hash != split.hash:
            raise StudyError(f"{study.root}: split {split.name!r} was replaced while it was audited: audit it again")
        write_audit_file(study.root, report)
    return report


def audit(study: StudyFolder, split: Split, transductive: Sequence[tuple[int, int]] | None = None) -> Audit:
    """The audit of a split; ``transductive``: (subject, session) whose transform saw trials that are not training, None: as beside it."""
    part = assign_parts(split, study.table)
    findings: list[Finding] = []
    with progress(f"audit checks of {split.name}", 6) as advance:
        _overlaps(study, split, part, findings)
        _alone(study, part, findings)
        advance()
        _blocks(study, part, findings)
        advance()
        _lost(study, split, part, findings)
        _parts_for_recordings(study, split, findings)
        advance()
        _balance(study, part, findings)
        advance()
        _whitened(study, part, findings)
        _aligned(study, transductive_rows(study.root, split) if transductive is None else transductive, part, findings)
        advance()
        _row_order(study, findings)
        findings += content_findings(study, split, part)
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
        claims=claims(findings, class_level=study.manifest.class_level),
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


def _labels(study: StudyFolder, part: np.ndarray, number: int, field: str) -> set[str]:
    """Labels that are in a part; ``unknown`` is none. A session is one of a subject, whatever others call theirs."""
    tables, rows = study.manifest.tables, part == number
    labels = tables.labels(field)
    if field != "session":
        return {labels[i] for i in np.unique(study.table.column(field)[rows]).tolist()} - (
            {schema.UNKNOWN} if field == "recording" else set()
        )
    pairs = np.unique(np.stack([study.table.subject, study.table.session], axis=1)[rows], axis=0).tolist()
    return {f"sub-{tables.subjects[subject]}, session {labels[session]}" for subject, session in pairs if labels[session] != schema.UNKNOWN}


def _overlaps(study: StudyFolder, split: Split, part: np.ndarray, findings: list[Finding]) -> None:
    for number, name in ((2, "validation"), (3, "test")):
        for field in ("subject", "concept", "stimulus", "session", "recording"):
            if field in ("stimulus", "concept") and study.manifest.class_level:
                continue
            ours, theirs = (_labels(study, part, of, field) for of in (1, number))
            shared = sorted(ours & theirs)
            if not shared:
                continue
            broken = field in CLAIMS.get(split.policy, ())
            findings.append(
                _finding(
                    level="problem" if broken else "info",
                    kind=f"{field}_overlap",
                    message=f"{len(shared)} of {len(theirs)} {field} ids of {name} are in train as well"
                    + (f", first {shared[0]!r}: the policy promises none" if broken else ""),
                    part=name,
                    shared=len(shared),
                )
            )


def _alone(study: StudyFolder, part: np.ndarray, findings: list[Finding]) -> None:
    for number, name in enumerate(schema.PARTS, start=1):
        if len(_ids(study, part, number, "stimulus")) == 1:
            level: Literal["caution", "problem"] = "caution" if name == "validation" else "problem"
            what = "class" if study.manifest.class_level else "image"
            findings.append(_finding(level, "alone", f"the {name} part shows a single {what}: there is nothing to tell apart"))


def _blocks(study: StudyFolder, part: np.ndarray, findings: list[Finding]) -> None:
    """Whether time tells labels inside recordings that train and test share: then slow drift does, too."""
    table = study.table
    shared = sorted(set(_ids(study, part, 1, "recording")) & set(_ids(study, part, 3, "recording")))
    # Drift can only tell a label that was trained on.
    if not shared or not set(_ids(study, part, 1, "concept")) & set(_ids(study, part, 3, "concept")):
        return
    rows = np.flatnonzero(np.isin(table.recording, shared) & (part > 0))
    place_N = _places(study, rows)
    lost = int(np.isnan(place_N).sum())
    if lost:
        message = f"the order of {lost} trials is lost, and train and test may share recordings: blocks cannot be ruled out"
        findings.append(_finding("caution", "order_unknown", message, trials=lost))
    known = ~np.isnan(place_N)
    rows, place_N = rows[known], place_N[known]
    recording_N, label_N = table.recording[rows], table.concept[rows]
    runs, num_recordings = _neighbours(recording_N, place_N, label_N), len(np.unique(recording_N))
    told = time_baseline(recording_N, place_N, label_N, part[rows] == 1, part[rows] == 3)
    if told is not None:
        alone = f"the nearest training trial in time has the label of {told.accuracy:.0%} of test trials ({told.chance:.0%} by chance)"
    if runs is not None and (runs[0] - runs[1]) / (1 - runs[1]) > RUN_LIMIT:
        message = (
            f"block design: {runs[0]:.0%} of neighbouring trials have the same label ({runs[1]:.0%} by chance) in {num_recordings} "
            "recordings that train and test share, so slow drift gives the label away and accuracy is inflated (Li et al. 2021)"
        )
    elif told is not None and told.tells:
        message = (
            "block design: time within a recording that train and test share gives the label away, and so does slow drift: accuracy is "
            "inflated (Li et al. 2021)"
        )
    else:
        return
    facts: dict[str, Any] = {"recordings": num_recordings}
    if runs is not None:
        facts |= {"same_neighbours": round(runs[0], 4), "chance": round(runs[1], 4)}
    if told is not None:
        message += f": {alone}"
        facts |= {"time_accuracy": round(told.accuracy, 4), "time_chance": round(told.chance, 4), "test_trials": told.trials}
    findings.append(_finding("problem", "block_design", message, **facts))


def _places(study: StudyFolder, rows: np.ndarray) -> np.ndarray:
    """Place of each repetition in its recording: float, NaN where it is lost."""
    first, table = study.first_repetition(), study.table
    place_N = np.full(len(table), np.nan)
    for sample in np.unique(table.sample[rows]).tolist():
        for repetition, trial in enumerate(study.description(sample)["trial"]):
            if trial != schema.UNKNOWN:
                place_N[first[sample] + repetition] = trial
    places: np.ndarray = place_N[rows]
    return places


def _neighbours(recording_N: np.ndarray, place_N: np.ndarray, label_N: np.ndarray) -> tuple[float, float] | None:
    """Share of neighbours in time with one label, and of random pairs; None where there is one label, or no neighbours."""
    order = np.lexsort((place_N, recording_N))
    pairs = recording_N[order][1:] == recording_N[order][:-1]
    counts = np.unique(label_N, return_counts=True)[1]
    if not pairs.any() or len(counts) < 2:
        return None
    same = (label_N[order][1:] == label_N[order][:-1])[pairs].mean()
    return float(same), float(np.square(counts / counts.sum()).sum())


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


def _parts_for_recordings(study: StudyFolder, split: Split, findings: list[Finding]) -> None:
    said = str(study.manifest.preprocessing.get("recordings", ""))
    if split.policy == "recording" and said.startswith("not known"):
        message = f"recordings are {said}: the parts on both sides of a border may share one"
        findings.append(_finding(level="caution", kind="recordings_not_known", message=message))


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


def _row_order(study: StudyFolder, findings: list[Finding]) -> None:
    """Imported features whose rows have no names and were not held against the images: another order is a wrong pairing in silence."""
    for name, embedding in study.manifest.embeddings.items():
        facts = embedding.provenance
        if facts.get("row_order") == "unproven" or facts.get("aligned_by") == "row order":  # the second: older manifests
            reason = str(facts.get("row_order_reason") or "its rows have no names")
            message = f"embedding {name!r}: which image a row is of is unproven ({reason}): scores on it hold only if the rows are in order"
            findings.append(_finding("caution", "row_order_unproven", message, embedding=name))


def _aligned(study: StudyFolder, rows: Sequence[tuple[int, int]], part: np.ndarray, findings: list[Finding]) -> None:
    """Subjects whose alignment was fitted on their own unlabelled trials, those of the test among them."""
    subjects = sorted({subject for subject, _ in rows})
    if not subjects:
        return
    table = study.table
    seen = sum(int(((table.subject == subject) & (table.session == session) & (part == 3)).sum()) for subject, session in rows)
    told = listed(study.manifest.tables.subjects[subject] for subject in subjects)
    message = (
        f"transductive: the alignment of subject {told} is fitted on their own unlabelled trials, {seen} of them test trials: a score "
        "with it needs all of a subject's trials at once and is to be reported apart"
    )
    findings.append(_finding("caution", "transductive_alignment", message, subjects=len(subjects), test_trials=seen))


def _whitened_on_training(study: StudyFolder, part: np.ndarray) -> int:
    """Trials of the test that are of the source's training part, on which it was whitened."""
    if study.manifest.preprocessing.get("whitened_on") != "training":
        return 0
    trained = np.array([stimulus.part == "training" for stimulus in study.manifest.tables.stimuli])
    return int(trained[study.table.stimulus[part == 3]].sum())


def _whitened(study: StudyFolder, part: np.ndarray, findings: list[Finding]) -> None:
    """A source in z-scores whose test noise is white was whitened by somebody, perhaps with the test's own covariance. Readers may know."""
    saw_test = study.manifest.preprocessing.get("whitening_saw_test")
    if saw_test == "yes":
        how = study.manifest.preprocessing.get("whitening", "by its makers")
        message = f"the source was whitened with the covariance of the test's trials, too ({how}): the test is not untouched"
        findings.append(_finding("caution", "whitening_saw_test", message))
    seen = _whitened_on_training(study, part)
    if seen:
        message = (
            f"the source was whitened on its training images ({study.manifest.preprocessing.get('whitening')}), and {seen:,} test trials "
            "show some of them: the test is not untouched"
        )
        findings.append(_finding("caution", "whitening_saw_test", message, test_trials=seen))
    if saw_test in ("yes", "no"):
        return
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
