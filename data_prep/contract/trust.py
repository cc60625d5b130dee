"""Whose classes a data file may name: ours, those that are imported already, and those that the user trusts by name.

A config that a user gives to a command is the user's own program: what it names is imported. A file that came with data (an export's
``config.json``) is not: nothing is imported because it says so. ``--trust my_lab`` or ``load_encoder(..., trust=("my_lab",))`` allows
what lies below ``my_lab``, in this process and in those that it starts.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable, Iterator, Sequence

from jsonargparse import _common, set_parsing_settings

from data_prep.contract.errors import ConfigError

VARIABLE = "EEGVISION_TRUST"
"""Trusted import paths, with commas between."""
OURS = ("trainer", "data_prep")
_POLICY = ("import_path_verdicts", "import_paths_enforced")
_lock = threading.RLock()


def allow_classes(paths: Iterable[str]) -> None:
    """Allow data files to name classes below these import paths from now on.

    Raises
    ------
    ConfigError
        One is not an import path.
    """
    asked = [path for each in paths if (path := each.strip())]
    for path in asked:
        if not all(part.isidentifier() for part in path.split(".")):
            raise ConfigError(f"trust: {path!r}, expected import paths such as my_lab or my_lab.encoder, with commas between")
        if path.partition(".")[0] == "jsonargparse":  # which keeps the policy itself
            raise ConfigError(f"trust: {path!r} decides what is trusted, expected import paths such as my_lab or my_lab.encoder")
    if asked:
        os.environ[VARIABLE] = ",".join(dict.fromkeys([*trusted(), *asked]))


def trusted() -> list[str]:
    """What the user trusts beside our own."""
    return [path for each in os.environ.get(VARIABLE, "").split(",") if (path := each.strip())]


@contextlib.contextmanager
def nothing_else_imported(bases: Sequence[type]) -> Iterator[None]:
    """Context in which the parser imports no class but ours, trusted ones, and subclasses of ``bases`` that are imported already."""
    known = [f"{kind.__module__}.{kind.__qualname__}" for base in bases for kind in _subclasses(base)]
    allowed = [path for path in (*OURS, *trusted(), *known) if _can_be_allowed(path)]
    with _lock:  # the parser's policy is one for the process
        before = {name: _common.parsing_settings[name] for name in _POLICY}
        set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=allowed)
        try:
            yield
        finally:
            _common.parsing_settings.update(before)


def _can_be_allowed(path: str) -> bool:
    parts = path.split(".")
    return all(part.isidentifier() for part in parts) and parts[0] != "jsonargparse"


def _subclasses(base: type) -> Iterator[type]:
    kind: type
    for kind in base.__subclasses__():
        yield kind
        yield from _subclasses(kind)
