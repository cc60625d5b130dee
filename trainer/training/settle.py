"""All in a run folder agrees with the checkpoint from which the run goes on, after any kill and any winding back.

The checkpoint that ``latest`` names is the only truth: its counters say which step was the best, and the checkpoint of that step has the
export. So what a kill left between two steps of writing, or what is of a future that was wound back, is made anew from it at the next
start. Every function here may be killed anywhere and called again.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from data_prep.contract.errors import UserError
from data_prep.contract.files import copy_durably, fsync, read_json, write_atomically
from data_prep.contract.json_text import parse_line
from trainer.training.checkpoint import publish
from trainer.training.run_folder import CHECKPOINT_NAME, LINE_FILES, RunFolder, read_lines, step_of
from trainer.training.seal import EXPORT, MANIFEST, best_of, discard, read_checkpoint
from trainer.training.state import TrainState

_OF_STEPS = ("checkpoint", "skipped", "end")
"""Events that say how far the run is. Others may name a step, too, such as that of the weights it began with, and stay."""


# ------------------------------------------------------------------------------------------------------- before the start


def best_is_lost(folder: RunFolder, state: TrainState) -> bool:
    """Whether a state has a best step whose export is neither in its checkpoint nor, as in older runs, in ``export/``."""
    best = best_of(folder, state)
    return best is not None and not _has_export(best) and exported_step(folder.export) != state.best_step


def forget_best(state: TrainState) -> None:
    """The best starts anew."""
    state.best_score, state.best_step, state.validations_since_best = None, 0, 0


def adopt(folder: RunFolder, source: RunFolder, found: Path, state: TrainState) -> None:
    """Bring a checkpoint of another run, the best at it, and the lines up to it: from here on the run goes on from its own."""
    folder.checkpoints.mkdir(parents=True, exist_ok=True)
    best = best_of(source, state)
    for path in dict.fromkeys((best, found)):
        if path is not None and (path / MANIFEST).is_file():
            partial, own = folder.checkpoints / f".{path.name}.partial", folder.checkpoints / path.name
            shutil.rmtree(partial, ignore_errors=True)
            copy_durably(path, partial)
            if own.exists():
                discard(own)
            os.rename(partial, own)
    if best is not None and not _has_export(best) and exported_step(source.export) == state.best_step:  # of an older run
        shutil.rmtree(folder.export, ignore_errors=True)
        copy_durably(source.export, folder.export)
    for name in LINE_FILES[1:]:
        if (source.path / name).is_file():
            kept, _ = _divided(source.path / name, state.step)
            write_atomically(folder.path / name, kept)


def tracking_run(folder: RunFolder, state: TrainState, *, num_steps: int, elsewhere: bool) -> str:
    """MLflow's run that continues; empty: a new one. A tracker cannot take points back: what was wound back, or will end before points that
    it has, gets a new run with the points up to here.

    Parameters
    ----------
    elsewhere
        The checkpoint is of another run folder, whose tracked run stays as it is.
    """
    known = ""
    since: list[dict[str, Any]] = []
    for event in read_lines(folder.path / "events.jsonl"):
        if event.get("event") == "tracking" and event.get("run_id"):
            known, since = str(event["run_id"]), []
        else:
            since.append(event)
    if not known:
        apart = elsewhere or any(event.get("elsewhere") for event in since)
        return "" if apart else state.tracking_run_id
    wound = any(_number(event, "wound_back_from") > state.step for event in since)
    beyond = any(_number(line, "step") > num_steps for line in read_lines(folder.path / "metrics.jsonl"))
    return "" if wound or beyond or tracking_begun(folder) else known


def _number(line: dict[str, Any], name: str) -> int:
    found = line.get(name)
    return found if isinstance(found, int) else 0


def tracked_before(folder: RunFolder) -> str:
    """MLflow's run that the folder had until now; empty: none."""
    found = [event["run_id"] for event in _tracking_events(folder) if event.get("run_id")]
    return str(found[-1]) if found else ""


def tracking_begun(folder: RunFolder) -> str:
    """The tag of an MLflow run that was asked for and may have been made, as a kill came before its id was known; empty: there is none."""
    found = _tracking_events(folder)
    return str(found[-1].get("start", "")) if found and not found[-1].get("run_id") else ""


def _tracking_events(folder: RunFolder) -> list[dict[str, Any]]:
    return [event for event in read_lines(folder.path / "events.jsonl") if event.get("event") == "tracking"]


# -------------------------------------------------------------------------------------------------------- after the start


def settle(folder: RunFolder, state: TrainState) -> None:
    """On rank 0, once nothing can refuse the start any more: make pointer, export, checkpoints and lines those of ``state``."""
    folder.guard()
    for left in folder.path.glob(".*.partial"):  # atomic writes that were killed
        left.unlink(missing_ok=True)
    best = best_of(folder, state)
    if best is None or not (best / MANIFEST).is_file():
        (folder.path / "best").unlink(missing_ok=True)
    elif folder.pointed("best") != best:
        folder.point("best", best)
    _settle_export(folder, state, best)
    if folder.checkpoints.is_dir():
        for path in folder.checkpoints.glob(".*.partial"):  # adopted by half
            shutil.rmtree(path, ignore_errors=True)  # one that was taken for dead may still write into its own
        for path in sorted(folder.checkpoints.iterdir(), reverse=True):  # a checkpoint before its best
            if CHECKPOINT_NAME.match(path.name) and step_of(path) > state.step and (path.is_dir() or path.is_symlink()):
                discard(path)  # before its lines go: what can be resumed has all of its own
    for name in LINE_FILES:
        _cut(folder, name, state.step)


def exported_step(export: Path) -> int | None:
    """Step of the weights in an export folder; None: there is none, or it does not say."""
    try:
        found = read_json(export / "config.json")
    except (UserError, OSError):
        return None
    step = found.get("step") if isinstance(found, dict) else None
    return step if isinstance(step, int) else None


def _settle_export(folder: RunFolder, state: TrainState, best: Path | None) -> None:
    there = exported_step(folder.export)
    if there is not None and there > state.step:
        kept = folder.undone / f"export-{there:08d}"
        folder.undone.mkdir(exist_ok=True)
        shutil.rmtree(kept, ignore_errors=True)
        os.rename(folder.export, kept)
    if best is not None and _has_export(best):
        sealed = read_checkpoint(best).exported
        if not all(file.is_that_of(folder.export / name) for name, file in sealed.items()):
            publish(folder, best)
    elif exported_step(folder.export) != state.best_step or best is None:
        shutil.rmtree(folder.export, ignore_errors=True)
    for name in (".export.new", ".export.old"):
        shutil.rmtree(folder.path / name, ignore_errors=True)


def _has_export(checkpoint: Path) -> bool:
    return (checkpoint / MANIFEST).is_file() and (checkpoint / EXPORT).is_dir() and bool(read_checkpoint(checkpoint).exported)


def _cut(folder: RunFolder, name: str, step: int) -> None:
    """Move lines of steps after ``step``, and what a kill left of a line, to ``undone/``."""
    path = folder.path / name
    if not path.is_file():
        return
    with folder.lines:
        kept, gone = _divided(path, step)
        if not gone:
            return
        folder.undone.mkdir(exist_ok=True)
        with (folder.undone / name).open("ab") as aside:
            aside.write(gone)
            aside.flush()
            os.fsync(aside.fileno())
        fsync(folder.undone)
        write_atomically(path, kept)


def _divided(path: Path, step: int) -> tuple[bytes, bytes]:
    kept: list[bytes] = []
    gone: list[bytes] = []
    for line in path.read_bytes().split(b"\n"):
        if line:
            (kept if _stays(line, step) else gone).append(line + b"\n")
    return b"".join(kept), b"".join(gone)


def _stays(line: bytes, step: int) -> bool:
    found = parse_line(line)
    if found is None:
        return False
    at = found.get("step", 0)
    return found.get("event", _OF_STEPS[0]) not in _OF_STEPS or not isinstance(at, int) or at <= step
