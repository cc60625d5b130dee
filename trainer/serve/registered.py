"""``registered.json``: where a run's model stands in the registry."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data_prep.contract.errors import CommandError
from data_prep.contract.records import read_record, write_record
from data_prep.contract.seal import seal

REGISTERED = "registered.json"


@dataclass(frozen=True, kw_only=True)
class Registered:
    """A version of a registered model."""

    model_uri: str
    """``models:/NAME/VERSION``, which no other run moves (``models:/NAME@ALIAS`` where an earlier version wrote it)."""
    name: str
    version: str
    run_id: str
    """MLflow's run that it belongs to."""
    tracking_uri: str
    """Without a password."""
    files_sha256: str = ""
    """Hash of the list of the version's files (:mod:`trainer.serve.whole`); empty: an earlier version wrote none."""


def write_registered(run: Path, registered: Registered) -> None:
    """Write ``registered.json`` into a run folder."""
    write_record(run / REGISTERED, registered)
    seal(run, [run / REGISTERED])


def read_registered(run: Path) -> Registered:
    """``registered.json`` of a run folder.

    Raises
    ------
    CommandError
        The run is not registered, or the file is damaged.
    """
    if not (run / REGISTERED).is_file():
        raise CommandError(f"run: {run} is not registered (no {REGISTERED}): run `python -m trainer register` first")
    return read_record(run / REGISTERED, Registered, written_by="register")
