"""A trainer's command line as a value: where its run goes, and how it is told to go on."""

from __future__ import annotations

from collections.abc import Sequence

_RUN, _RESUME = "--run", "--resume"


def option(command: Sequence[str], name: str) -> str | None:
    """Value of ``--name value`` or ``--name=value``, the last one as the trainer takes it; None: the line does not say."""
    found = None
    for word, after in zip(command, [*command[1:], ""], strict=True):
        if word == name:
            found = after
        elif word.startswith(f"{name}="):
            found = word.partition("=")[2]
    return found


def run_of(command: Sequence[str]) -> str | None:
    """The run folder that the line names."""
    return option(command, _RUN)


def without(command: Sequence[str], name: str) -> tuple[str, ...]:
    """The line without an option and its value."""
    kept: list[str] = []
    words = iter(command)
    for word in words:
        if word == name:
            next(words, None)
        elif not word.startswith(f"{name}="):
            kept.append(word)
    return tuple(kept)


def going_on(command: Sequence[str], *, from_where: str = "auto") -> tuple[str, ...]:
    """The line, told to go on from the newest whole checkpoint if there is one; ``generate`` goes on with what there is by itself."""
    if command[0] == "generate":
        return tuple(command)
    return (*without(command, _RESUME), _RESUME, from_where)


def resumed(command: Sequence[str], *, holds_a_run: bool) -> tuple[str, ...]:
    """The line for a start that may not be the first: as the user gave it for a new run, else told to go on with what there is."""
    if holds_a_run or option(command, _RESUME) is None:
        return going_on(command)
    return tuple(command)
