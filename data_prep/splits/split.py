"""Train, validation and test as views of one study: ``python -m data_prep split``.

A split says which repetitions are in which part by clauses over ids (:func:`assign_parts`), as its policy chooses them
(:mod:`data_prep.splits.policies`); no trial is copied. The audit is written last, beside the split.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from data_prep.contract import cli, schema
from data_prep.contract.audit import Audit, write_audit_file
from data_prep.contract.errors import StudyError
from data_prep.contract.files import read_json, write_json
from data_prep.contract.lock import alone
from data_prep.contract.seal import seal
from data_prep.contract.split import Split, assign_parts
from data_prep.contract.terminal import Terminal
from data_prep.shards.open import StudyFolder, open_study
from data_prep.splits import alignment, audit, transforms
from data_prep.splits.config import SplitConfig
from data_prep.splits.policies import View, divide

_NOT_OF_THE_PARTS = ("study", "name", "policy", "transform", "alignment_by", "alignment_unseen", "overwrite", "folds")
"""Fields that do not say which trials are in which part."""


def run(config: SplitConfig) -> None:
    """Write the split (all folds), its transform and its audit; print one line each."""
    console = Terminal(stderr=True)
    study = open_study(config.study)
    for number, fold in enumerate(folds(config, study)):
        name = config.split_name
        split, report = write_split(fold, f"{name}-{number:02d}" if config.folds else name, study)
        counts = ", ".join(f"{part} {facts['trials']}" for part, facts in report.parts.items())
        console.print(f"split {split.name}: trials {counts}; audit: {report.verdict}", soft_wrap=True)
        for finding in report.warnings:
            console.print(f"  {finding.level}: {finding.message}", soft_wrap=True)


def folds(config: SplitConfig, study: StudyFolder) -> list[SplitConfig]:
    """One config a fold; the config itself if it asks for no folds."""
    if not config.folds:
        return [config]
    view = View(study, config)
    if config.policy == "subject":
        return [replace(config, folds=False, test_subjects=[view.subjects[s]]) for s in view.subject_ids]
    if config.policy == "session":
        return [replace(config, folds=False, test_sessions=[view.sessions[s]]) for s in view.ids("session")]
    return [replace(config, folds=False, test_recordings=[view.recordings[r]]) for r in view.recording_ids]


def write_split(config: SplitConfig, name: str = "", study: StudyFolder | None = None) -> tuple[Split, Audit]:
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
    name = name or config.split_name
    split = make_split(config, name, study)
    _refuse_another(study, split, config)
    arrays = _fit(study, split, config)
    report = audit.audit(study, split, transductive=None if arrays is None else alignment.transductive_of(arrays))
    with alone(study.root):
        _refuse_another(study, split, config)  # one of this name may have come meanwhile
        path = _path(study, split)
        write_json(path, split.plain())
        seal(path.parent, [path])
        if arrays is not None:
            transforms.write_transform(study.root, name, arrays)
        write_audit_file(study.root, report)
    return split, report


def _fit(study: StudyFolder, split: Split, config: SplitConfig) -> dict[str, np.ndarray] | None:
    if config.transform == "none":
        return None
    if config.transform == "euclidean":
        return alignment.fit_alignment(study, split, config)
    return transforms.fit_transform(study, split, config.transform)


def _path(study: StudyFolder, split: Split) -> Path:
    return study.root / "splits" / f"{split.name}.json"


def _refuse_another(study: StudyFolder, split: Split, config: SplitConfig) -> None:
    path = _path(study, split)
    if path.is_file() and not config.overwrite and read_json(path).get("hash") != split.hash:
        raise StudyError(f"{path}: a different split of this name is there: choose another name, or set overwrite: true")


def make_split(config: SplitConfig, name: str, study: StudyFolder) -> Split:
    """The split as a value; nothing is written."""
    view = View(study, config)
    parts = divide(view, config)
    if config.subjects is not None:
        for clauses in parts.values():
            for clause in clauses:
                clause.setdefault("subject", view.subject_ids)
    if config.clean_baseline and not study.manifest.clean_baseline:
        raise StudyError(
            f"{study.root}: does not say which trials have a clean baseline, expected clean_baseline: [] or a reader that knows"
        )
    for part in config.clean_baseline:
        for clause in parts[part]:
            clause["clean_baseline"] = [schema.CLEAN_BASELINE[True]]
    for part in ("train", "test"):
        if not parts[part]:
            raise StudyError(f"split {name!r}: part {part!r} has no trials, expected some")
    options = {k: v for k, v in cli.to_plain(config).items() if k not in _NOT_OF_THE_PARTS}
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
