"""Killed at a random step and resumed on another number of ranks: the same items and the same losses as an undisturbed run.

Under the real launcher, for ZeRO 0 to 3: two ranks are killed, one continues and is stopped, two finish.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

from tests.benchmarks.report import main, row
from tests.distributed.training import by_step, last_step, make_study, saved_step, train, training, wait_for


def run(folder: Path) -> list[dict[str, Any]]:
    """Two rows a ZeRO stage."""
    make_study(folder)
    config = folder / "config.yaml"
    whole = folder / "whole"
    train(whole, ranks=2, config=config)
    rows = []
    for stage in (0, 1, 2, 3):
        disturbed, zero = folder / f"killed-{stage}", ("--zero.stage", str(stage))
        kill_at = random.randint(6, 20)
        with training(disturbed, *zero, ranks=2, config=config) as process:
            wait_for(lambda run=disturbed, step=kill_at: last_step(run) >= step and saved_step(run) > 0, process)
            os.killpg(process.pid, signal.SIGKILL)
        killed_at = last_step(disturbed)
        with training(disturbed, *zero, "--resume", "latest", ranks=1, config=config) as process:
            wait_for(lambda run=disturbed, step=killed_at + 6: last_step(run) >= step, process)
            process.send_signal(signal.SIGTERM)
            process.wait(60)
        stopped_at = last_step(disturbed)
        train(disturbed, *zero, "--resume", "latest", ranks=2, config=config)
        same = by_step(disturbed, "items.jsonl", "items") == by_step(whole, "items.jsonl", "items")
        expected, found = by_step(whole, "metrics.jsonl", "loss"), by_step(disturbed, "metrics.jsonl", "loss")
        complete = expected.keys() == found.keys() and (disturbed / "completed.json").is_file()
        worst = max(abs(found[s] - loss) / abs(loss) for s, loss in expected.items()) if complete else float(len(expected))
        name = f"resume: ZeRO {stage}, 2 -> 1 -> 2 ranks, killed at step {killed_at}, stopped at {stopped_at}"
        rows.append(row(f"{name}: largest error of a loss", worst, "relative", 1e-5, worst < 1e-5, "undisturbed run", 0.0))
        rows.append(row(f"resume: ZeRO {stage}: the same items at every step", float(same), "", 1.0, same))
    return rows


if __name__ == "__main__":
    sys.exit(main(run))
