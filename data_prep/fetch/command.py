"""``fetch STUDY``: bring a published study here, say whose licence it has, and hold every byte against the table.

Where the table has no hash, that of the first download is kept in ``fetched.json`` of the output folder, and checked from then on.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.contract.errors import CommandError, StudyError
from data_prep.contract.files import read_json, write_json
from data_prep.contract.lock import alone
from data_prep.contract.progress import progress
from data_prep.contract.terminal import Terminal
from data_prep.contract.words import listed
from data_prep.fetch.download import SPARE_BYTES, Patience, Unreachable, digest_of, download
from data_prep.fetch.sources import RESERVED, TABLE, Published, RemoteFile, read_sources
from data_prep.fetch.unpack import folder_of, unpack

_MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class FetchConfig:
    """Which study to bring, and where to."""

    study: str | None = None
    """Name of the study, which may stand right behind the command; ``--list`` shows them."""
    output: str | None = None
    """Folder for its files; None: ``data/STUDY``."""
    parts: tuple[str, ...] | None = None
    """Parts to bring, such as ``[P1]``; None: all. ``--list`` with a study shows them."""
    match: str | None = None
    """Bring only files whose path matches, such as ``sub-01/*``; None: all."""
    list: bool = False
    """Show the studies, or a study's files with their addresses, and bring nothing."""
    unpack: bool = False
    """Unpack zip and tar archives beside themselves; the archives stay."""
    table: str | None = None
    """Table of your own with the columns of the project's (``data_prep/fetch/sources.tsv``); None: the project's."""
    tries: int = 6
    """Tries in a row that bring nothing before a file is given up."""
    first_wait_seconds: float = 1.0
    """Wait before the second try, doubled with each."""
    timeout_seconds: float = 60.0
    """Longest silence of a server."""

    def __post_init__(self) -> None:
        if self.tries < 1:
            raise ValueError(f"tries is {self.tries}, expected at least 1")
        for name in ("first_wait_seconds", "timeout_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected above 0")
        if self.study is None and not self.list:
            raise ValueError("study is not given, expected a name: --list shows them")


def run(config: FetchConfig) -> None:
    """Bring the files, or list them.

    Raises
    ------
    CommandError, StudyError
        No such study, files that its page alone leads to, no network (the list is printed then), other content than expected.
    """
    sources = read_sources(TABLE if config.table is None else Path(config.table))
    out = Terminal(soft_wrap=True)
    if config.study is None:
        for study in sources.values():
            out.print(f"{study.name}: {_extent(study.files)}; licence: {study.licence}\n  {study.about}\n  {study.page}")
        return
    if config.study not in sources:
        raise CommandError(f"study {config.study!r} is not in the table; it has {listed(sources)}")
    study = sources[config.study]
    files = study.chosen(config.parts, config.match)
    if config.list:
        _print_files(out, study, files)
        return
    if not files:
        _print_files(out, study, files)
        raise CommandError(f"study {study.name!r}: no file of it can be brought from here, its page leads to them: {study.page}")
    said = Terminal(stderr=True, soft_wrap=True)
    said.print(f"{study.name}: {study.about}\nlicence: {study.licence} ({study.page}): by fetching it you take it under these terms")
    root = Path(config.output or f"data/{study.name}")
    root.mkdir(parents=True, exist_ok=True)
    with alone(root, wait_seconds=0):
        try:
            _bring(config, root, files, said)
        except Unreachable as error:
            _print_files(out, study, files)
            raise CommandError(
                f"{error}: without a network, bring the {len(files)} files listed above into {root} by other means and run this again"
            ) from error


def _bring(config: FetchConfig, root: Path, files: Sequence[RemoteFile], said: Terminal) -> None:
    record = _record(root / RESERVED[0])
    patience = Patience(tries=config.tries, first_wait_seconds=config.first_wait_seconds, timeout_seconds=config.timeout_seconds)
    _refuse_full_disk(root, files)
    for number, file in enumerate(files, start=1):
        target = root / file.path
        _refuse_links(root, target)
        before = record.get(file.path, {})
        wanted = file.hash or before.get("hash")
        if target.exists():
            _check_present(file, target, wanted)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            what = f"{file.path} ({number} of {len(files)}), MiB"
            with progress(what, None if file.size_bytes is None else -(-file.size_bytes // _MIB)) as advance:
                download(file, target, patience, _in_mib(advance), wanted_hash=wanted)
        if file.hash is None and not before:
            found = digest_of(target)
            said.print(f"{file.path}: the table knows no hash: {found} is kept in {RESERVED[0]} and checked from now on")
            record[file.path] = {"address": file.address, "bytes": target.stat().st_size, "hash": found}
            write_json(root / RESERVED[0], record)
        if config.unpack and (folder := folder_of(target)) is not None:
            if folder.exists():
                said.print(f"{folder}: is there, {file.path} is not unpacked again")
            else:
                said.print(f"{unpack(target)}: unpacked")
    said.print(f"{root}: {len(files)} files, whole and checked")


def _in_mib(advance: Any) -> Any:
    """``advance`` counted in whole MiB from bytes."""
    state = {"bytes": 0}

    def step(count: int) -> None:
        before = state["bytes"] // _MIB
        state["bytes"] += count
        advance(state["bytes"] // _MIB - before)

    return step


def _check_present(file: RemoteFile, target: Path, wanted: str | None) -> None:
    """A file that is there is the one that is wanted, or the user's own matter: it is never written over."""
    if not target.is_file():
        raise StudyError(f"{target}: is no plain file, expected none or {file.path}")
    size = target.stat().st_size
    if file.size_bytes is not None and size != file.size_bytes:
        raise StudyError(f"{target}: is there with {size:,} bytes, expected {file.size_bytes:,}: move it away to fetch it anew")
    if wanted is not None and (found := digest_of(target, wanted.partition(":")[0])) != wanted:
        raise StudyError(f"{target}: is there with hash {found}, expected {wanted}: it has changed; move it away to fetch it anew")


def _refuse_links(root: Path, target: Path) -> None:
    """No folder on the way to a file leads elsewhere."""
    for folder in [target, *target.parents]:
        if folder == root:
            return
        if folder.is_symlink():
            raise StudyError(f"{folder}: is a link, expected a folder or file inside {root}")


def _refuse_full_disk(root: Path, files: Sequence[RemoteFile]) -> None:
    missing = sum(file.size_bytes or 0 for file in files if not (root / file.path).exists())
    begun = sum(part.stat().st_size for file in files if (part := (root / file.path).with_name(f".{Path(file.path).name}.part")).is_file())
    free = shutil.disk_usage(root).free
    if missing and missing - begun + SPARE_BYTES > free:
        raise StudyError(
            f"{root}: has {free:,} bytes free, {missing - begun + SPARE_BYTES:,} are needed: choose another output, or fewer files with "
            "parts or match"
        )


def _record(path: Path) -> dict[str, dict[str, Any]]:
    if not path.is_file():
        return {}
    value = read_json(path)
    if not isinstance(value, dict) or not all(isinstance(entry, dict) and isinstance(entry.get("hash"), str) for entry in value.values()):
        raise StudyError(f"{path}: expected hashes by path, as fetch writes it")
    return value


def _extent(files: Sequence[RemoteFile]) -> str:
    if not files:
        return "by hand, from its page"
    known = sum(file.size_bytes or 0 for file in files)
    unknown = sum(file.size_bytes is None for file in files)
    more = f" and {unknown} of unknown size" if unknown else ""
    return f"{len(files)} files, {known / 1e9:.1f} GB{more}"


def _print_files(out: Terminal, study: Published, files: Sequence[RemoteFile]) -> None:
    out.print(f"{study.name}: {study.about}\nlicence: {study.licence} ({study.page})\n{_extent(files)}")
    parts: Mapping[str, list[RemoteFile]] = {
        part: [file for file in files if file.part == part] for part in dict.fromkeys(file.part for file in files)
    }
    for part, own in parts.items():
        out.print(f"part {part}: {_extent(own)}")
        for file in own:
            size = "unknown size" if file.size_bytes is None else f"{file.size_bytes:,} bytes"
            out.print(f"  {file.path}  {size}  {file.hash or 'hash unknown'}  {file.address}")
