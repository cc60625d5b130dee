"""The one root of what a user can cause: said in one sentence, ended with a non-zero status, never a traceback.

Whatever else ends a command is ours to mend, and its traceback is kept; see :func:`data_prep.contract.cli.main`.
"""

from __future__ import annotations


class UserError(ValueError):
    """What a user can mend; the message is one sentence that names the file or field, what was found and what was expected."""


class CommandError(UserError):
    """A command cannot do what it was asked."""


class ConfigError(CommandError):
    """A config that cannot be: unknown key, wrong type, contradiction. Exit status 2."""


class StudyError(UserError):
    """A study on disk contradicts the contract."""
