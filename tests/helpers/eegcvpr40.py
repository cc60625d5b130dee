"""EEGCVPR40 in miniature, as Thought2Text lays it out: ``.pth`` of trials and of splits, photographs, sketches, captions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

WNIDS = ("n02106662", "n02124075", "n02281787", "n02389026")


def content(
    *, subjects: int = 2, images_per_class: int = 6, classes: int = 3, seed: int = 0, dtype: torch.dtype = torch.float32, scale: float = 1.0
) -> dict[str, Any]:
    """The dict of ``eeg_55_95_std.pth``: every subject sees every image once, in blocks by class; lengths differ as in the real file."""
    rng = np.random.default_rng(seed)
    labels = list(WNIDS[:classes])
    images = [f"{labels[i % classes]}_{100 + i}" for i in range(classes * images_per_class)]
    patterns = rng.normal(0, 1, (classes, 128, 600))
    dataset = []
    for subject in range(1, subjects + 1):
        for image in sorted(range(len(images)), key=lambda i: i % classes):
            label = image % classes
            length = int(rng.integers(470, 560))
            eeg = 0.5 * patterns[label, :, :length] + rng.normal(0, 0.87, (128, length))
            dataset.append({"eeg": torch.tensor(scale * eeg).to(dtype), "image": image, "label": label, "subject": subject})
    return {"dataset": dataset, "labels": labels, "images": images}


def splits_by_image(whole: dict[str, Any]) -> dict[str, Any]:
    """As ``block_splits_by_image_all.pth``: the images of every class divided, all subjects together."""
    classes = len(whole["labels"])
    rank = [trial["image"] // classes for trial in whole["dataset"]]
    most = max(rank)
    parts = {
        "train": [i for i, r in enumerate(rank) if r < most - 1],
        "val": [i for i, r in enumerate(rank) if r == most - 1],
        "test": [i for i, r in enumerate(rank) if r == most],
    }
    return {"splits": [parts]}


def write_layout(root: Path, whole: dict[str, Any] | None = None, *, sketches: bool = True, captions: bool = True) -> dict[str, Any]:
    """``root/block/*.pth`` and ``root/images/WNID/...``; returns what was written."""
    whole = whole or content()
    (root / "block").mkdir(parents=True, exist_ok=True)
    torch.save(whole, root / "block/eeg_55_95_std.pth")
    torch.save(splits_by_image(whole), root / "block/block_splits_by_image_all.pth")
    rng = np.random.default_rng(1)
    for number, name in enumerate(whole["images"]):
        folder = root / "images" / name.split("_")[0]
        folder.mkdir(parents=True, exist_ok=True)
        tint = 60 * whole["labels"].index(name.split("_")[0])
        pixels = rng.integers(0, 60, (32, 32, 3)) + tint
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{name}.JPEG")
        if sketches:
            Image.fromarray((255 * (pixels[..., 0] > 30 + tint)).astype(np.uint8)).save(folder / f"{name}_sketch.JPEG")
        if captions:
            (folder / f"{name}_caption.txt").write_text(f"<s> A picture of thing {number}. </s>\nsecond line\n")
    return whole
