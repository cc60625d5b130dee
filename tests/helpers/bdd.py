"""Records of the Brain Download Datasets in miniature, written as their software writes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

EXPERIMENTS = {
    "Image-Blank": ("Blank", "Image"),
    "Left-Right_Arrows": ("Center", "Left", "Right"),
    "Visual_Q&A": ("YES", "NO"),
}


def write_record(
    file: Path, names: Sequence[str], codes: Sequence[int], *, rng: np.random.Generator, run: int = 255, effect: float = 8.0
) -> np.ndarray:
    """One record of ``len(codes)`` stimuli; returns its table: COUNTER, five channels, MARKERS, TICK, ContactQuality."""
    n_times = run * len(codes)
    table = np.empty((n_times, 9))
    table[:, 0] = (np.arange(n_times) + 83) % 128
    table[:, 1:6] = 4200 + rng.normal(0, 12, (n_times, 5))
    table[:, 6] = np.repeat(codes, run)
    table[:, 7] = np.arange(n_times) // run % 2
    table[:, 8] = 100.0
    phase = 2 * np.pi * np.arange(n_times) / 128
    for channel in range(5):  # each class swings at a rate of its own
        table[:, 1 + channel] += effect * np.sin((4 + 3 * table[:, 6]) * phase + channel)
    save(file, names, table)
    return table


def save(file: Path, names: Sequence[str], table: np.ndarray) -> None:
    """As ``numpy.savetxt`` of their software does it: a comma and a blank, and a comma inside MARKERS."""
    file.parent.mkdir(parents=True, exist_ok=True)
    quoted = ",".join(f"'{name}'" for name in names)
    header = f"COUNTER, AF3, T7, Pz, T8, AF4, MARKERS[{quoted}], TICK, ContactQuality"
    np.savetxt(file, table, delimiter=", ", header=header, comments="")


def write_layout(root: Path, *, records: int = 3, stimuli: int = 8, seed: int = 0) -> Path:
    """All four experiments."""
    rng = np.random.default_rng(seed)
    for experiment, names in EXPERIMENTS.items():
        for record in range(records):
            codes = rng.permutation(np.arange(stimuli) % len(names))
            write_record(root / experiment / f"Rec_{stimuli}x2s_{record:03d}.csv", names, codes, rng=rng)
    for state in ("Closed", "Open"):
        write_record(root / "Baseline" / f"{state}_20sx1_201227-103149.csv", ("Blank", "Image"), rng.integers(0, 2, stimuli), rng=rng)
    return root
