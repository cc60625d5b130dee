"""The facts of a report, gathered: from the study, its audit, the export and the run beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from data_prep.contract.audit import Audit, read_audit
from data_prep.contract.errors import StudyError
from trainer.artifacts.encoder import Encoder
from trainer.artifacts.guards import seen_trials
from trainer.data.loader import Loader
from trainer.evaluate.study_facts import StudyFacts, Validation
from trainer.training.completed import read_completed


def study_facts(encoder: Encoder, loader: Loader, *, export: Path, config: dict[str, Any]) -> StudyFacts:
    """Facts of the part that ``loader`` reads, for the encoder of the folder ``export``."""
    manifest, audit = loader.index.manifest, _audit(loader)
    seen = seen_trials(encoder.export.origins, loader.index, loader.rows)
    return StudyFacts(
        study=loader.index.root.name,
        simulated=manifest.simulated,
        part=loader.part,
        split=loader.config.split,
        split_hash=loader.split_hash,
        fingerprint=manifest.fingerprint,
        trained_on_split=encoder.export.split_hash == loader.split_hash,
        embedding=manifest.embedding(loader.config.embedding).model,
        step=encoder.export.step,
        git_revision=encoder.export.git_revision,
        audit=None if audit is None else audit.verdict,
        audit_claim=None if audit is None else audit.claim,
        audit_reasons=() if audit is None else tuple(finding.message for finding in audit.warnings),
        validation=_validation(encoder, loader, export),
        config=config,
        unit=manifest.signal.unit,
        rows_hash=manifest.rows_hash,
        trained_trials=seen.known_count,
        trained_not_known=seen.not_known,
        chosen_by_trials=seen.chosen,
        trained_on_simulated=encoder.export.learnt_from_simulated,
    )


def _audit(loader: Loader) -> Audit | None:
    """The audit beside the split, as out of date where it is of another split that had its name."""
    found = read_audit(loader.index.root, loader.config.split)
    if found is None or found.split_hash == loader.split_hash:
        return found
    return replace(
        found, verdict="out of date", claim="It is of another split that had this name: run `python -m data_prep audit`.", findings=()
    )


def unknown_facts(path: Path, *, part: str, config: dict[str, Any], changed: StudyFacts | None = None) -> StudyFacts:
    """Facts of a file of embeddings that tells nothing of where they come from; ``changed``: what it tells is of other arrays."""
    made_up = changed is not None and (changed.simulated or changed.trained_on_simulated)
    why = (
        "the file does not tell which model made its embeddings, and of which trials"
        if changed is None
        else "the file's arrays were changed after export-embeddings wrote what they are"
    )
    names = ("split", "split_hash", "fingerprint", "trained_on_split", "embedding", "step", "git_revision", "audit", "audit_claim")
    unknown: dict[str, Any] = dict.fromkeys(names)
    return StudyFacts(
        study=str(path),
        simulated=True if made_up else None,
        part=part,
        audit_reasons=(),
        validation=None,
        config=config,
        trained_not_known=(why,),
        **unknown,
    )


def _validation(encoder: Encoder, loader: Loader, export: Path) -> Validation | None:
    """What the run beside the export says of its best step; None where there is no such run, or it was trained on another split."""
    completed = read_completed(export.resolve().parent)
    if completed is None or completed.best_score is None or completed.score_name is None:
        return None
    if encoder.export.split_hash != loader.split_hash or completed.best_step != encoder.export.step:
        return None
    try:
        part = Loader(loader.index, loader.config, "validation", seed=0)
    except StudyError:
        return None
    return Validation(
        name=completed.score_name,
        score=completed.best_score,
        step=completed.best_step,
        num_queries=part.num_samples,
        num_stimuli=len(part.stimuli),
        chose=encoder.export.metric != "likelihood",
    )
