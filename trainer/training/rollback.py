"""Going back to the last whole checkpoint when too many steps came to nothing, and what is written down when that does not help.

Weights, moments, statistics and counters are the checkpoint's again; the stream of items goes on from where it was, so that what led to the
trouble does not come again before the next data pass.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from data_prep.contract.errors import CommandError
from data_prep.contract.files import write_json
from trainer.distributed.world import World
from trainer.training.resume import newest_whole
from trainer.training.run_folder import RunFolder, read_lines
from trainer.training.seal import read_checkpoint
from trainer.training.settle import settle
from trainer.training.state import TrainState

REPORT = "not-finite.json"
_LINES = 50
"""Lines of metrics that a report ends with."""


def last_whole(folder: RunFolder, world: World) -> str:
    """On rank 0: the checkpoint to go back to; empty: there is none that this many ranks can load as it is."""
    latest = folder.pointed("latest")
    if latest is None or not latest.is_dir():
        return ""
    try:
        found, _ = newest_whole(folder, latest)
    except CommandError:
        return ""
    seal = read_checkpoint(found)
    return str(found) if seal.zero_stage == 0 or seal.world_size == world.size else ""


def state_after(saved: TrainState, now: TrainState) -> TrainState:
    """Counters of a run that was at ``now`` and goes on from a checkpoint with ``saved``."""
    return replace(
        saved,
        samples_seen=now.samples_seen,
        rollbacks=now.rollbacks + 1,
        forgiven_steps=saved.skipped_steps - saved.overflow_steps,
        tracking_run_id=now.tracking_run_id,
    )


def wind_back(folder: RunFolder, to: Path, state: TrainState, *, step: int) -> None:
    """On rank 0: make the run folder agree with ``state``, that of the checkpoint ``to``; it was at ``step``."""
    folder.point("latest", to)
    settle(folder, state)
    folder.event("rolled_back", step=step, to=state.step, checkpoint=str(to), samples_seen=state.samples_seen, rollbacks=state.rollbacks)


def write_report(folder: RunFolder, state: TrainState, facts: dict[str, Any]) -> Path:
    """On rank 0: ``reports/not-finite.json`` with every step that was skipped or wound back, and the metrics before the end."""
    events = [line for path in (folder.undone, folder.path) for line in read_lines(path / "events.jsonl")]
    metrics = [line for path in (folder.undone, folder.path) for line in read_lines(path / "metrics.jsonl")]
    path = folder.path / "reports" / REPORT
    path.parent.mkdir(exist_ok=True)
    kept = {kind: [line for line in events if line.get("event") == kind] for kind in ("skipped", "rolled_back")}
    write_json(path, {"step": state.step, "samples_seen": state.samples_seen, **facts, **kept, "metrics": metrics[-_LINES:]})
    return path
