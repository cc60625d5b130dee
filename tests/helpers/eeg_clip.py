"""EEG-CLIP's folder in miniature: bare arrays by subject, images by concept, nothing that says which belongs to which."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def write_layout(
    root: Path,
    *,
    subjects: Sequence[str] = ("01", "02"),
    concepts: int = 6,
    images: int = 3,
    repetitions: int = 2,
    n_chans: int = 17,
    n_times: int = 100,
    part: str = "training",
    seed: int = 0,
) -> np.ndarray:
    """``root/eeg/sub-XX/preprocessed_eeg_PART.npy`` and ``root/images``; returns the first subject's array (rows, R, C, T).

    The mean of row i is made of image i, so that a test can tell whose row it is.
    """
    rng = np.random.default_rng(seed)
    pattern = rng.normal(0, 1, (concepts * images, n_chans, n_times))
    first = None
    for label in subjects:
        eeg = (0.7 * pattern[:, None] + 0.7 * rng.normal(0, 1, (concepts * images, repetitions, n_chans, n_times))).astype(np.float32)
        first = eeg if first is None else first
        (root / "eeg" / f"sub-{label}").mkdir(parents=True, exist_ok=True)
        np.save(root / "eeg" / f"sub-{label}" / f"preprocessed_eeg_{part}.npy", eeg)
    for concept in range(concepts):
        folder = root / "images" / f"{part}_images" / f"{concept + 1:05d}_thing{concept:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        for image in range(images):
            pixels = rng.integers(0, 256, (24, 24, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"thing{concept:02d}_{image + 1:02d}s.jpg")
    assert first is not None
    return first
