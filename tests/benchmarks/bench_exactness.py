"""Two ranks under ZeRO 0-3, in one forward and in several, against one process on the joined batch: worst relative errors in float32.
And what a large global batch takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.benchmarks.report import main, row
from tests.distributed.launcher import launch

LIMIT = 1e-5


def run(folder: Path) -> list[dict[str, Any]]:
    """One launch; a row a ZeRO stage and quantity, and the count of forbidden negatives."""
    output = folder / "exactness.json"
    done = launch("tests.distributed.exactness_worker", [str(output)], ranks=2, timeout_seconds=300)
    if done.returncode:
        raise RuntimeError(f"the exactness worker failed: {done.stdout[-2000:]}")
    errors = json.loads(output.read_text())
    rows = []
    for stage in ("0", "1", "2", "3"):
        for quantity, words in (("loss", "loss"), ("gradient", "worst gradient"), ("running_statistics", "running statistics")):
            worst = max(found[quantity] for found in errors[stage].values())
            name = f"2 ranks, ZeRO-{stage}: {words} against one process"
            rows.append(row(name, worst, "relative error", target=LIMIT, holds=worst < LIMIT))
    forbidden = errors["forbidden_negatives"]
    rows.append(row("rows of the same stimulus used as negatives", forbidden, "pairs", target=0, holds=forbidden == 0))
    return [*rows, *accumulated(folder), large_batch()]


def accumulated(folder: Path) -> list[dict[str, Any]]:
    """One launch; a row a quantity, the worst of all ZeRO stages and numbers of forwards."""
    output = folder / "accumulation.json"
    done = launch("tests.distributed.accumulation_worker", [str(output)], ranks=2, timeout_seconds=300)
    if done.returncode:
        raise RuntimeError(f"the accumulation worker failed: {done.stdout[-2000:]}")
    errors = json.loads(output.read_text())["errors"].values()
    rows = []
    for quantity, words in (("loss", "loss"), ("gradient", "worst gradient"), ("running_statistics", "running statistics")):
        worst = max(found[quantity] for found in errors)
        name = f"2 ranks, ZeRO-0 to 3, 2 and 4 forwards each: {words} against one process"
        rows.append(row(name, worst, "relative error", target=LIMIT, holds=worst < LIMIT))
    return rows


def large_batch() -> dict[str, Any]:
    """Of one rank of 64."""
    command = [sys.executable, "-m", "tests.benchmarks.large_batch", "65536", "1024", "1024"]
    peak = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) / 1e9
    name = "InfoNCE of 1,024 rows among a global batch of 65,536 at 1,024 dimensions: memory of embeddings, loss and gradients"
    return row(name, peak, "GB", target=2.0, holds=peak < 2)


if __name__ == "__main__":
    sys.exit(main(run))
