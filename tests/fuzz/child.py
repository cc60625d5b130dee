"""Inputs of some parsers in a process of their own: ``python -m tests.fuzz.child NAME,NAME FOLDER SEED SECONDS``; a line of JSON each."""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.fuzz import bids, continuous, models, recordings, targets, things
from tests.fuzz.harness import Target, bound_memory, fuzz

FOUND = Path(__file__).parent / "found"
ROOM_BYTES = 3 * 2**30


def all_targets(folder: Path) -> Iterator[Target]:
    """Every target; what needs a study has one in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    return itertools.chain(
        targets.files(),
        targets.study(folder),
        models.models(folder / "models"),
        recordings.recordings(folder / "recordings"),
        continuous.recordings(folder / "continuous"),
        bids.beside_a_recording(folder / "bids"),
        things.things(folder / "things"),
    )


def main(names: list[str], folder: Path, seed: int, seconds: float) -> None:
    """Fuzz the targets of those names, ``seconds`` each."""
    every = {target.name: target for target in all_targets(folder / "study")}
    bound_memory(ROOM_BYTES)
    for name in names:
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        found = fuzz(every[name], place, seed=seed, seconds=seconds, keep=FOUND)
        print(json.dumps({name: dataclasses.asdict(found)}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1].split(","), Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
