"""Folders as ``generate`` writes them, with made-up captions: how often an arm is right is the argument."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

COLOURS = ["red", "orange", "green", "blue", "dark blue"]
SHAPES = ["star", "ring", "house", "arrow"]
PLACES = ["at the top", "at the top left", "at the bottom"]
ATTRIBUTES = {"colour": COLOURS, "shape": SHAPES, "place": PLACES}
PRIOR = "a red ring, at the bottom"
ARMS = {"eeg": 0.7, "noise": 0.2, "shuffled": 0.2, "caption-prior": None, "image": 0.95}


def caption(colour: str, shape: str, place: str) -> str:
    """The fullest caption of a picture."""
    return f"a {colour} {shape}, {place}"


def records(num_items: int = 60, arms: dict[str, float | None] | None = None, *, seed: int = 0, pictures: int = 0) -> list[dict[str, Any]]:
    """One record an arm and item. An arm tells each attribute rightly with its probability; None: always the prior caption."""
    rng, world = np.random.default_rng([seed, 1]), np.random.default_rng(pictures)
    truth = [(COLOURS[world.integers(5)], SHAPES[world.integers(4)], PLACES[world.integers(3)]) for _ in range(num_items)]
    found = []
    for arm, share in (ARMS if arms is None else arms).items():
        for item, true in enumerate(truth):
            said = [t if rng.random() < (share or 0) else str(rng.choice(v)) for t, v in zip(true, ATTRIBUTES.values(), strict=True)]
            found.append(
                {
                    "arm": arm,
                    "item": item,
                    "stimulus": f"images/{item:05d}.jpg",
                    "subject": "01",
                    "image": f"images/{item:05d}.jpg",
                    "expected": [caption(*true), f"a {true[0]} {true[1]}"],
                    "generated": PRIOR if share is None else caption(*said),
                    "concept_true": f"{true[0]}_{true[1]}",
                    "concept_predicted": f"{said[0]}_{said[1]}" if arm == "eeg" else None,
                    "prompt": "<eeg> Describe it.",
                    "seed": seed,
                }
            )
    return found


def write(folder: Path, rows: list[dict[str, Any]], **facts: Any) -> Path:
    """``generations.jsonl`` and ``generate.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "generations.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    facts = {"study": "made-up", "simulated": True, "split": "zero_shot", "part": "test", "fingerprint": "f00d"} | facts
    (folder / "generate.json").write_text(json.dumps(facts), encoding="utf-8")
    return folder
