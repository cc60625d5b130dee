"""``splits/NAME.audit.json``: what a score on a split may be taken for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from data_prep.contract.records import FLAT, read_record, write_record
from data_prep.contract.seal import seal

FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that a reader of the score should know."""

    level: Literal["info", "caution", "problem"]
    """``problem``: the claim does not hold; ``caution``: it may not, or a number is easily misread."""
    kind: str
    message: str
    facts: Mapping[str, Any] = field(default_factory=dict, metadata=FLAT)
    """What was counted, by name."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Something that a paper could say of a score on the test part."""

    name: str
    sentence: str
    verdict: Literal["sound", "caution", "unsound", "not made"]
    """``not made``: the study has not what it would be said of."""
    reasons: tuple[str, ...]
    """Messages of the findings that break or cloud it."""


@dataclass(frozen=True, kw_only=True)
class Audit:
    """The verdict on a split."""

    format_version: int = FORMAT_VERSION
    name: str
    split_hash: str
    verdict: Literal["sound", "caution", "unsound", "out of date"]
    """``out of date``: found to be another split's, never written."""
    claim: str
    """What a score on the test part shows, in a sentence."""
    findings: tuple[Finding, ...]
    parts: Mapping[str, Mapping[str, Any]]
    """Part -> how many trials, samples, subjects, stimuli, ..."""
    claims: tuple[Claim, ...] = ()
    """The verdict on every claim that a paper could make; none in audits of earlier versions."""

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """Findings that are reasons for another verdict than ``sound``."""
        return tuple(finding for finding in self.findings if finding.level != "info")


def audit_path(root: Path, split: str) -> Path:
    """File of a split's audit."""
    return root / "splits" / f"{split}.audit.json"


def read_audit(root: Path, split: str) -> Audit | None:
    """The audit of a study's split; None: there is none.

    Raises
    ------
    StudyError, CommandError
        It is damaged; the message names the field.
    """
    path = audit_path(root, split)
    return read_record(path, Audit, written_by="audit") if path.is_file() else None


def write_audit_file(root: Path, audit: Audit) -> None:
    """Write it beside the split."""
    path = audit_path(root, audit.name)
    write_record(path, audit)
    seal(path.parent, [path])
