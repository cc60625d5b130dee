"""Which code made a result: a commit where it runs from its own checkout, else the version that was installed."""

from __future__ import annotations

import os
import re
import subprocess
from functools import cache
from pathlib import Path

VERSION = "0.1.0"
"""Of the package, which travels with it."""
_OWN_FILES = ("data_prep/contract/version.py", "pyproject.toml")
_GIT_SECONDS = 10


@cache
def code_version() -> str:
    """Commit of the code's own checkout, with ``+changes`` if a tracked file differs; :data:`VERSION` where there is none.

    A repository that merely surrounds the package is not asked. ``+unknown`` follows what git could not tell, for it is missing or slow.
    Read once: what is written later says what was there at the first call, whatever is committed meanwhile.
    """
    return version_of(Path(__file__).resolve().parents[2])


def commit_of(version: str) -> str | None:
    """The commit in a :func:`code_version`, if it has one."""
    commit = version.partition("+")[0]
    return commit if re.fullmatch(r"[0-9a-f]{40}([0-9a-f]{24})?", commit) else None


def version_of(root: Path) -> str:
    """:func:`code_version` of the code in ``root``, as it is now."""
    if not (root / ".git").exists():
        return VERSION
    try:
        commit, top = _git(root, "rev-parse", "HEAD", "--show-toplevel").split("\n", 1)
        own = _git(root, "ls-tree", "--name-only", "HEAD", *_OWN_FILES).split("\n")
        if not os.path.samefile(top, root) or own != sorted(_OWN_FILES):
            return VERSION
    except (OSError, ValueError, subprocess.SubprocessError):
        return f"{VERSION}+unknown"
    try:
        return f"{commit}+changes" if _git(root, "status", "--porcelain", "--untracked-files=no") else commit
    except (OSError, ValueError, subprocess.SubprocessError):
        return f"{commit}+unknown"


def _git(root: Path, *arguments: str) -> str:
    # Of the repository in ``root`` alone, whoever owns it (its code runs here), without a lock that a user's own git would wait for, or a
    # program that its config names.
    options = ("--no-optional-locks", "-c", f"safe.directory={root}", "-c", "core.fsmonitor=false")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return subprocess.run(
        ["git", "-C", str(root), *options, *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_GIT_SECONDS,
        check=True,
    ).stdout.strip()
