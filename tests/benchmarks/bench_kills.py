"""A run killed 200 times, before any line and in the middle of writing, resumed, wound back and continued elsewhere: all agrees.

Other places at each call; the seed in the row's name plays them again (``python -m tests.distributed.kills --seed N``).
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.benchmarks.report import main, row
from tests.distributed.launcher import ROOT

KILLS = 200
_SAID = re.compile(r"seed \d+: (\d+) kills at (\d+) places .*, (\d+) disagreements, \d+ s")


def run(folder: Path) -> list[dict[str, Any]]:
    """Two rows."""
    seed = random.randrange(10**6)
    argv = [sys.executable, "-m", "tests.distributed.kills", "--seed", str(seed), "--kills", str(KILLS), "--keep", str(folder)]
    environment = os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    played = subprocess.run(argv, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, timeout=3600, check=False)
    print(played.stdout, end="")
    said = _SAID.fullmatch(played.stdout.strip().splitlines()[-1])
    if said is None:
        raise RuntimeError(f"seed {seed}: ended with status {played.returncode}")
    kills, places, disagreements = map(int, said.groups())
    name = f"kills: {kills} of short runs, seed {seed}"
    return [
        row(f"{name}: disagreements with an undisturbed run", disagreements, "", 0, disagreements == 0, "undisturbed run", 0),
        row(f"{name}: places", places, ""),
    ]


if __name__ == "__main__":
    sys.exit(main(run))
