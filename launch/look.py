"""``python -m launch status|stop|logs RUN``: look at a run that is at work, or was, from any host that sees its folder; and stop it."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from data_prep.contract.errors import CommandError
from data_prep.contract.terminal import Terminal
from launch.outcome import heartbeats, saved_step, stopped
from launch.run_state import ask_to_stop, folder_of, read_status
from trainer.training.owner import Claim, is_alive, newest_claim
from trainer.training.run_folder import RunFolder, read_lines

_TOLD = ("restart", "fault", "resume", "start", "end")
_LAST_EVENTS = 5


@dataclass(frozen=True, kw_only=True)
class StatusConfig:
    """Which run."""

    run: str
    """Run folder."""


@dataclass(frozen=True, kw_only=True)
class StopConfig:
    """Which run, and how long to wait."""

    run: str
    """Run folder."""
    wait_seconds: float = 180.0
    """Longest wait for the end, after which the request stands all the same."""


@dataclass(frozen=True, kw_only=True)
class LogsConfig:
    """Which lines."""

    run: str
    """Run folder."""
    rank: int | None = None
    """Of this rank alone; null: of all, and of the launcher."""
    lines: int = 20
    """Last lines of each file."""


def status(config: StatusConfig) -> None:
    """Print how a run stands, a fact a line."""
    run = _run(config.run)
    terminal = Terminal(soft_wrap=True)
    for what, found in facts(run, supervisor=_alive(folder_of(run)), owner=_alive(run), now=time.time()):
        terminal.print(f"{what:<12}{found}")


def facts(run: Path, *, supervisor: Claim | None, owner: Claim | None, now: float) -> list[tuple[str, str]]:
    """(what, found) rows.

    Parameters
    ----------
    supervisor, owner
        Who starts its ranks, and who writes into it; None: nobody.
    now
        Seconds since 1970.
    """
    folder = RunFolder(run)
    known = read_status(run) if supervisor else {}
    phase = f"{known.get('phase', 'starting')}, by {supervisor}" if supervisor else f"training, by {owner}, without `launch run`"
    if not supervisor and not owner:
        phase = "completed" if folder.completed.is_file() else "stopped by a signal, and saved" if stopped(run) else "not running"
    rows = [("state", phase)]
    if known:
        on = ", ".join(known.get("running_on", [])) or "no host yet"
        rows.append(("ranks", f"{known.get('ranks', 0)} on {on}"))
        rows.append(("restarts", f"{known.get('restarts', 0)} in a row of {known.get('max_restarts', 0)} without a new checkpoint"))
        rows += [("silent", f"{host}: {why}") for host, why in known.get("silent", {}).items()]
    beats = heartbeats(run)
    if owner and beats:
        living = {rank: beat for rank, beat in beats.items() if rank < known.get("ranks", len(beats))}
        rank, (_, at) = min(living.items(), key=lambda beat: beat[1][1])
        step = max(step for step, _ in living.values())
        rows.append(("step", f"{step}; the last to be seen was rank {rank}, {max(0.0, now - at / 1e9):.0f} seconds ago"))
    saved = saved_step(run)
    rows.append(("checkpoint", "none" if saved < 0 else f"step {saved}"))
    told = [event for event in read_lines(run / "events.jsonl") if event.get("event") in _TOLD]
    return rows + [("event", _sentence(event)) for event in told[-_LAST_EVENTS:]]


def stop(config: StopConfig) -> None:
    """Ask for a checkpoint and an end on every host, and wait for it.

    Raises
    ------
    CommandError
        Nobody supervises the run; or it did not end in time.
    """
    run = _run(config.run)
    supervisor = _alive(folder_of(run))
    if supervisor is None:
        owner = _alive(run)
        what = f"it is trained by {owner}, not by `launch run`: send that process SIGTERM" if owner else "nothing trains it"
        raise CommandError(f"run: {run}: {what}")
    ask_to_stop(run)
    end = time.monotonic() + config.wait_seconds
    while _same(newest_claim(folder_of(run)), supervisor):
        if time.monotonic() > end:
            raise CommandError(f"run: {run} still runs after {config.wait_seconds:g} seconds, by {supervisor}: it has been asked to stop")
        time.sleep(0.2)
    ended = "completed" if RunFolder(run).completed.is_file() else "stopped"
    saved = saved_step(run)
    at = f"its newest checkpoint is step {saved}" if saved >= 0 else "it has no checkpoint"
    Terminal(soft_wrap=True).print(f"{run}: {ended}; {at}")


def logs(config: LogsConfig) -> None:
    """Print the last lines of what was said on each rank.

    Raises
    ------
    CommandError
        There are no logs.
    """
    folder = RunFolder(_run(config.run)).logs
    files = sorted(folder.glob("*.log"), key=lambda file: (_rank_of(file), file.name))
    chosen = [file for file in files if config.rank in (None, _rank_of(file))]
    if not chosen:
        raise CommandError(f"{folder}: no logs{'' if config.rank is None else f' of rank {config.rank}'}; it has {len(files)} files")
    terminal = Terminal(soft_wrap=True)
    for file in chosen:
        terminal.print(f"==> {file.name} <==")
        with file.open(encoding="utf-8", errors="backslashreplace") as lines:
            for line in deque(lines, config.lines):
                terminal.print(line.rstrip("\n"))


def _run(name: str) -> Path:
    run = Path(name)
    if not RunFolder(run).holds_a_run() and not folder_of(run).is_dir():
        raise CommandError(f"run: {run} holds no run, expected the folder of one")
    return run


def _alive(folder: Path) -> Claim | None:
    claim = newest_claim(folder)
    return claim if claim is not None and is_alive(folder, claim) else None


def _same(one: Claim | None, other: Claim) -> bool:
    return one is not None and one.token == other.token and not one.left


def _rank_of(file: Path) -> int:
    number = file.stem.rpartition("rank-")[2]
    return int(number) if "rank-" in file.stem and number.isdecimal() else -1


def _sentence(event: dict[str, Any]) -> str:
    more = {name: value for name, value in event.items() if name not in ("time", "event", "code") and value not in (None, "", False)}
    when = str(event.get("time", ""))[:19].replace("T", " ") or datetime.now(UTC).isoformat()
    said = ", ".join(f"{name} {value}" for name, value in more.items())
    return f"{when} {event['event']}{': ' if said else ''}{said}"
