"""``files.sha256``: hashes of a folder's files of which nothing else speaks, as they were written; ``sha256sum -c`` reads it, too.

A bit that flips in it is found like one in a file: either a hash is no longer its file's, or a name is none of the folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from data_prep.contract.errors import StudyError
from data_prep.contract.files import sha256_file, write_atomically
from data_prep.contract.lock import alone
from data_prep.contract.terminal import Terminal

SEALS = "files.sha256"
_TEXTS = (".json", ".md", ".jinja", ".txt")
_LINE = re.compile(r"([0-9a-f]{64})  (\S[^\n]*)")


def seal(folder: Path, files: Iterable[Path]) -> None:
    """Write down what these files, in ``folder`` or below, are now; what is written of others stays. Several processes may."""
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder):
        write_seals(folder, files, known=_read(folder))


def write_seals(folder: Path, files: Iterable[Path], *, known: dict[str, str] | None = None) -> None:
    """As :func:`seal`, by whoever has the folder for itself; what is not among ``known`` is forgotten."""
    found = {**(known or {}), **{file.relative_to(folder).as_posix(): sha256_file(file) for file in files}}
    write_atomically(folder / SEALS, "".join(f"{found[name]}  {name}\n" for name in sorted(found)).encode())


def seal_all(folder: Path) -> None:
    """Seal all that is in ``folder`` and below now."""
    write_seals(folder, (path for path in folder.rglob("*") if path.is_file() and path != folder / SEALS))


def check_seals(folder: Path) -> list[str]:
    """Refuse a folder in which a file of numbers is not what was sealed; one of an earlier version, which has no seals, passes.

    Returns
    -------
    list of str
        A sentence for each text that is not what was sealed: a person may have edited it, and should know.

    Raises
    ------
    StudyError
        One sentence naming the first file.
    """
    said = []
    for broken in broken_seals(folder):
        if not broken.partition(": ")[0].endswith(_TEXTS):
            raise StudyError(broken)
        said.append(broken)
    return said


def broken_seals(folder: Path) -> Iterator[str]:
    """One sentence for every file of ``folder`` that is not what was sealed, or for a list that is damaged."""
    try:
        known = _read(folder)
    except StudyError as error:
        yield str(error)
        return
    for name, sha256 in known.items():
        path = folder / name
        if not path.is_file():
            yield f"{path}: no such file, expected one: {folder / SEALS} lists it"
        elif (found := sha256_file(path)) != sha256:
            yield f"{path}: SHA-256 {found[:12]}…, {folder / SEALS} says {sha256[:12]}…: altered"


def refuse_faults(root: Path, faults: Sequence[str], console: Terminal) -> None:
    """Print every fault of a folder; none is no fault of this.

    Raises
    ------
    StudyError
        How many there are, and the first.
    """
    for fault in faults:
        console.print(f"fault: {fault}", soft_wrap=True)
    if faults:
        raise StudyError(f"{root}: {len(faults)} faults, first: {faults[0]}")


def unsealed(folder: Path) -> list[str]:
    """Files directly in ``folder`` of which nothing is written, as those of earlier versions."""
    known = _read(folder)
    return sorted(p.name for p in folder.iterdir() if p.is_file() and p.name != SEALS and p.name not in known) if folder.is_dir() else []


def _read(folder: Path) -> dict[str, str]:
    path = folder / SEALS
    if not path.is_file():
        return {}
    text = path.read_bytes().decode("utf-8", "replace")
    lines = [_LINE.fullmatch(line) for line in text.removesuffix("\n").split("\n")] if text else []
    known = {line[2]: line[1] for line in lines if line and not line[2].startswith("/") and ".." not in Path(line[2]).parts}
    if len(known) != len(lines) or (text and not text.endswith("\n")):
        raise StudyError(f"{path}: not a list of hashes and names of files in its folder: altered")
    return known
