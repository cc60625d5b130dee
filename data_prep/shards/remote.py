"""Files behind a URL, by fsspec: sent whole, read again, compared.

An object store shows an object when it is whole. Anywhere else a file is sent under a name that begins with a dot and then renamed, so
that no final name ever holds half a file. Credentials come from where the file system's own package looks for them: the environment,
its files, fsspec's configuration.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from data_prep.contract.errors import StudyError
from data_prep.contract.files import sha256_file, write_atomically
from data_prep.contract.secrets import masked, secrets_in
from data_prep.contract.words import short

PARTIAL = ".partial"
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "oci", "ocilake", "tos", "hf", "memory"}
_OURS = {"s3": "s3", "s3a": "s3"}
"""Scheme -> our extra that installs what reads it."""
_BLOCK_BYTES = 2**23
_WAIT_SECONDS = (1.0, 5.0, 25.0)
"""Before a file is tried again."""
_FOR_GOOD = (PermissionError, FileNotFoundError, NotADirectoryError, IsADirectoryError, NotImplementedError, TypeError)
T = TypeVar("T")


class RemoteFolder:
    """A folder behind a URL.

    Raises
    ------
    StudyError
        A URL that holds a password, a scheme that no installed package knows, a store that does not answer.
    """

    def __init__(self, url: str) -> None:
        if secrets_in(url):
            raise StudyError(f"{masked(url)}: holds a password or token, expected none: credentials come from the environment or a file")
        self.url = url.rstrip("/")
        self._fs, self._path = _file_system(self.url)
        protocol = self._fs.protocol
        self._shows_whole_alone = not _OBJECT_STORES.isdisjoint((protocol,) if isinstance(protocol, str) else protocol)

    def sizes(self) -> dict[str, int]:
        """Bytes of every file in the folder and below, by name from it; what a kill left half-sent is deleted."""

        def look() -> dict[str, int]:
            self._fs.invalidate_cache()
            try:
                found = self._fs.find(self._path, detail=True)
            except FileNotFoundError:
                return {}
            prefix = self._path.rstrip("/") + "/"
            return {path.removeprefix(prefix): int(facts["size"] or 0) for path, facts in found.items() if path.startswith(prefix)}

        sizes = self._tried(look, self.url)
        for name in filter(_is_partial, list(sizes)):
            del sizes[name]
            self._tried(partial(self._fs.rm_file, self._at(name)), f"{self.url}/{name}")
        return sizes

    def fetch(self, name: str, target: Path) -> None:
        """Bring a small file here."""
        write_atomically(target, self._tried(lambda: bytes(self._fs.cat_file(self._at(name))), f"{self.url}/{name}"))

    def send(self, file: Path, name: str, *, read_back: bool) -> None:
        """Put ``file`` there under ``name``, whole or not at all; what is there with its size and content is not sent again.

        Parameters
        ----------
        read_back
            Read it again and compare the SHA-256; otherwise its size alone is compared.

        Raises
        ------
        StudyError
            It does not arrive, or arrives as something else.
        """
        size, sha256 = file.stat().st_size, sha256_file(file)

        def put() -> None:
            if read_back and self._size(name) == size and self._sha256(name) == sha256:
                return
            if self._shows_whole_alone:
                self._fs.put_file(str(file), self._at(name))
            else:
                folder = self._at(name).rpartition("/")[0]
                half = f"{folder}/.{file.name}{PARTIAL}"
                self._fs.makedirs(folder, exist_ok=True)
                self._fs.put_file(str(file), half)
                self._fs.mv(half, self._at(name))
            if self._size(name) != size or (read_back and self._sha256(name) != sha256):
                raise OSError(f"holds other bytes than were sent, expected {size:,} with SHA-256 {sha256[:12]}…")

        self._tried(put, f"{self.url}/{name}")

    def _at(self, name: str) -> str:
        return f"{self._path.rstrip('/')}/{name}"

    def _size(self, name: str) -> int | None:
        self._fs.invalidate_cache()
        try:
            return int(self._fs.info(self._at(name))["size"])
        except FileNotFoundError:
            return None

    def _sha256(self, name: str) -> str:
        digest = hashlib.sha256()
        with self._fs.open(self._at(name), "rb", block_size=_BLOCK_BYTES) as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
        return digest.hexdigest()

    def _tried(self, action: Callable[[], T], where: str) -> T:
        for wait_seconds in (*_WAIT_SECONDS, None):
            try:
                return action()
            except Exception as error:  # each file system has errors of its own
                if wait_seconds is None or isinstance(error, _FOR_GOOD) or _lacks_credentials(error):
                    raise StudyError(f"{where}: {_why(error)}") from error
                time.sleep(wait_seconds)
        raise AssertionError


def _is_partial(name: str) -> bool:
    last = name.rpartition("/")[2]
    return last.startswith(".") and last.endswith(PARTIAL)


def _lacks_credentials(error: Exception) -> bool:
    return "Credentials" in type(error).__name__


def _why(error: Exception) -> str:
    if _lacks_credentials(error):
        return f"no credentials ({short(error, 120)}), expected them in the environment or in the files that the store's own tools read"
    if isinstance(error, FileNotFoundError):
        return f"no such bucket, container or folder ({short(error, 120)})"
    return short(error, 200) or type(error).__name__


def _file_system(url: str) -> tuple[Any, str]:
    import fsspec

    scheme = url.partition(":")[0].lower()
    if "::" in url or "://" not in url:
        raise StudyError(f"{url}: expected a URL of one scheme, such as s3://bucket/study")
    try:
        fs, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        extra = f"pip install 'eeg-vision-stack[{_OURS[scheme]}]'" if scheme in _OURS else short(error, 200)
        raise StudyError(f"{url}: no installed package knows {scheme}://: {extra}") from error
    except Exception as error:
        raise StudyError(f"{url}: {short(error, 200)}") from error
    if scheme in ("http", "https", "github", "data", "zip", "tar"):
        raise StudyError(
            f"{url}: {scheme}:// can be read alone, expected a store that takes files, such as s3://, gs://, abfs:// or sftp://"
        )
    return fs, str(path)
