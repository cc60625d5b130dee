"""One input after another through a parser: what is not a value or one sentence that names the file is a fault."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import resource
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.contract.errors import UserError
from data_prep.contract.memory import peak_memory_bytes
from tests.fuzz.mutate import mutated

SECONDS = 5.0
"""Most that one input may take of a core."""
WAIT_SECONDS = 30.0
"""Most that one input may take at all, on a busy machine."""
MEMORY_BYTES = 2**30
"""Most that it may add to the process."""
_STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.spawn", "pty.spawn", "socket.connect")
_watching = False
_started: list[str] = []


@dataclass(frozen=True, kw_only=True)
class Target:
    """A parser: ``read`` is given a file that holds a mutation of one of ``seeds``."""

    name: str
    suffix: str
    seeds: Sequence[bytes]
    read: Callable[[Path], Any]
    names_fields: bool = False
    """Whether a refusal may name a field instead of a file, as those of configs do."""
    refuses: bool = True
    """Whether there is anything that it refuses: lines that are damaged are passed over."""
    inputs: int = 40
    """In the short form."""


@dataclass(kw_only=True)
class Found:
    """What came of a target's inputs."""

    inputs: int = 0
    refused: int = 0
    faults: list[str] = field(default_factory=list)


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching and event in _STARTS:
        _started.append(f"{event} {arguments!r}"[:200])
        raise PermissionError("no program is started while files are read")


sys.addaudithook(_audit)


@contextlib.contextmanager
def _watched() -> Iterator[None]:
    global _watching
    _started.clear()
    _watching = True

    def late(*_: object) -> None:
        raise TimeoutError("late")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, WAIT_SECONDS)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        _watching = False


@contextlib.contextmanager
def allowed() -> Iterator[None]:
    """Context in which a program may be started after all: a reader's own child."""
    global _watching
    before, _watching = _watching, False
    try:
        yield
    finally:
        _watching = before


def tried(target: Target, content: bytes, folder: Path) -> str | None:
    """Put one input through ``target``: None for a value, ``refused`` for a proper refusal, else what is wrong."""
    path = folder / f"input{target.suffix}"
    path.write_bytes(content)
    peak = peak_memory_bytes()
    start = time.process_time()
    said = None
    try:
        with _watched():
            target.read(path)
    except UserError as error:
        said = "refused"
        named = target.names_fields or path.name in str(error) or str(folder) in str(error)  # this file, or one beside it
        if not named or "\n" in str(error):
            said = f"unnamed: {str(error)[:300]!r}"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        said = f"{type(error).__name__}: {str(error)[:300]!r}"
    if _started:
        return f"started a program: {_started[0]}"
    if (took := time.process_time() - start) > SECONDS:
        return f"took {took:.1f} s"
    if peak_memory_bytes() - peak > MEMORY_BYTES:
        return "took more than 1 GiB of memory"
    return said


def fuzz(
    target: Target, folder: Path, *, seed: int, inputs: int | None = None, seconds: float | None = None, keep: Path | None = None
) -> Found:
    """``inputs`` mutations, or as many as come in ``seconds``; faults are kept under ``keep`` as TARGET-HASH."""
    random = np.random.default_rng([seed, int.from_bytes(hashlib.sha256(target.name.encode()).digest()[:4], "little")])
    found, end = Found(), time.monotonic() + (seconds or 1e9)
    kinds: set[str] = set()
    while found.inputs < (inputs or 10**12) and time.monotonic() < end:
        content = mutated(target.seeds, random)
        (folder / "last").write_bytes(content)  # what a crash leaves
        said = tried(target, content, folder)
        found.inputs += 1
        found.refused += said == "refused"
        if said not in (None, "refused"):
            found.faults.append(str(said))
            if keep is not None and (kind := str(said)[:60]) not in kinds:
                kinds.add(kind)
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{target.name}-{hashlib.sha256(content).hexdigest()[:12]}").write_bytes(content)
    return found


def bound_memory(num_bytes: int) -> None:
    """From here on the process may not have more address space than it has and ``num_bytes``."""
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    limit = pages * os.sysconf("SC_PAGE_SIZE") + num_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
