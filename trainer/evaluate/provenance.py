"""The facts of a report, gathered: from the study, its audit, the export and the run beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_prep.contract.errors import StudyError
from data_prep.contract.files import read_json
from trainer.artifacts.encoder import Encoder
from trainer.data.loader import Loader
from trainer.evaluate.study_facts import StudyFacts, Validation
from trainer.training.completed import read_completed

WARNED_OF = ("problem", "caution")
"""Levels of an audit's findings that are reasons for its verdict."""


def study_facts(encoder: Encoder, loader: Loader, *, export: Path, config: dict[str, Any]) -> StudyFacts:
    """Facts of the part that ``loader`` reads, for the encoder of the folder ``export``."""
    manifest, path = loader.index.manifest, loader.index.root / "splits" / f"{loader.config.split}.audit.json"
    audit = read_json(path) if path.is_file() else {}
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
        audit=audit.get("verdict"),
        audit_claim=audit.get("claim"),
        audit_reasons=tuple(f["message"] for f in audit.get("findings", []) if f.get("level") in WARNED_OF),
        validation=_validation(encoder, loader, export),
        config=config,
    )


def embeddings_facts(path: Path, *, part: str, config: dict[str, Any]) -> StudyFacts:
    """Facts of a file of embeddings, which tells nothing of where they come from."""
    unknown = ("split", "split_hash", "fingerprint", "trained_on_split", "embedding", "step", "git_revision", "audit", "audit_claim")
    return StudyFacts(
        study=str(path),
        simulated=False,
        part=part,
        audit_reasons=(),
        validation=None,
        config=config,
        **dict.fromkeys(unknown),
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
    )
