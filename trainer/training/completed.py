"""``completed.json``: the only proof that a run succeeded, and what it reached."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data_prep.contract.records import read_record, write_record

COMPLETED = "completed.json"


@dataclass(frozen=True, kw_only=True)
class Completed:
    """How a run ended."""

    step: int
    """Optimizer steps done."""
    samples_seen: int = 0
    """Items of the stream consumed."""
    reason: str = ""
    """``finished``, or which callback ended it."""
    best_score: float | None
    """Best validation score; None: nothing was validated."""
    best_step: int
    """Step of the exported weights."""
    score_name: str | None
    tracking_run_id: str = ""
    """MLflow's run; empty: not tracked."""


def write_completed(folder: Path, completed: Completed) -> None:
    """Write ``completed.json`` into a run folder."""
    write_record(folder / COMPLETED, completed)


def read_completed(folder: Path) -> Completed | None:
    """``completed.json`` of a run folder; None: the run has not succeeded.

    Raises
    ------
    StudyError, CommandError
        It is there and damaged; the message names the field.
    """
    path = folder / COMPLETED
    return read_record(path, Completed, written_by="a training") if path.is_file() else None
