"""One file over HTTP: resumed where it broke off if it is still the same, tried again, held against its size and hash, named last.

.NAME.part, .NAME.part.json      while it comes: bytes, and what the server called the content (ETag, date)
NAME                             whole and checked
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.exceptions import HTTPError

from data_prep.contract.errors import CommandError, StudyError
from data_prep.contract.files import fsync, read_json, write_json
from data_prep.contract.words import short
from data_prep.fetch.sources import RemoteFile

CHUNK_BYTES = 2**20
SPARE_BYTES = 2**28
"""Room that a download leaves on the disk."""
MOST_REDIRECTS = 10
_AGAIN = (408, 425, 429, 500, 502, 503, 504)
"""Answers after which the same question may be answered otherwise."""
_MOST_WAIT_SECONDS = 120.0


class Unreachable(CommandError):
    """Nobody answers: no network, or not that host."""


class _Interrupted(Exception):
    """Worth another try; ``wait_seconds`` where the server said how long."""

    def __init__(self, words: str, wait_seconds: float | None = None, *, answered: bool = True) -> None:
        super().__init__(words)
        self.wait_seconds, self.answered = wait_seconds, answered


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How often, and how long."""

    tries: int = 6
    """In a row without a byte; one that brings some counts anew."""
    first_wait_seconds: float = 1.0
    """Doubled with each try."""
    timeout_seconds: float = 60.0
    """Longest silence of a server."""


def download(
    file: RemoteFile, target: Path, patience: Patience, advance: Callable[[int], object], *, wanted_hash: str | None = None
) -> None:
    """Bring ``file`` to ``target``, whose folder is there; ``advance`` is told how many bytes came.

    ``wanted_hash`` is what it must have: the table's, or that of the first time.

    Raises
    ------
    Unreachable
        Nobody answers.
    StudyError
        Another content than the table says, no room on the disk, an answer that is no file.
    """
    partial = target.with_name(f".{target.name}.part")
    facts = target.with_name(f".{target.name}.part.json")
    failures, answered, furthest = 0, False, _size(partial)
    while True:
        try:
            _once(file, partial, facts, patience, advance, verifiable=wanted_hash is not None)
            break
        except _Interrupted as broken:
            answered = answered or broken.answered
            failures = 1 if _size(partial) > furthest else failures + 1
            furthest = max(furthest, _size(partial))
            if failures >= patience.tries:
                words = f"{file.address}: {broken}, after {failures} tries; run the same command again, it goes on where it broke off"
                raise (CommandError(words) if answered else Unreachable(words)) from broken
            wait = patience.first_wait_seconds * 2 ** (failures - 1)
            time.sleep(min(max(wait, broken.wait_seconds or 0.0), _MOST_WAIT_SECONDS))
    _check(file, partial, facts, wanted_hash)
    with partial.open("rb") as stream:
        os.fsync(stream.fileno())
    os.replace(partial, target)
    facts.unlink(missing_ok=True)
    fsync(target.parent)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def digest_of(path: Path, kind: str = "sha256") -> str:
    """``sha256:HEX`` of a file."""
    with path.open("rb") as stream:
        return f"{kind}:{hashlib.file_digest(stream, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()}"


def _check(file: RemoteFile, partial: Path, facts: Path, wanted_hash: str | None) -> None:
    size = partial.stat().st_size
    found = None if wanted_hash is None else digest_of(partial, wanted_hash.partition(":")[0])
    wrong = None
    if file.size_bytes is not None and size != file.size_bytes:
        wrong = f"has {size:,} bytes, expected {file.size_bytes:,}"
    elif found != wanted_hash:
        wrong = f"has hash {found}, expected {wanted_hash}"
    if wrong:
        partial.unlink(missing_ok=True)  # what is wrong must not be gone on with
        facts.unlink(missing_ok=True)
        raise StudyError(
            f"{file.address}: what came {wrong}: the source has changed, or the bytes were altered on their way; nothing is kept"
        )


# ------------------------------------------------------------------------------------------------------------ one try


def _once(file: RemoteFile, partial: Path, facts: Path, patience: Patience, advance: Callable[[int], object], *, verifiable: bool) -> None:
    """Go on with ``partial``, or begin it; it is whole when this returns."""
    begun = _begun(file, partial, facts, verifiable=verifiable)
    size = _size(partial) if begun is not None else 0
    if file.size_bytes is not None and size == file.size_bytes and size:
        return
    headers = {"Accept-Encoding": "identity", "User-Agent": "eeg-vision-stack"}
    if size:
        headers["Range"] = f"bytes={size}-"
        if begun:
            headers["If-Range"] = begun
    with _asked(file.address, headers, patience) as answer:
        _refuse_what_is_no_file(file, answer)
        if answer.status == 206 and size:
            if begun and _validator(answer) not in ("", begun):  # it goes on with another content than was asked for
                partial.unlink(missing_ok=True)
                raise _Interrupted("answered with a piece of another content: it has changed")
            total = _continued(file, answer, size)
            mode = "ab"
        elif answer.status == 200:
            total, mode, size = _length(answer), "wb", 0
        else:  # 416: what is here is longer than what is there
            partial.unlink(missing_ok=True)
            facts.unlink(missing_ok=True)
            raise _Interrupted(f"answered {answer.status} to a wish for bytes from {size:,}")
        if file.size_bytes is not None and total is not None and total != file.size_bytes:
            raise StudyError(f"{file.address}: says that it has {total:,} bytes, expected {file.size_bytes:,}: the source has changed")
        _refuse_full_disk(file, partial, (total or 0) - size)
        if mode == "wb":
            write_json(facts, {"address": file.address, "validator": _validator(answer)})
        expected = total if total is not None else file.size_bytes
        with partial.open(mode) as out:
            _pour(file, answer, out, size, expected, partial, advance)


def _begun(file: RemoteFile, partial: Path, facts: Path, *, verifiable: bool) -> str | None:
    """What the server called the content that ``partial`` is a piece of (empty: nothing, but a hash will tell); None: begin anew."""
    if not (partial.is_file() and facts.is_file()):
        return None
    try:
        said = read_json(facts)
    except StudyError:
        return None
    if not isinstance(said, dict) or said.get("address") != file.address or not isinstance(said.get("validator"), str):
        return None
    validator: str = said["validator"]
    return validator if validator or verifiable else None


def _validator(answer: Any) -> str:
    """A strong ETag, else the date of the last change; empty where there is none."""
    tag, changed = (str(answer.headers.get(name, "")) for name in ("ETag", "Last-Modified"))
    return tag if tag.startswith('"') else changed


def _continued(file: RemoteFile, answer: Any, size: int) -> int | None:
    """Bytes of the whole, by the answer to a wish for its rest."""
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", answer.headers.get("Content-Range", "").strip())
    if match is None or int(match[1]) != size:
        raise StudyError(
            f"{file.address}: was asked for bytes from {size:,} and answers with {short(answer.headers.get('Content-Range', 'no range'))!r}"
        )
    return None if match[3] == "*" else int(match[3])


def _length(answer: Any) -> int | None:
    text = answer.headers.get("Content-Length", "")
    return int(text) if text.isdigit() else None


def _pour(
    file: RemoteFile, answer: Any, out: Any, size: int, expected: int | None, partial: Path, advance: Callable[[int], object]
) -> None:
    since_look = 0
    for chunk in _chunks(answer):
        size += len(chunk)
        if expected is not None and size > expected:
            raise StudyError(f"{file.address}: sends more than the {expected:,} bytes that it should have")
        since_look += len(chunk)
        if since_look >= SPARE_BYTES // 4:
            _refuse_full_disk(file, partial, 0)
            since_look = 0
        out.write(chunk)
        advance(len(chunk))
    out.flush()
    if expected is not None and size < expected:
        raise _Interrupted(f"answered with {size:,} of {expected:,} bytes")


def _chunks(answer: Any) -> Iterator[bytes]:
    try:
        yield from answer.stream(CHUNK_BYTES, decode_content=False)
    except (HTTPError, OSError) as error:
        raise _Interrupted(f"the connection broke off ({short(error, 120)})") from error


def _refuse_full_disk(file: RemoteFile, partial: Path, needed: int) -> None:
    free = shutil.disk_usage(partial.parent).free
    if free < needed + SPARE_BYTES:
        raise StudyError(
            f"{partial.parent}: has {free:,} bytes free, {file.path} needs {needed + SPARE_BYTES:,} with what must stay free: make room, "
            "or choose another output"
        )


def _refuse_what_is_no_file(file: RemoteFile, answer: Any) -> None:
    kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind == "text/html" and not file.path.lower().endswith((".html", ".htm")):
        raise StudyError(
            f"{file.address}: answers with a web page instead of {file.path}: open it in a browser, it may ask for consent or a log-in"
        )
    if answer.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
        raise StudyError(f"{file.address}: answers with {short(answer.headers['Content-Encoding'])!r} content, expected the file as it is")


# --------------------------------------------------------------------------------------------------------- the answer


class _Answer:
    """Context of an open answer."""

    def __init__(self, answer: Any, pool: urllib3.PoolManager) -> None:
        self._answer, self._pool = answer, pool

    def __enter__(self) -> Any:
        return self._answer

    def __exit__(self, *_error: object) -> None:
        self._answer.close()
        self._pool.clear()


def _asked(address: str, headers: dict[str, str], patience: Patience) -> _Answer:
    """The answer to a question for ``address``, after redirects within the web."""
    here = address
    for _ in range(MOST_REDIRECTS + 1):
        pool = _pool(here, patience)
        try:
            answer = pool.request("GET", here, headers=headers, preload_content=False, redirect=False, retries=False)
        except (HTTPError, OSError) as error:
            pool.clear()
            raise _Interrupted(f"does not answer ({short(error, 160)})", answered=False) from error
        if answer.status in (301, 302, 303, 307, 308):
            leads = answer.headers.get("Location", "")
            answer.close()
            pool.clear()
            here = _followed(address, here, leads)
            continue
        if answer.status in (200, 206, 416):
            return _Answer(answer, pool)
        wait = answer.headers.get("Retry-After", "")
        status = answer.status
        answer.close()
        pool.clear()
        if status in _AGAIN:
            raise _Interrupted(f"answered {status}", float(wait) if wait.isdigit() else None)
        hint = ": it may ask for consent or a log-in" if status in (401, 403) else ": the source has moved" if status in (404, 410) else ""
        raise CommandError(f"{address}: answered {status}{hint}")
    raise CommandError(f"{address}: leads on more than {MOST_REDIRECTS} times")


def _followed(address: str, here: str, leads: str) -> str:
    target = urljoin(here, leads)
    scheme = urlsplit(target).scheme
    if scheme not in ("http", "https") or not urlsplit(target).hostname:
        raise StudyError(f"{address}: leads to {short(leads, 80)!r}, expected an address of http or https")
    if urlsplit(here).scheme == "https" and scheme == "http":
        raise StudyError(f"{address}: leads from https to {short(leads, 80)!r}, expected https: what comes could be altered on its way")
    return target


def _pool(address: str, patience: Patience) -> urllib3.PoolManager:
    """Through the proxy that the environment names, if it names one."""
    timeout = urllib3.Timeout(connect=min(patience.timeout_seconds, 30.0), read=patience.timeout_seconds)
    split = urlsplit(address)
    proxy = getproxies().get(split.scheme)
    if proxy and split.hostname and not proxy_bypass(split.hostname):
        return urllib3.ProxyManager(proxy if "://" in proxy else f"http://{proxy}", timeout=timeout)
    return urllib3.PoolManager(timeout=timeout)
