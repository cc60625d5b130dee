"""``RUN/launch/``: which ``launch run`` is at work on a run, and how far it is; others read it, and may ask for a stop there.

::

    RUN/launch/owner/       who it is, as RUN/owner/ says it of the ranks: one at a time
               status.json  what it does now
               agents.json  the processes that it has on hosts, by number and start time: one that follows it ends what is left
               stop         somebody asks for a checkpoint and an end
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.contract.errors import CommandError
from data_prep.contract.files import write_atomically
from trainer.training.owner import owned

_FOLDER, _STATUS, _AGENTS, _STOP = "launch", "status.json", "agents.json", "stop"


def folder_of(run: Path) -> Path:
    """``RUN/launch``."""
    return run / _FOLDER


@contextlib.contextmanager
def supervised(run: Path) -> Iterator[None]:
    """Context in which this process is the one that starts the run's ranks. A run that never began leaves no trace of it.

    Raises
    ------
    CommandError
        Another one is at work; the sentence says which, on which host, since when.
    """
    made = [folder for folder in (run, *run.parents) if not folder.exists()]
    try:
        with owned(folder_of(run)) as owner:
            (folder_of(run) / _STOP).unlink(missing_ok=True)
            try:
                yield
            finally:
                if (run / "identity.json").exists():
                    owner.begin()  # the mark stays, and those of earlier ones, which were killed, go
    finally:
        (folder_of(run) / _STOP).unlink(missing_ok=True)
        if not (run / "identity.json").exists():
            for name in (_STATUS, _AGENTS):
                (folder_of(run) / name).unlink(missing_ok=True)
            for folder in (folder_of(run) / "owner", folder_of(run), *made):
                with contextlib.suppress(OSError):  # something else has come into it
                    folder.rmdir()


def write_status(run: Path, status: dict[str, Any]) -> None:
    """Say how far it is; a disk that takes nothing ends nothing."""
    _write(folder_of(run) / _STATUS, status)


def read_status(run: Path) -> dict[str, Any]:
    """What was said last; empty: nothing."""
    return _read(folder_of(run) / _STATUS)


def write_agents(run: Path, agents: dict[str, Any]) -> None:
    """Remember agents by host."""
    _write(folder_of(run) / _AGENTS, agents)


def read_agents(run: Path) -> dict[str, Any]:
    """Agents that an earlier ``launch run`` had, by host."""
    return _read(folder_of(run) / _AGENTS)


def ask_to_stop(run: Path) -> None:
    """Ask whoever supervises the run to stop it.

    Raises
    ------
    CommandError
        The folder cannot be written into.
    """
    try:
        (folder_of(run) / _STOP).touch()
    except OSError as error:
        raise CommandError(f"{folder_of(run) / _STOP}: {error.strerror}: the run was not asked to stop") from error


def is_asked_to_stop(run: Path) -> bool:
    """Whether somebody has."""
    return (folder_of(run) / _STOP).exists()


def _write(file: Path, value: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        if os.path.isdir(file.parent):
            write_atomically(file, json.dumps(value, indent=1).encode() + b"\n")


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
