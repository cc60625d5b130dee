"""How a run folder stands: what its files say, never an exit status."""

from __future__ import annotations

from pathlib import Path

from trainer.training.run_folder import RunFolder, read_lines, step_of


def stopped(run: Path) -> bool:
    """Whether the ranks saved where a signal stopped them."""
    last = [event for event in read_lines(run / "events.jsonl") if event.get("event") in ("start", "resume", "fault", "end")][-1:]
    return bool(last) and last[0]["event"] == "end" and last[0].get("reason") == "signal"


def stamp(file: Path) -> int | None:
    """What changes when a file is written; None: there is none."""
    return file.stat().st_mtime_ns if file.is_file() else None


def saved_step(run: Path) -> int:
    """Step of the newest checkpoint; -1: there is none."""
    latest = RunFolder(run).pointed("latest")
    return -1 if latest is None else step_of(latest)


def heartbeats(run: Path) -> dict[int, tuple[int, int]]:
    """(step, when in nanoseconds since 1970 by the file system) of each rank that has shown itself."""
    found = {}
    for file in (run / "heartbeat").glob("[0-9]*"):
        try:
            found[int(file.name)] = int(file.read_text(encoding="ascii").split()[1]), file.stat().st_mtime_ns
        except (OSError, ValueError, IndexError):  # it is just being written
            continue
    return found
