"""Trials on disk until they are asked for: each recording is filtered once, and none stays in memory."""

from __future__ import annotations

import errno
import os
import socket
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_prep.contract.errors import StudyError


class Spool:
    """Arrays of one shape in a file that is gone with this process.

    In ``folder`` it has a name, by which processes of other hosts find it; in the system's folder for temporary files, where it is None,
    it has none, and only processes of this host do.
    """

    def __init__(self, folder: str | None) -> None:
        self._file: Any = (
            tempfile.TemporaryFile(prefix="trials-")  # noqa: SIM115
            if folder is None
            else tempfile.NamedTemporaryFile(prefix="trials-", suffix=".partial", dir=folder)  # noqa: SIM115
        )
        self._named = folder is not None
        self._shape: tuple[int, ...] | None = None
        self._rows = 0

    def append(self, trials_BCT: np.ndarray) -> int:
        """Keep float32 (B, C, T); returns the row of the first."""
        first = self._rows
        if len(trials_BCT):
            assert self._shape in (None, trials_BCT.shape[1:])
            self._shape = trials_BCT.shape[1:]
            self._file.write(np.ascontiguousarray(trials_BCT, "<f4").data)
            self._rows += len(trials_BCT)
        return first

    def read(self, rows: Sequence[int]) -> np.ndarray:
        """float32 (len(rows), C, T)."""
        assert self._shape is not None
        self._file.flush()
        size = int(np.prod(self._shape)) * 4
        found = np.empty((len(rows), *self._shape), "<f4")
        for trial_CT, row in zip(found, rows, strict=True):
            if os.preadv(self._file.fileno(), [trial_CT], row * size) != size:
                raise OSError(errno.EIO, "a trial that was written cannot be read again", self._file.name)
        return found.astype(np.float32, copy=False)

    def __getstate__(self) -> dict[str, Any]:
        """For a worker, which reads what is there now."""
        self._file.flush()
        facts = os.fstat(self._file.fileno())
        path = os.path.abspath(self._file.name) if self._named else f"/proc/{os.getpid()}/fd/{self._file.fileno()}"
        return {
            "path": path,
            "host": socket.gethostname(),
            "named": self._named,
            "inode": facts.st_ino,
            "shape": self._shape,
            "rows": self._rows,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        here = socket.gethostname()
        try:
            self._file = open(state["path"], "rb")  # noqa: SIM115
            known = os.fstat(self._file.fileno()).st_ino == state["inode"]
        except OSError:
            known = False
        if not known:
            raise StudyError(
                f"{state['path']}: the trials cut on {state['host']} are not seen on {here}: set the reader's scratch to a folder "
                "that all hosts share"
            )
        self._named, self._shape, self._rows = state["named"], state["shape"], state["rows"]
