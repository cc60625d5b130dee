"""DeepSpeed's hostfile: ``host slots=N`` a line. What is missing, empty or unclear is refused; its own runner would train on one rank."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from data_prep.contract.errors import CommandError
from data_prep.contract.words import as_given

_LINE = re.compile(r"(?P<host>[A-Za-z0-9][A-Za-z0-9_.:%-]*)\s+slots=(?P<slots>[1-9][0-9]{0,4})")


@dataclass(frozen=True, kw_only=True)
class Host:
    """A line of a hostfile."""

    name: str
    """As ``ssh`` takes it, without a user."""
    slots: int
    """Ranks on it."""


def read_hostfile(path: str) -> tuple[Host, ...]:
    """The hosts, in the order in which their ranks are numbered.

    Raises
    ------
    CommandError
        The file is missing, no text, or empty; a line is none of a hostfile; a host stands in it twice.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read as text ({error})"
        raise CommandError(f"hostfile: {path}: {why}, expected lines such as `node0 slots=8`") from error
    return parse_hostfile(text, path)


def parse_hostfile(text: str, where: str) -> tuple[Host, ...]:
    """See :func:`read_hostfile`; ``where`` names the text in errors."""
    hosts: list[Host] = []
    for number, line in enumerate(text.splitlines(), start=1):
        said = line.partition("#")[0].strip()
        if not said:
            continue
        found = _LINE.fullmatch(said)
        if found is None:
            raise CommandError(f"hostfile: {where}: line {number} is {as_given(said)}, expected such as `node0 slots=8`")
        if found["host"] in {host.name for host in hosts}:
            raise CommandError(f"hostfile: {where}: line {number} names {found['host']} again, expected each host once, with all its slots")
        hosts.append(Host(name=found["host"], slots=int(found["slots"])))
    if not hosts:
        raise CommandError(f"hostfile: {where}: names no host, expected lines such as `node0 slots=8`")
    return tuple(hosts)
