"""Pictures that are equal or nearly so, however their files are named: by their pixels, then by two perceptual hashes and a thumbnail.

The difference hash compares neighbouring pixels of a 9 x 8 thumbnail; the other one takes the signs of the 8 x 8 lowest waves of a cosine
transform (Zauner 2010). Bits of unrelated pictures agree like coins: 64 of them differ in 32 +- 4 places. At most :data:`FAR_BITS` in both
hashes is seven standard deviations away; drawings on one background, whose bits are not independent, are told apart by the thumbnails'
correlation and by their colours. Saved again as JPEG, scaled or turned grey, a picture stays within all; mirrored or cropped it does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

FAR_BITS = 6
"""Bits of 64 in which each hash of two copies of a picture may differ."""
ALIKE = 0.985
"""Correlation of grey thumbnails of 32 x 32 from which two pictures are copies of one."""
SIDE = 32
CELLS = 8
FAR_COLOURS = 60
"""Largest difference of 255 that a cell of 8 x 8 of a copy has in red, green or blue; other things of one shape differ by more."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What is kept of a picture: little more than a kilobyte."""

    pixels: bytes
    """Hash of size and RGB values."""
    dhash: int
    phash: int
    thumbnail: np.ndarray
    """uint8 (32, 32), grey."""
    colours: np.ndarray
    """uint8 (8, 8, 3)."""


def look_at(image: Any) -> Picture:
    """Hashes of a ``PIL.Image.Image`` in RGB."""
    import hashlib

    from PIL import Image
    from scipy.fft import dctn

    rgb = image.convert("RGB")
    content = hashlib.blake2b(f"{rgb.size}".encode() + rgb.tobytes(), digest_size=16).digest()
    grey = rgb.convert("L")
    steps = np.asarray(grey.resize((9, 8), Image.Resampling.LANCZOS), np.int16)
    thumbnail = np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.LANCZOS), np.uint8)
    waves = dctn(thumbnail.astype(np.float64), norm="ortho")[:8, :8]
    above = waves > np.median(waves.ravel()[1:])  # the first is the mean brightness
    colours = np.asarray(rgb.resize((CELLS, CELLS), Image.Resampling.BOX), np.uint8)
    return Picture(pixels=content, dhash=_bits(steps[:, 1:] > steps[:, :-1]), phash=_bits(above), thumbnail=thumbnail, colours=colours)


def _bits(flags: np.ndarray) -> int:
    return int.from_bytes(np.packbits(flags.ravel()).tobytes(), "big")


@dataclass(frozen=True, kw_only=True)
class Alike:
    """Two pictures that are one."""

    first: int
    second: int
    """Numbers of the pictures, ``first < second``."""
    equal: bool
    """Every pixel is the same; else nearly."""


def alike_pictures(pictures: Sequence[Picture], *, block: int = 1024) -> list[Alike]:
    """Pairs of pictures that are equal or nearly so. A picture that comes more than twice is paired with the first of them."""
    first_of: dict[bytes, int] = {}
    found = [
        Alike(first=first, second=i, equal=True)
        for i, picture in enumerate(pictures)
        if (first := first_of.setdefault(picture.pixels, i)) != i
    ]
    # Copies are looked for among pictures that differ in their pixels, and that have any content to compare.
    own = [i for i in first_of.values() if np.ptp(pictures[i].thumbnail) >= 8]
    dhash, phash = (np.array([getattr(pictures[i], name) for i in own], np.uint64) for name in ("dhash", "phash"))
    for start in range(0, len(own), block):
        stop = min(start + block, len(own))
        near = (np.bitwise_count(dhash[start:stop, None] ^ dhash[None, start:]) <= FAR_BITS) & (
            np.bitwise_count(phash[start:stop, None] ^ phash[None, start:]) <= FAR_BITS
        )
        for row, column in np.argwhere(near).tolist():
            if column > row and _one(pictures[own[start + row]], pictures[own[start + column]]):
                found.append(Alike(first=own[start + row], second=own[start + column], equal=False))
    return sorted(found, key=lambda pair: (pair.first, pair.second))


def _one(one: Picture, other: Picture) -> bool:
    """Whether two pictures whose hashes agree are one."""
    if np.corrcoef(one.thumbnail.ravel(), other.thumbnail.ravel())[0, 1] < ALIKE:
        return False
    if any(np.ptp(each.colours, axis=-1).max() <= 8 for each in (one, other)):
        return True  # one of them is grey
    return bool(np.abs(one.colours.astype(np.int16) - other.colours).max() <= FAR_COLOURS)
