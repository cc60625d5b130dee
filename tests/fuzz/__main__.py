"""``python -m tests.fuzz [--seconds 600] [--seed 0] [--only NAME]``: every parser in a process of its own, two at a time.

A process has 3 GiB more than it begins with; one that ends is a fault, with the input that ended it. What was found is kept in
``tests/fuzz/found``.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.fuzz.child import FOUND, all_targets
from tests.fuzz.harness import WAIT_SECONDS, Found

AT_ONCE = 2
START_SECONDS = 30.0
"""Of the whole time, what loading libraries and writing a study takes."""


def main() -> int:
    """Exit status: 0 where nothing was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="for all parsers together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=None)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as home:
        with contextlib.redirect_stdout(io.StringIO()):
            names = [t.name for t in all_targets(Path(home) / "all") if asked.only in (None, t.name)]
        share = max(0.0, asked.seconds - START_SECONDS) / max(1.0, len(names) / AT_ONCE)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            halves = pool.map(lambda half: _all_of(names[half::AT_ONCE], Path(home) / str(half), asked.seed, share), range(AT_ONCE))
            results = {name: found for half in halves for name, found in half.items()}
    print(f"{'parser':<24} {'inputs':>9} {'refused':>9} {'faults':>7}")
    for name, found in sorted(results.items()):
        print(f"{name:<24} {found.inputs:>9,} {found.refused:>9,} {len(found.faults):>7,}")
        for fault in sorted(set(found.faults))[:5]:
            print(f"    {fault}")
    return int(any(found.faults for found in results.values()))


def _all_of(names: list[str], folder: Path, seed: int, seconds: float) -> dict[str, Found]:
    """What came of each target; where one ends its process, another process goes on with the rest."""
    results: dict[str, Found] = {}
    while left := [name for name in names if name not in results]:
        place = folder / str(len(results))
        place.mkdir(parents=True)
        command = [sys.executable, "-m", "tests.fuzz.child", ",".join(left), str(place), str(seed), str(seconds)]
        try:
            ended = subprocess.run(
                command, capture_output=True, text=True, timeout=(seconds + WAIT_SECONDS + 10) * len(left) + 240, check=False
            )
            said, fault = ended.stdout, f"the process ended with {ended.returncode}: {ended.stderr.strip()[-300:]}"
        except subprocess.TimeoutExpired as error:
            said, fault = (error.stdout or b"").decode(), "hangs"
        for line in said.splitlines():
            if line.startswith("{"):
                results |= {name: Found(**found) for name, found in json.loads(line).items()}
        if lost := next((name for name in left if name not in results), None):
            results[lost] = Found(inputs=1, faults=[fault])
            if (last := place / lost / "last").is_file():
                FOUND.mkdir(exist_ok=True)
                shutil.copyfile(last, FOUND / f"{lost}-ended-{seed}")
    return results


if __name__ == "__main__":
    sys.exit(main())
