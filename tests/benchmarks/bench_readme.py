"""Every command that a newcomer finds on the pages, typed as they stand, in order, in a fresh clone: those too long for the tests, too.

The clone uses the environment that is installed here; a block that needs data runs where the Muse recordings are at hand. Each row is
the time of a block; it holds where the block ended well.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.report import main, row
from tests.distributed.launcher import free_port
from tests.helpers.readme import NEWCOMER, ROOT, Block, blocks, commands

LONGEST_SECONDS = 1800
MUSE = ("the Muse recordings", "the Muse recordings, laid out as above in data/")
"""Reasons of the blocks that the Muse recordings are enough for."""


def run(folder: Path) -> list[dict[str, Any]]:
    """Run the blocks of a newcomer's pages; a row each."""
    clone, data = folder / "clone", _shared_data()
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True, timeout=120)
    (clone / ".venv").symlink_to(Path(sys.prefix))
    for name in ("requirements.txt", "requirements.lock.txt", "requirements-dev.txt", "pyproject.toml"):
        os.utime(clone / name, (0, 0))  # older than the environment, which then counts as installed
    if data is not None:
        (clone / "data").symlink_to(data)
    rows = []
    for block in blocks(*NEWCOMER):
        if block.language not in ("sh", "python") or (block.mark == "data" and (data is None or block.value not in MUSE)):
            continue
        seconds, status = _run(block, clone, data)
        first = commands(block.text)[0] if block.language == "sh" else "in Python"
        rows.append(row(f"{block}: {first[:60]}", seconds, "s", holds=status == 0))
    return rows


def _run(block: Block, clone: Path, data: Path | None) -> tuple[float, int]:
    text = block.text.replace("5001", str(free_port()))
    argv = ["bash", "-em", "-c", text] if block.language == "sh" else [sys.executable, "-c", text]
    started = time.monotonic()
    done = subprocess.run(
        argv, cwd=clone, env=_environment(clone, data), text=True, capture_output=True, timeout=LONGEST_SECONDS, check=False
    )
    if done.returncode:
        print(f"{block}: exit status {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}", flush=True)
    return time.monotonic() - started, done.returncode


def _environment(clone: Path, data: Path | None) -> dict[str, str]:
    """That of a user who has activated the clone's environment."""
    path = os.pathsep.join([str(clone / ".venv" / "bin"), os.environ.get("PATH", os.defpath)])
    given = {"PATH": path, "PYTHONPATH": str(clone), "HF_HUB_OFFLINE": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
    return {**os.environ, **given, **({} if data is None else {"SHARED_DATA": str(data)})}


def _shared_data() -> Path | None:
    folder = Path(os.environ.get("SHARED_DATA") or ROOT / ".." / "shared" / "data").resolve()
    return folder if (folder / "muse_visual").is_dir() else None


if __name__ == "__main__":
    sys.exit(main(run))
