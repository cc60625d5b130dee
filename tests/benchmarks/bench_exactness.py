"""Two ranks under ZeRO 0-3 against one process on the joined batch; worst relative errors in float32."""

from __future__ import annotations

import json
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
    return rows


if __name__ == "__main__":
    sys.exit(main(run))
