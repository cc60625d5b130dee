"""What a run folder, whatever was done to it, must say: that of an undisturbed run at the same step, and the same everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_prep.contract.errors import UserError
from data_prep.contract.files import read_json, sha256_file
from data_prep.contract.json_text import parse_line
from trainer.training.checkpoint import Checkpoint, check_files, read_checkpoint
from trainer.training.completed import Completed, read_completed
from trainer.training.run_folder import RunFolder, read_lines, step_of
from trainer.training.seal import MANIFEST
from trainer.training.verify import verify

MEASURED = ("samples_per_second", "data_wait_share", "memory_gib")
"""Metrics that are of the machine, not of the run."""
_TEMPORARY = ("*.partial", ".export.new", ".export.old", "checkpoints/.*", ".*.new")
_LEFT = " was left"


@dataclass(frozen=True, kw_only=True)
class Undisturbed:
    """A run to the end, with a checkpoint of every step."""

    states: dict[int, dict[str, Any]]
    """Counters of each step's checkpoint."""
    exports: dict[int, str]
    """SHA-256 of the weights that were exported, by the step that was the best so far."""
    metrics: list[dict[str, Any]]
    items: list[dict[str, Any]]
    completed: Completed

    @classmethod
    def of(cls, run: Path) -> Undisturbed:
        """Read a run that is done."""
        completed = read_completed(run)
        assert completed is not None
        checkpoints = {step_of(path): read_checkpoint(path) for path in RunFolder(run).checkpoints.glob("step-*")}
        return cls(
            states={step: _counters(found) for step, found in checkpoints.items()},
            exports={step: found.exported["model.safetensors"].sha256 for step, found in checkpoints.items() if found.exported},
            metrics=metrics_of(run),
            items=read_lines(run / "items.jsonl"),
            completed=completed,
        )


def metrics_of(run: Path) -> list[dict[str, Any]]:
    """Lines of ``metrics.jsonl`` without what is of the machine."""
    return [{name: value for name, value in line.items() if name not in MEASURED} for line in read_lines(run / "metrics.jsonl")]


def whole_steps(run: Path) -> list[int]:
    """Steps of the checkpoints that are sealed."""
    return sorted(step_of(path.parent) for path in RunFolder(run).checkpoints.glob(f"step-*/{MANIFEST}"))


def at_any_time(run: Path) -> Iterator[str]:
    """What is wrong in a folder whose run may have been killed just now: what is read by others is whole."""
    folder = RunFolder(run)
    for name in ("latest", "best"):
        pointed = folder.pointed(name)
        if pointed is not None and not (pointed / MANIFEST).is_file():
            yield f"{name} names {pointed.name}, which is not whole"
    yield from (f"{MANIFEST}: {fault}" for step in whole_steps(run) for fault in _broken(folder.checkpoint(step)))
    if folder.export.is_dir():
        yield from (fault for fault in verify(folder.export))
    if folder.completed.is_file():
        yield from (f"completed: {fault}" for fault in verify(run))


def at_step(run: Path, undisturbed: Undisturbed, step: int) -> Iterator[str]:
    """What is wrong in a folder whose run is at ``step``, where it has saved."""
    folder = RunFolder(run)
    yield from at_any_time(run)
    latest, best = folder.pointed("latest"), folder.pointed("best")
    yield from _differ("latest", latest and step_of(latest), step or None)
    expected = undisturbed.states[step]["best_step"] if step else 0
    yield from _differ("best", best and step_of(best), expected or None)
    exported = read_json(folder.export / "config.json")["step"] if folder.export.is_dir() else None
    yield from _differ("export/", exported, expected or None)
    if exported in undisturbed.exports:
        yield from _differ("weights in export/", sha256_file(folder.export / "model.safetensors"), undisturbed.exports[exported])
    yield from _checkpoints(folder, undisturbed, step)
    yield from _lines(run, undisturbed, step)
    yield from (f"{path.relative_to(run)}{_LEFT}" for pattern in _TEMPORARY for path in run.glob(pattern))


def at_the_end(run: Path, undisturbed: Undisturbed, *, killed: bool) -> Iterator[str]:
    """What is wrong in a folder whose run is done; one that was ``killed`` after that may have left what the next start takes away."""
    completed = read_completed(run)
    if completed is None:
        yield "no completed.json"
        return
    facts, expected = asdict(completed), asdict(undisturbed.completed)
    yield from _differ("completed.json", facts | {"tracking_run_id": ""}, expected | {"tracking_run_id": ""})
    yield from (fault for fault in at_step(run, undisturbed, completed.step) if not (killed and fault.endswith(_LEFT)))
    last = read_lines(run / "events.jsonl")[-1]
    yield from _differ("the last event", (last["event"], last.get("step"), last.get("reason")), ("end", completed.step, completed.reason))


def _broken(checkpoint: Path) -> Iterator[str]:
    try:
        check_files(read_checkpoint(checkpoint))
    except (UserError, OSError) as error:
        yield str(error)


def _checkpoints(folder: RunFolder, undisturbed: Undisturbed, step: int) -> Iterator[str]:
    for each in whole_steps(folder.path):
        found = read_checkpoint(folder.checkpoint(each))
        yield from _differ(f"state at {each}", _counters(found), undisturbed.states[each])
        exported = found.exported["model.safetensors"].sha256 if found.exported else None
        yield from _differ(f"weights exported at {each}", exported, undisturbed.exports.get(each))
        if each > step:
            yield f"a checkpoint of step {each} after {step}"
        if found.state.best_step and not (folder.checkpoint(found.state.best_step) / MANIFEST).is_file():
            yield f"at step {each} the best is {found.state.best_step}, whose checkpoint is gone"


def _lines(run: Path, undisturbed: Undisturbed, step: int) -> Iterator[str]:
    yield from _differ("metrics.jsonl", metrics_of(run), [line for line in undisturbed.metrics if line["step"] <= step])
    yield from _differ("items.jsonl", read_lines(run / "items.jsonl"), [line for line in undisturbed.items if line["step"] <= step])
    for file in run.glob("*.jsonl"):
        *lines, rest = file.read_bytes().split(b"\n")  # at once: a callback's thread may write meanwhile
        broken = [line for line in lines if parse_line(line) is None]
        yield from _differ(f"{file.name}, what is no whole line", [*broken, rest], [b""])
    events = read_lines(run / "events.jsonl")
    saved = [(event["step"], event["best"]) for event in events if event["event"] == "checkpoint"]
    yield from _differ(
        "events of checkpoints", saved, [(each, each in undisturbed.exports) for each in sorted({each for each, _ in saved})]
    )
    elsewhere = max((event["resumed_at"] for event in events if event.get("elsewhere")), default=0)
    if gone := {each for each in whole_steps(run) if each > elsewhere} - {each for each, _ in saved}:
        yield f"no event of the checkpoints {gone}"
    if late := [event for event in events if event["event"] in ("checkpoint", "end") and event["step"] > step]:
        yield f"at step {step} there are {late}"
    yield from (f"a fault: {event}" for event in events if event["event"] == "fault")


def _counters(found: Checkpoint) -> dict[str, Any]:
    return {**asdict(found.state), "tracking_run_id": ""}


def _differ(what: str, found: Any, expected: Any) -> Iterator[str]:
    if found != expected:
        yield f"{what}: {found}, expected {expected}"
