"""``files.sha256``: hashes of a folder's files of which nothing else speaks, as they were written; ``sha256sum -c`` reads it, too.

What is damaged in it is found like damage of a file: the list hashes and counts its own lines (:mod:`data_prep.contract.seal_list`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data_prep.contract.errors import StudyError
from data_prep.contract.files import sha256_file, write_atomically
from data_prep.contract.limits import limits, too_much
from data_prep.contract.lock import alone
from data_prep.contract.seal_list import SealList, parse
from data_prep.contract.terminal import Terminal

SEALS = "files.sha256"
_TEXTS = (".json", ".jsonl", ".md", ".jinja", ".txt", ".csv", ".html")


@dataclass(frozen=True)
class Broken:
    """A file that is not what was sealed."""

    path: Path
    why: str

    def __str__(self) -> str:
        return f"{self.path}: {self.why}"


def seal(folder: Path, files: Iterable[Path]) -> None:
    """Write down what these files, in ``folder`` or below, are now; what is written of others stays. Several processes may."""
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder):
        write_seals(folder, files, known=read_seals(folder))


def write_seals(folder: Path, files: Iterable[Path], *, known: SealList | None = None) -> None:
    """As :func:`seal`, by whoever has the folder for itself; what is not among ``known`` is forgotten."""
    known = known or SealList()
    found = {file.relative_to(folder).as_posix(): sha256_file(file) for file in files}
    write_atomically(folder / SEALS, replace(known, sha256={**known.sha256, **found}).text())


def seal_all(folder: Path, *, but: Collection[str] = ()) -> None:
    """Seal all that is in ``folder`` and below now; not what is in the folders of these names in it. Nothing else belongs into it then."""
    known = SealList(complete=True, but=tuple(sorted(but)))
    write_seals(folder, (folder / name for name in _names(folder, but)), known=known)


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
        if not broken.path.name.endswith(_TEXTS):
            raise StudyError(str(broken))
        said.append(str(broken))
    return said


def say_edited(folder: Path) -> None:
    """As :func:`check_seals`, and print what it returns."""
    for edited in check_seals(folder):
        Terminal(stderr=True).print(f"note: {edited}, or edited by hand", soft_wrap=True)


def broken_seals(folder: Path) -> Iterator[Broken]:
    """Every file of ``folder`` that is not what was sealed, or came later where all were; or the list itself, if it is damaged."""
    try:
        known = read_seals(folder)
    except StudyError as error:
        yield Broken(folder / SEALS, str(error).removeprefix(f"{folder / SEALS}: "))
        return
    for name, sha256 in known.sha256.items():
        path = folder / name
        if not path.is_file():
            yield Broken(path, f"no such file, expected one: {folder / SEALS} lists it")
        elif (found := sha256_file(path)) != sha256:
            yield Broken(path, f"SHA-256 {found[:12]}…, {folder / SEALS} says {sha256[:12]}…: altered")
    if known.complete:
        later = sorted(set(_names(folder, known.but)) - known.sha256.keys())
        for name in (name for name in later if not _has_a_list_of_its_own(folder, name)):
            yield Broken(folder / name, f"not a file that was sealed, {folder / SEALS} does not list it: it came later")


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
    known = read_seals(folder)
    return (
        sorted(p.name for p in folder.iterdir() if p.is_file() and p.name != SEALS and p.name not in known.sha256)
        if folder.is_dir()
        else []
    )


def read_seals(folder: Path) -> SealList:
    """What is written of the files of ``folder``; an empty list where there is none.

    Raises
    ------
    StudyError
        The list is not as it was written.
    """
    path = folder / SEALS
    if not path.is_file():
        return SealList(guarded=False)
    if path.stat().st_size > limits().json_bytes:
        raise too_much(path, f"{path.stat().st_size:,} bytes of hashes and names", "json_bytes")
    found = parse(path.read_bytes())
    if found is None:
        raise StudyError(f"{path}: not a list of hashes and names of files in its folder: altered or cut short")
    return found


def _names(folder: Path, but: Collection[str]) -> Iterator[str]:
    """Files in ``folder`` and below that nothing hides."""
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        if path.is_file() and path != folder / SEALS and name.parts[0] not in but and not any(part.startswith(".") for part in name.parts):
            yield name.as_posix()


def _has_a_list_of_its_own(folder: Path, name: str) -> bool:
    """Whether a file lies in a folder below, such as one of reports, that was sealed by itself."""
    return any((folder / above / SEALS).is_file() for above in Path(name).parents if above != Path())
