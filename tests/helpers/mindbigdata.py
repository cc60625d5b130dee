"""MindBigData's two formats in miniature, as their author describes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

CHANNELS = {
    "MW": ("FP1",),
    "EP": ("AF3", "F7", "F3", "FC5", "T7", "P7", "O1", "O2", "P8", "T8", "FC6", "F4", "F8", "AF4"),
    "MU": ("TP9", "FP1", "FP2", "TP10"),
    "IN": ("AF3", "AF4", "T7", "T8", "PZ"),
}
LENGTH = {"MW": 952, "EP": 256, "MU": 476, "IN": 256}


def values(device: str, length: int, rng: np.random.Generator) -> str:
    """Values of one channel: whole numbers of MindWave and Muse, decimals around 4,200 of Emotiv's."""
    if device in ("MW", "MU"):
        return ",".join(str(int(each)) for each in rng.normal(500 if device == "MU" else 20, 20, length))
    return ",".join(f"{each:.6f}" for each in rng.normal(4200, 15, length))


def event_lines(device: str, event: int, code: int, *, first_id: int, rng: np.random.Generator, length: int | None = None) -> list[str]:
    """The lines of one event."""
    size = length or LENGTH[device]
    return [
        f"{first_id + i}\t{event}\t{device}\t{channel}\t{code}\t{size}\t{values(device, size, rng)}"
        for i, channel in enumerate(CHANNELS[device])
    ]


def write_mnist(
    file: Path,
    device: str = "IN",
    *,
    events: int = 40,
    lengths: Callable[[int], int] | None = None,
    codes: Sequence[int] = tuple(range(10)),
    seed: int = 0,
    extra: Sequence[str] = (),
) -> list[str]:
    """A device's text file; returns its lines."""
    rng = np.random.default_rng(seed)
    lines: list[str] = []
    for event in range(events):
        length = lengths(event) if lengths else None
        lines += event_lines(device, 100 + event, codes[event % len(codes)], first_id=1000 + len(lines), rng=rng, length=length)
    lines += extra
    file.write_text("\n".join(lines) + "\n")
    return lines


def write_imagenet(root: Path, *, sessions: int = 4, images: int = 5, length: int = 384, seed: int = 0) -> list[Path]:
    """``root/MindBigData_Imagenet_Insight_SYNSET_IMAGE_1_SESSION.csv``, five images a session."""
    rng = np.random.default_rng(seed)
    root.mkdir(parents=True, exist_ok=True)
    written = []
    for session in range(20, 20 + sessions):
        for image in range(images):
            synset = ("n09835506", "n02106662", "n00007846")[image % 3]
            file = root / f"MindBigData_Imagenet_Insight_{synset}_{100 * session + image}_1_{session}.csv"
            rows = [
                f"{name}," + ",".join(f"{each:.11f}" for each in rng.normal(4200, 15, length)) for name in ("AF3", "AF4", "T7", "T8", "Pz")
            ]
            file.write_text("\n".join(rows) + "\n")
            written.append(file)
    return written
