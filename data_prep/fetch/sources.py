"""The table of what can be fetched: a row a study, and a row each of its files. Addresses come from here and from nowhere else.

Columns: ``study, part, path, address, bytes, hash, licence, about``. A row without a path is a study's: its page, licence and words. In
addresses ``{path}``, ``{bytes}`` and ``{hash}`` stand for the row's own. What nobody could verify is called ``unknown``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from urllib.parse import quote, urlsplit

from data_prep.contract.errors import CommandError, StudyError
from data_prep.contract.limits import limits, too_much
from data_prep.contract.words import listed, short

TABLE = Path(__file__).with_name("sources.tsv")
COLUMNS = ("study", "part", "path", "address", "bytes", "hash", "licence", "about")
UNKNOWN = "unknown"
HASHES = {"sha256": 64, "md5": 32}
"""Kinds of hashes that archives publish, and their length."""
RESERVED = ("fetched.json",)
_NAME = re.compile(r"[a-z0-9][a-z0-9.-]*\Z")
_HOLE = re.compile(r"\{(\w*)\}")


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """One file of a study."""

    part: str
    path: str
    """Where it goes, below the output folder."""
    address: str
    size_bytes: int | None
    """None: unknown."""
    hash: str | None
    """``sha256:HEX`` or ``md5:HEX``; None: unknown."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """A study that somebody has published."""

    name: str
    page: str
    licence: str
    about: str
    files: tuple[RemoteFile, ...]
    """Empty: the page alone leads to them."""

    def chosen(self, parts: tuple[str, ...] | None, match: str | None) -> list[RemoteFile]:
        """The files of ``parts`` whose path matches ``match``.

        Raises
        ------
        CommandError
            A part that there is not, or no file at all.
        """
        have = list(dict.fromkeys(file.part for file in self.files))
        unknown = [part for part in parts or () if part not in have]
        if unknown:
            raise CommandError(f"study {self.name!r} has no part {unknown[0]!r}; it has {listed(have, 60)}")
        found = [file for file in self.files if (parts is None or file.part in parts) and (match is None or fnmatchcase(file.path, match))]
        if not found and self.files:
            raise CommandError(
                f"no file of study {self.name!r} matches {match!r}; its first ones are {listed((file.path for file in self.files), 4)}"
            )
        return found


def read_sources(table: Path = TABLE) -> dict[str, Published]:
    """Every study of a table, by name.

    Raises
    ------
    StudyError
        One sentence with the line: another column, a path that leaves the folder, an address that is none, a size or hash that is none.
    """
    if not table.is_file():
        raise StudyError(f"{table}: no such file, expected a table of sources")
    if table.stat().st_size > limits().json_bytes:
        raise too_much(table, f"{table.stat().st_size:,} bytes of a table", "json_bytes")
    try:
        lines = table.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise StudyError(f"{table}: is no text in UTF-8 ({error})") from error
    if not lines or tuple(lines[0].split("\t")) != COLUMNS:
        raise StudyError(
            f"{table}: its first line is {short(lines[0] if lines else '')!r}, expected the columns {', '.join(COLUMNS)} with tabs between"
        )
    studies: dict[str, Published] = {}
    files: dict[str, list[RemoteFile]] = {}
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        cells = line.split("\t")
        if len(cells) != len(COLUMNS):
            raise StudyError(f"{table}: line {number} has {len(cells)} cells, expected {len(COLUMNS)}")
        row = dict(zip(COLUMNS, (cell.strip() for cell in cells), strict=True))
        where = f"{table}: line {number}"
        if not row["path"]:
            studies[row["study"]] = _study(where, row, studies)
            files[row["study"]] = []
        elif row["study"] not in files:
            raise StudyError(f"{where}: is of study {row['study']!r}, whose own row (page, licence) does not stand above")
        else:
            files[row["study"]].append(_file(where, row))
    for name, own in files.items():
        _refuse_twice(table, name, own)
    return {name: Published(**{**vars(study), "files": tuple(files[name])}) for name, study in studies.items()}


def _study(where: str, row: Mapping[str, str], studies: Mapping[str, Published]) -> Published:
    if not _NAME.match(row["study"]) or row["study"] in studies:
        raise StudyError(f"{where}: study {row['study']!r}: expected lower-case letters, digits, '.' and '-', each name once")
    if not row["licence"] or not row["about"]:
        raise StudyError(
            f"{where}: study {row['study']!r} has no licence or no words about it, expected both ('unknown' where nobody knows)"
        )
    check_address(row["address"], where)
    return Published(name=row["study"], page=row["address"], licence=row["licence"], about=row["about"], files=())


def _file(where: str, row: Mapping[str, str]) -> RemoteFile:
    path, size, digest = row["path"], row["bytes"], row["hash"]
    check_path(path, where)
    if not row["part"]:
        raise StudyError(f"{where}: {path!r} has no part, expected a name")
    if size != UNKNOWN and not re.fullmatch(r"\d{1,15}", size):
        raise StudyError(f"{where}: bytes is {size!r}, expected a number or {UNKNOWN}")
    kind, _, digits = digest.partition(":")
    if digest != UNKNOWN and (kind not in HASHES or not re.fullmatch(rf"[0-9a-f]{{{HASHES.get(kind, 0)}}}", digits)):
        raise StudyError(f"{where}: hash is {short(digest)!r}, expected sha256:HEX, md5:HEX or {UNKNOWN}")
    values = {"path": quote(path), "bytes": size, "hash": digits}
    holes = set(_HOLE.findall(row["address"]))
    if holes - values.keys() or any(values[hole] in (UNKNOWN, "") for hole in holes):
        raise StudyError(
            f"{where}: address is {short(row['address'])!r}, expected {{path}}, {{bytes}} and {{hash}} alone in it, and those known"
        )
    address = _HOLE.sub(lambda hole: values[hole[1]], row["address"])
    check_address(address, where)
    return RemoteFile(
        part=row["part"],
        path=path,
        address=address,
        size_bytes=None if size == UNKNOWN else int(size),
        hash=None if digest == UNKNOWN else digest,
    )


def check_path(path: str, where: str) -> None:
    """Refuse a path that is not one of a plain file inside a folder.

    Raises
    ------
    StudyError
    """
    parts = PurePosixPath(path).parts
    bad = (
        PurePosixPath(path).is_absolute()
        or not parts
        or any(part in ("..", ".") or part.startswith((".", "~")) for part in parts)
        or bool(re.search(r"[\\:\x00-\x1f\x7f]", path))
        or "//" in path
        or path.endswith("/")
        or path in RESERVED
        or len(path) > 1024
    )
    if bad:
        raise StudyError(f"{where}: path is {short(path)!r}, expected that of a file inside the output folder")


def check_address(address: str, where: str) -> None:
    """Refuse an address that is none of the web.

    Raises
    ------
    StudyError
    """
    try:
        split = urlsplit(address)
        valid = split.scheme in ("http", "https") and bool(split.hostname) and split.username is None and split.port != 0
    except ValueError:
        valid = False
    if not valid or re.search(r"[\s\x00-\x1f\x7f]", address):
        raise StudyError(f"{where}: address is {short(address)!r}, expected one of http or https, without a user or password")


def _refuse_twice(table: Path, name: str, files: list[RemoteFile]) -> None:
    """A path twice, or one that is another's folder, whatever the case."""
    seen: set[str] = set()
    for file in files:
        folded = file.path.casefold()
        if folded in seen:
            raise StudyError(f"{table}: study {name!r} has the path {file.path!r} twice")
        seen.add(folded)
    folders = {parent.as_posix().casefold() for file in files for parent in PurePosixPath(file.path).parents}
    clash = [file.path for file in files if file.path.casefold() in folders]
    if clash:
        raise StudyError(f"{table}: study {name!r} has {clash[0]!r} as a file and as a folder")
