"""Where a study is written: a folder, or a URL by way of a staging folder of this machine.

With a URL every shard is finished in the staging folder exactly as a study is in any, then sent while the next one is written, its mark
last; what was sent is read again and compared, and the tar is deleted here. Tables, marks and embeddings stay until the end, when the
manifest is sent, and then the staging folder goes. So the URL is the study, with the bytes of a local one: run again after a kill, on
this machine or another, what a local run would find in its folder is brought from there, all but the tars.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from data_prep.contract import schema
from data_prep.contract.errors import StudyError
from data_prep.contract.lock import alone
from data_prep.contract.progress import tracked
from data_prep.contract.seal import SEALS
from data_prep.contract.terminal import Terminal
from data_prep.contract.urls import is_url
from data_prep.contract.words import listed
from data_prep.shards.remote import RemoteFolder
from data_prep.shards.shard import Done, shard_file

_MARKER = ".staging"
_SHARD_FILE = re.compile(r"\d{6,}\.(index\.npy|trials\.npy|measured\.npy)")
_STATE = re.compile(r"plan\.json|manifest\.(json|sha256)|\d{6,}\.done\.json|embeddings/([a-z0-9_]+\.(npy|json)|files\.sha256)")
"""What a run looks at that finds a study, and that may have been written anew since this machine had it."""
_LAST = ("manifest.json", "manifest.sha256")


class Destination(Protocol):
    """Where shards go; ``root`` is the folder of this machine in which they are written."""

    root: Path
    elsewhere: Mapping[str, int]
    """Bytes of files that are whole and not in ``root``, by name."""

    def begin(self, shard_bytes: int, at_once: int, console: Terminal) -> None:
        """The plan stands in ``root``; shards of at most so many bytes come, so many of them at once."""

    def take(self, number: int, done: Done) -> None:
        """Shard ``number`` is finished in ``root``, or was when this began."""

    def publish(self) -> None:
        """All of the study stands in ``root``."""


class LocalDestination:
    """A folder of this machine: there is nothing to do."""

    elsewhere: Mapping[str, int] = {}

    def __init__(self, root: Path) -> None:
        self.root = root

    def begin(self, shard_bytes: int, at_once: int, console: Terminal) -> None: ...

    def take(self, number: int, done: Done) -> None: ...

    def publish(self) -> None: ...


@contextmanager
def destination(output: str, staging: str | None, *, read_back: bool) -> Iterator[Destination]:
    """A study's place, for one writer at a time.

    Raises
    ------
    StudyError
        Another process writes there; the URL is none that can be written to; something else lies there, or in ``staging``.
    """
    if not is_url(output):
        root = Path(output)
        root.mkdir(parents=True, exist_ok=True)
        with alone(root, wait_seconds=0):
            yield LocalDestination(root)
        return
    remote = RemoteFolder(output)
    root = Path(staging) if staging is not None else staging_folder(remote.url)
    root.mkdir(parents=True, exist_ok=True)
    with alone(root, wait_seconds=0), ThreadPoolExecutor(1, "sending") as thread:
        place = _RemoteDestination(root, remote, thread, read_back=read_back)
        try:
            yield place
        finally:
            place.give_up()


def staging_folder(url: str) -> Path:
    """In the present folder, named after the end of the URL."""
    name = re.sub(r"[^\w.\-]", "_", url.rpartition("/")[2]).lstrip(".") or "study"
    return Path(f"{name}-{hashlib.sha256(url.encode()).hexdigest()[:8]}.staging")


class _RemoteDestination:
    def __init__(self, root: Path, remote: RemoteFolder, thread: ThreadPoolExecutor, *, read_back: bool) -> None:
        self.root, self._remote, self._thread, self._read_back = root, remote, thread, read_back
        self._being_sent: Future[None] | None = None
        self._claim()
        sizes = remote.sizes()
        if sizes and "plan.json" not in sizes:
            raise StudyError(
                f"{remote.url}: holds {listed(sorted(sizes), 4)} but no plan.json: expected nothing there or shards of the same plan"
            )
        self.elsewhere: Mapping[str, int] = {name: size for name, size in sizes.items() if name.endswith(".tar")}
        self._marked = {name for name in sizes if name.endswith(".done.json")}
        names = [name for name in sizes if _STATE.fullmatch(name) or (_SHARD_FILE.fullmatch(name) and sizes[name] != self._bytes_of(name))]
        for name in tracked(names, f"files brought from {remote.url}") if names else ():
            remote.fetch(name, root / name)

    def begin(self, shard_bytes: int, at_once: int, console: Terminal) -> None:
        needed, free = shard_bytes * at_once, shutil.disk_usage(self.root).free
        most = f"at most {at_once} shards at a time, {needed / 1e9:,.1f} GB"
        if free < needed:
            raise StudyError(
                f"{self.root}: {free / 1e9:,.1f} GB of disk are free, expected room for {most}: name another folder in 'staging'"
            )
        console.print(f"{self.root}: holds shards until they are sent, {most} of {free / 1e9:,.1f} GB that are free", soft_wrap=True)
        self._send("plan.json")

    def take(self, number: int, done: Done) -> None:
        self._wait()
        name = schema.shard_name(number)
        files = [shard_file(self.root, name, kind) for kind in done.files] + [self.root / f"{name}.done.json"]
        tar = self.root / f"{name}.tar"
        if files[-1].name in self._marked and not tar.is_file():
            return

        def send() -> None:
            for file in files:
                self._send(file.name)
            tar.unlink(missing_ok=True)

        self._being_sent = self._thread.submit(send)

    def publish(self) -> None:
        self._wait()
        early = [
            SEALS,
            "config.yaml",
            "plan.json",
            *(f"embeddings/{path.name}" for path in sorted((self.root / "embeddings").glob("[!.]*"))),
        ]
        for name in tracked([name for name in (*early, *_LAST) if (self.root / name).is_file()], "files sent last"):
            self._send(name)
        shutil.rmtree(self.root)

    def give_up(self) -> None:
        """Nothing is sent any more."""
        self._thread.shutdown(cancel_futures=True)

    def _wait(self) -> None:
        before, self._being_sent = self._being_sent, None
        if before is not None:
            before.result()

    def _send(self, name: str) -> None:
        self._remote.send(self.root / name, name, read_back=self._read_back)

    def _bytes_of(self, name: str) -> int | None:
        with suppress(OSError):
            return (self.root / name).stat().st_size
        return None

    def _claim(self) -> None:
        """A staging folder is deleted in the end: it must be nobody's."""
        marker = self.root / _MARKER
        found = marker.read_text(encoding="utf-8").strip() if marker.is_file() else None
        if found is None and (others := sorted(path.name for path in self.root.iterdir())):
            raise StudyError(f"{self.root}: holds {listed(others, 4)}, expected an empty staging folder, or that of {self._remote.url}")
        if found not in (None, self._remote.url):
            raise StudyError(
                f"{self.root}: is the staging folder of {found}, expected that of {self._remote.url}: name another in 'staging'"
            )
        marker.write_text(f"{self._remote.url}\n", encoding="utf-8")
