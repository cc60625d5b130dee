"""The run folder: config, identity, event and metric lines, heartbeats, and the marker that alone means success.

::

    RUN/  config.yaml  identity.json  events.jsonl  metrics.jsonl  heartbeat/RANK
          checkpoints/step-NNNNNNNN/  latest  best  export/  reports/  logs/  completed.json  undone/  owner/  launch/

All but the checkpoints follows from the one that ``latest`` names; :mod:`trainer.training.settle` mends what a kill left otherwise.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.contract.errors import CommandError
from data_prep.contract.files import fsync, write_atomically
from data_prep.contract.json_text import parse_line
from data_prep.contract.seal import SEALS, write_seals
from data_prep.contract.secrets import masked_values
from data_prep.contract.words import listed
from trainer.training.completed import COMPLETED
from trainer.training.owner import OWNER_FOLDER, Owner

if TYPE_CHECKING:  # torch: who only looks at run folders does not need it
    from trainer.training.apart import Apart

CHECKPOINT_NAME = re.compile(r"step-[0-9]{8}\Z")
MAX_STEP = 99_999_999
"""The last step that such a name has room for."""
HEARTBEAT_SECONDS = 5.0
LINE_FILES = ("events.jsonl", "metrics.jsonl", "items.jsonl")
_OF_A_START = {
    "config.yaml",
    "identity.json",
    "files.sha256",
    *LINE_FILES,
    "latest",
    "checkpoints",
    "universal",
    "heartbeat",
    "errors",
    "logs",
    "launch",
    OWNER_FOLDER,
}
"""What a start that was killed may leave before there is a run."""
_LOGS = {".log", ".out", ".err", ".txt"}
"""A person's own record of what a command said, often kept where its run is."""


class RunFolder:
    """Paths and small files of one run. Only rank 0 writes, except heartbeats."""

    def __init__(self, path: str | Path, *, rank: int = 0) -> None:
        self.path = Path(path)
        self.rank = rank
        self.owner: Owner | None = None
        """The right to write here; None: it is only read, or nobody else can come."""
        self.apart: Apart | None = None
        """Ranks on other hosts, where the folder is local; None: all hosts share it."""
        self._last_heartbeat = -HEARTBEAT_SECONDS
        self.lines = threading.Lock()
        """Held while a line is appended or a file of lines is rewritten: a callback's thread may write, too."""

    def guard(self, *, now: bool = True) -> None:
        """Refuse to write what is another process's by now; see :meth:`trainer.training.owner.Owner.check`."""
        if self.owner is not None:
            self.owner.check(now=now)

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints."""
        return self.path / "checkpoints"

    def checkpoint(self, step: int) -> Path:
        """Folder of the checkpoint of a step; :func:`step_of` reads it back."""
        return self.checkpoints / f"step-{step:08d}"

    @property
    def export(self) -> Path:
        """Folder of the exported encoder: the best so far, or the last where nothing is validated."""
        return self.path / "export"

    @property
    def undone(self) -> Path:
        """Folder of what was set aside when the run was wound back, or continued after a kill: lines of steps that are done again, and the
        export of such a step."""
        return self.path / "undone"

    @property
    def logs(self) -> Path:
        """Folder of what libraries said: ``rank-N.log``, and ``launcher.log`` of the process that started the ranks."""
        return self.path / "logs"

    @property
    def completed(self) -> Path:
        """The only proof of success."""
        return self.path / COMPLETED

    def holds_a_run(self) -> bool:
        """Whether a training run has been started here."""
        return (self.path / "identity.json").is_file()

    def refuse_what_is_no_run(self) -> None:
        """Refuse a folder of something else (a study, other runs, a home): a run would mix with it, and a start that fails undo what
        comes into it meanwhile."""
        if self.holds_a_run() or not self.path.is_dir():
            return
        visible = sorted(each for each in self.path.iterdir() if not each.name.startswith("."))
        foreign = [each.name for each in visible if each.name not in _OF_A_START and each.suffix not in _LOGS]
        if foreign:
            raise CommandError(f"run: {self.path} holds {listed(foreign, 4)} and no run: expected a new or an empty folder")

    def seal(self) -> None:
        """Write down what the run's own files are now: of one that goes on config and identity, of one that is done all that is at its top
        and what its checkpoints say. An export has seals of its own."""
        done = self.completed.is_file()
        names = (
            ("*.json", "*.yaml", "*.jsonl", "latest", "best", "checkpoints/*/manifest.json", "checkpoints/*.py")
            if done
            else ("config.yaml", "identity.json")
        )
        write_seals(self.path, [path for name in names for path in self.path.glob(name)])

    def unseal(self) -> None:
        """The run goes on, and its files with it."""
        (self.path / SEALS).unlink(missing_ok=True)

    def event(self, kind: str, **facts: Any) -> None:
        """Append a noteworthy event (``start``, ``resume``, ``checkpoint``, ``best``, ``fault``, ``stop``, ``end``) to ``events.jsonl``."""
        self._append("events.jsonl", {"time": now(), "event": kind, **masked_values(facts)})

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Append one line of numbers to ``metrics.jsonl``."""
        self._append("metrics.jsonl", {"step": step, **values})

    def items(self, step: int, items: list[int]) -> None:
        """Append the item numbers of a step to ``items.jsonl``."""
        self._append("items.jsonl", {"step": step, "items": items})

    def heartbeat(self, step: int) -> None:
        """Let a supervisor see that this rank is alive: every few seconds, by every rank."""
        if time.monotonic() - self._last_heartbeat >= HEARTBEAT_SECONDS:
            self.guard(now=False)
            self._last_heartbeat = time.monotonic()
            (self.path / "heartbeat").mkdir(parents=self.apart is not None, exist_ok=True)
            (self.path / "heartbeat" / str(self.rank)).write_text(f"{now()} {step}\n")

    def pointed(self, name: str) -> Path | None:
        """Checkpoint folder that ``latest`` or ``best`` names, or None where the pointer is not there."""
        pointer = self.path / name
        if not pointer.is_file():
            return None
        target = pointer.read_text(encoding="utf-8", errors="replace").strip()
        if not CHECKPOINT_NAME.match(target):
            raise CommandError(f"{pointer}: names {target!r}, expected a checkpoint such as step-00000100")
        return self.checkpoints / target

    def point(self, name: str, checkpoint: Path) -> None:
        """Move ``latest`` or ``best`` to a checkpoint, atomically."""
        self.guard()
        write_atomically(self.path / name, f"{checkpoint.name}\n".encode())

    def sync_lines(self) -> None:
        """Make the lines so far durable: a checkpoint must not outlive those of its step."""
        for path in (self.path / name for name in LINE_FILES):
            if path.is_file():
                fsync(path)

    def _append(self, file: str, line: dict[str, Any]) -> None:
        if self.rank == 0:
            self.guard(now=False)
            path = self.path / file
            # Half a character, as in file names that are no text, stands as its escape.
            text = json.dumps(line, ensure_ascii=False).encode("utf-8", "backslashreplace")
            try:
                with self.lines, path.open("ab+") as lines:
                    # A line cut short by a kill must not spoil the next one.
                    torn = lines.tell() > 0 and (lines.seek(-1, os.SEEK_END), lines.read(1))[1] != b"\n"
                    lines.write(b"\n" * torn + text + b"\n")
            except OSError as error:  # a write that finds the disk full does not say which file it was for
                raise OSError(error.errno, error.strerror, str(path)) from error


def step_of(checkpoint: Path) -> int:
    """Step of a checkpoint's folder."""
    return int(checkpoint.name.removeprefix("step-"))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Lines of a ``.jsonl`` file; one cut short by a kill, or damaged, is left out."""
    lines = path.read_bytes().split(b"\n") if path.is_file() else []
    return [found for line in lines if (found := parse_line(line)) is not None]


def now() -> str:
    """Time in UTC, ISO 8601, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
