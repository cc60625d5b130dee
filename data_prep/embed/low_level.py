"""What an image looks like before anything is recognised in it: luminance, colour, Gabor energy, oriented gradients. No network.

They are baselines and controls: EEG that is explained by these is not yet explained by what was seen.

Shapes in names: BCHW images, SS pixels of the square, G cells a side, O orientations, F frequencies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from data_prep.embed.image_encoder import ImageEncoderConfig
from data_prep.embed.loaded import LoadedEncoder

ORIENTATIONS = 8
_LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)
"""Of linear light (Rec. 709)."""


@dataclass(frozen=True, kw_only=True)
class LowLevelConfig(ImageEncoderConfig):
    """Low-level features of images, by cells of a grid."""

    feature: Literal["luminance", "colour", "gabor", "gradients"] = "gabor"
    """``luminance``: mean and contrast; ``colour``: mean of linear red, green and blue; ``gabor``: energy of quadrature pairs at eight
    orientations and the ``frequencies``; ``gradients``: histograms of oriented gradients (Dalal & Triggs 2005, blocks of one cell)."""
    side: int = 128
    """The image's shorter side is brought to this and its middle cropped to a square."""
    cells: int = 8
    """Cells a side of the grid."""
    frequencies: tuple[float, ...] = (4.0, 8.0, 16.0, 32.0)
    """Of ``gabor``, in cycles an image."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (2 <= self.cells <= self.side <= 1024) or self.side % self.cells:
            raise ValueError(f"side is {self.side} and cells {self.cells}, expected at most 1024 pixels that cells divide")
        if not self.frequencies or not all(0 < f <= self.side / 4 for f in self.frequencies):
            raise ValueError(f"frequencies are {list(self.frequencies)}, expected cycles an image of at most a quarter of side")

    def known(self) -> dict[str, Any]:
        return self._says()

    def load(self, device: str | None = None) -> LoadedEncoder:
        def encode(images_BCHW: np.ndarray) -> list[np.ndarray]:
            return [np.stack([self._features(image) for image in images_BCHW])]

        return LoadedEncoder(transform=self._square, encode=encode, provenance=self._says(), words=(self._layer(),))

    def _says(self) -> dict[str, Any]:
        transform = f"RGB, shorter side {self.side} area-averaged, centre crop, linear light"
        return {"model": f"low-level {self._layer()}", "weights_sha256": None, "transform": transform}

    def _layer(self) -> str:
        more = f", {', '.join(f'{f:g}' for f in self.frequencies)} cycles an image" if self.feature == "gabor" else ""
        return f"{self.feature} in {self.cells} x {self.cells} cells{more}"

    def _square(self, image: Any) -> np.ndarray:
        """Linear light, float32 (3, side, side)."""
        from PIL import Image

        scale = self.side / min(image.size)
        size = tuple(max(self.side, round(length * scale)) for length in image.size)
        left, top = ((length - self.side) // 2 for length in size)
        small = image.resize(size, Image.Resampling.BOX).crop((left, top, left + self.side, top + self.side))
        value = np.asarray(small, np.float32) / 255.0
        linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
        return np.ascontiguousarray(linear.transpose(2, 0, 1), np.float32)

    def _features(self, image_CSS: np.ndarray) -> np.ndarray:
        if self.feature == "colour":
            return self._cells(image_CSS).reshape(-1) + 1e-6  # black has a direction, too
        luma_SS = np.tensordot(_LUMA, image_CSS, axes=1)
        if self.feature == "luminance":
            mean_GG = self._cells(luma_SS[None])
            variance_GG = np.maximum(self._cells(luma_SS[None] ** 2) - mean_GG**2, 0.0)
            return np.concatenate([mean_GG.reshape(-1), np.sqrt(variance_GG).reshape(-1)]) + 1e-6
        if self.feature == "gradients":
            return self._gradients(luma_SS)
        energy = np.abs(np.fft.ifft2(np.fft.fft2(luma_SS - luma_SS.mean())[None] * gabors(self.side, self.frequencies)))
        return np.log1p(1e3 * self._cells(energy.astype(np.float32))).reshape(-1) + 1e-6

    def _gradients(self, luma_SS: np.ndarray) -> np.ndarray:
        down_SS, right_SS = np.gradient(np.sqrt(luma_SS))
        strength_SS = np.hypot(down_SS, right_SS)
        place_SS = (np.arctan2(down_SS, right_SS) % np.pi) / np.pi * ORIENTATIONS
        lower_SS, share_SS = np.floor(place_SS).astype(int), place_SS % 1
        bins_O = np.arange(ORIENTATIONS)[:, None, None]
        votes = np.where(lower_SS % ORIENTATIONS == bins_O, 1 - share_SS, 0) + np.where(
            (lower_SS + 1) % ORIENTATIONS == bins_O, share_SS, 0
        )
        histograms_OGG = self._cells((votes * strength_SS).astype(np.float32))
        found: np.ndarray = histograms_OGG / np.sqrt((histograms_OGG**2).sum(0, keepdims=True) + 1e-4) + 1e-6
        return found.reshape(-1)

    def _cells(self, maps_KSS: np.ndarray) -> np.ndarray:
        """Means over the grid's cells: (K, G, G)."""
        width = self.side // self.cells
        found: np.ndarray = maps_KSS.reshape(-1, self.cells, width, self.cells, width).mean((2, 4))
        return found


def gabors(side: int, frequencies: tuple[float, ...]) -> np.ndarray:
    """Transfer functions of one-sided Gabor filters, whose output's magnitude is energy: (F * O, side, side), bandwidth an octave."""
    along = np.fft.fftfreq(side) * side
    down, right = np.meshgrid(along, along, indexing="ij")
    filters = []
    for frequency in frequencies:
        for number in range(ORIENTATIONS):
            angle = np.pi * number / ORIENTATIONS
            toward = right * np.cos(angle) + down * np.sin(angle)
            across = -right * np.sin(angle) + down * np.cos(angle)
            filters.append(np.exp(-(((toward - frequency) / (0.35 * frequency)) ** 2) / 2 - ((across / (0.35 * frequency)) ** 2) / 2))
    return np.stack(filters)
