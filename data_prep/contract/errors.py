"""The one root of what a user can cause: said in one sentence, ended with a non-zero status, never a traceback.

Whatever else ends a command is ours to mend, and its traceback is kept; see :func:`data_prep.contract.cli.main`.
"""

from __future__ import annotations

from pathlib import Path


class UserError(ValueError):
    """What a user can mend; the message is one sentence that names the file or field, what was found and what was expected."""


class CommandError(UserError):
    """A command cannot do what it was asked."""


class ConfigError(CommandError):
    """A config that cannot be: unknown key, wrong type, contradiction. Exit status 2."""


class StudyError(UserError):
    """A study on disk contradicts the contract."""


_traceback_file: Path | None = None


def set_traceback_folder(path: Path | None, rank: int = 0) -> None:
    """From here on tracebacks of what is ours to mend belong into ``path/errors/rank-N.txt``; None: there is no run folder any more."""
    global _traceback_file
    _traceback_file = None if path is None else path / "errors" / f"rank-{rank}.txt"


def traceback_file() -> Path | None:
    """Where this process's traceback belongs (its folder need not be there yet); None: no run folder was set."""
    return _traceback_file
