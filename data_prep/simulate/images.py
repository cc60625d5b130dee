"""Rendered pictures whose attributes make their concept and captions.

A concept is a combination of shape, colour, fill and background; inside a concept the size, place, rotation and hue vary.
Everything is drawn with numpy and Pillow from one seed, so the same seed gives the same pixels.

Shapes in names: S image side in pixels.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from data_prep.contract.errors import UserError

COLOURS = {  # hue, saturation, value
    "red": (0.0, 0.9, 0.85),
    "orange": (0.075, 0.95, 0.95),
    "yellow": (0.145, 0.9, 0.95),
    "green": (0.36, 0.85, 0.6),
    "cyan": (0.5, 0.75, 0.85),
    "blue": (0.62, 0.85, 0.85),
    "purple": (0.77, 0.7, 0.7),
    "pink": (0.92, 0.45, 0.95),
    "brown": (0.065, 0.75, 0.42),
    "white": (0.0, 0.0, 0.97),
}
FILLS = {"plain": "", "striped": "striped ", "dotted": "dotted ", "checked": "checked "}
BACKGROUNDS = {
    "paper": "on squared paper",
    "night": "in a starry night",
    "sand": "on sand",
    "meadow": "on a meadow",
    "sky": "in the sky",
    "sunset": "before a sunset",
    "bricks": "on a brick wall",
    "planks": "on wooden planks",
    "water": "on water",
    "snow": "in the snow",
}
SIZES = ("small", "medium-sized", "large")
PLACES = (("top left", "top", "top right"), ("left", "centre", "right"), ("bottom left", "bottom", "bottom right"))


def attributes() -> dict[str, list[str]]:
    """The phrases by which captions tell each attribute, for whoever scores a generated caption (``attributes.json``).

    A phrase counts where it stands between word boundaries, and the longest phrase of an attribute wins: "at the top left"
    says neither "at the top" nor, being longer, anything else. A plain fill has no phrase: a caption without any of
    ``fill`` says plain. Only the first caption of an image tells size and place.
    """
    return {
        "colour": list(COLOURS),
        "fill": [word.strip() for word in FILLS.values() if word],
        "shape": list(SHAPES),
        "background": list(BACKGROUNDS.values()),
        "size": list(SIZES),
        "place": [_place(name) for row in PLACES for name in row],
    }


def _place(name: str) -> str:
    return f"at the {name}"


def _ngon(corners: int, turn: float = 0.0, inner: float | None = None) -> np.ndarray:
    count = corners * (1 if inner is None else 2)
    angle = 2 * np.pi * (np.arange(count) / count) - np.pi / 2 + turn
    radius = np.where(np.arange(count) % 2 == 0, 1.0, 1.0 if inner is None else inner)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    return np.stack([np.sin(t) ** 3, -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) / 16], 1)


def _points(*xy: tuple[float, float]) -> np.ndarray:
    return np.asarray(xy, float)


SHAPES: dict[str, list[tuple[np.ndarray, int]]] = {  # polygons in [-1, 1], drawn with 1 (inside) or 0 (hole)
    "disc": [(_ngon(48), 1)],
    "ring": [(_ngon(48), 1), (_ngon(48) * 0.55, 0)],
    "crescent": [(_ngon(48), 1), (_ngon(48) * 0.85 + [0.5, -0.15], 0)],
    "ellipse": [(_ngon(48) * [1.0, 0.5], 1)],
    "triangle": [(_ngon(3), 1)],
    "square": [(_ngon(4, np.pi / 4), 1)],
    "frame": [(_ngon(4, np.pi / 4), 1), (_ngon(4, np.pi / 4) * 0.6, 0)],
    "diamond": [(_ngon(4) * [0.65, 1.0], 1)],
    "hexagon": [(_ngon(6), 1)],
    "star": [(_ngon(5, inner=0.42), 1)],
    "burst": [(_ngon(12, inner=0.65), 1)],
    "cross": [(_points((-1, -0.3), (1, -0.3), (1, 0.3), (-1, 0.3)), 1), (_points((-0.3, -1), (0.3, -1), (0.3, 1), (-0.3, 1)), 1)],
    "heart": [(_heart(), 1)],
    "arrow": [(_points((-1, -0.25), (0.1, -0.25), (0.1, -0.7), (1, 0), (0.1, 0.7), (0.1, 0.25), (-1, 0.25)), 1)],
    "bolt": [(_points((0.2, -1), (-0.6, 0.15), (-0.05, 0.15), (-0.25, 1), (0.6, -0.25), (0.05, -0.25)), 1)],
    "house": [(_points((-0.75, 1), (-0.75, -0.1), (-1, -0.1), (0, -1), (1, -0.1), (0.75, -0.1), (0.75, 1)), 1)],
}

NUM_CONCEPTS = len(SHAPES) * len(COLOURS) * len(FILLS) * len(BACKGROUNDS)
"""How many different concepts can be drawn."""


@dataclass(frozen=True, kw_only=True)
class Concept:
    """A combination of attributes."""

    shape: str
    colour: str
    fill: str
    background: str

    @property
    def name(self) -> str:
        """``red_striped_star_bricks``."""
        return "_".join([self.colour, *([self.fill] if FILLS[self.fill] else []), self.shape, self.background])


def draw_concepts(num_train: int, num_test: int, seed: int) -> tuple[list[Concept], list[Concept]]:
    """Distinct random concepts for training and test, none in both."""
    if num_train + num_test > NUM_CONCEPTS:
        raise UserError(f"num_train_concepts + num_test_concepts is {num_train + num_test}, expected at most {NUM_CONCEPTS}")
    sizes = (len(SHAPES), len(COLOURS), len(FILLS), len(BACKGROUNDS))
    names = [list(SHAPES), list(COLOURS), list(FILLS), list(BACKGROUNDS)]
    chosen = np.random.default_rng([seed, 1]).permutation(NUM_CONCEPTS)[: num_train + num_test]
    concepts = [
        Concept(**{field: names[i][k] for i, (field, k) in enumerate(zip(("shape", "colour", "fill", "background"), picks, strict=True))})
        for picks in zip(*(axis.tolist() for axis in np.unravel_index(chosen, sizes)), strict=True)
    ]
    return concepts[:num_train], concepts[num_train:]


@cache
def _grid(side: int) -> tuple[np.ndarray, np.ndarray]:
    axis = (np.arange(side, dtype=np.float32) + 0.5) / side
    return np.meshgrid(axis, axis)


def _blend(a: tuple[float, float, float], b: tuple[float, float, float], weight_SS: np.ndarray) -> np.ndarray:
    return np.asarray(a, np.float32) + weight_SS[..., None] * (np.asarray(b, np.float32) - np.asarray(a, np.float32))


def _background(name: str, side: int, rng: np.random.Generator) -> np.ndarray:
    x, y = _grid(side)
    grain = rng.random((side, side), np.float32)
    phase = float(rng.random())
    if name == "paper":
        return _blend((0.97, 0.97, 0.93), (0.55, 0.7, 0.85), ((((x + phase) * 12) % 1 < 0.1) | (((y + phase) * 12) % 1 < 0.1)) * 1.0)
    if name == "night":
        return _blend((0.03, 0.03, 0.12), (1.0, 1.0, 0.9), (grain > 0.995) * 1.0)
    if name == "sand":
        return _blend((0.72, 0.6, 0.4), (0.95, 0.87, 0.68), grain * 0.6 + 0.2 * np.sin(30 * (y + 0.1 * np.sin(6 * x + 6 * phase))) + 0.2)
    if name == "meadow":
        blades = np.repeat(rng.random((side // 8 + 1, side), np.float32), 8, axis=0)[:side]
        return _blend((0.1, 0.3, 0.05), (0.5, 0.75, 0.25), 0.7 * blades + 0.3 * grain)
    if name == "sky":
        clouds = np.sin(7 * x + 6 * phase) * np.sin(9 * y + 3 * x) + 0.5 * np.sin(17 * x - 5 * y)
        return _blend((0.35, 0.6, 0.95), (1.0, 1.0, 1.0), np.clip(clouds, 0, 1) * 0.8 + 0.15 * y)
    if name == "sunset":
        return _blend((0.35, 0.1, 0.4), (1.0, 0.6, 0.2), np.clip(y * 1.2 - 0.1 + 0.1 * phase, 0, 1))
    if name == "bricks":
        row = np.floor((y + phase) * 10)
        mortar = (((y + phase) * 10) % 1 < 0.12) | (((x + phase) * 5 + 0.5 * (row % 2)) % 1 < 0.06)
        return _blend((0.6, 0.25, 0.2), (0.8, 0.78, 0.74), mortar * 0.9 + 0.1 * grain)
    if name == "planks":
        plank = np.floor((x + phase) * 6)
        rings = 0.5 + 0.5 * np.sin(50 * (x + 0.04 * np.sin(8 * y + 2.3 * plank)))
        wood = _blend((0.4, 0.25, 0.12), (0.7, 0.5, 0.3), rings * 0.7 + 0.3 * (plank % 2))
        planks: np.ndarray = wood * ((((x + phase) * 6) % 1 > 0.05)[..., None] * 0.7 + 0.3)
        return planks
    if name == "water":
        waves = np.sin(40 * y + 5 * np.sin(5 * x + 6 * phase)) * np.sin(11 * x + 7 * y)
        return _blend((0.05, 0.25, 0.45), (0.4, 0.75, 0.85), 0.5 + 0.5 * waves)
    assert name == "snow", name
    return _blend((0.8, 0.87, 0.95), (1.0, 1.0, 1.0), grain * 0.7 + 0.3 * y)


def _mask(shape: str, side: int, size: float, place: tuple[float, float], turn: float) -> np.ndarray:
    over = 2
    canvas = Image.new("L", (side * over, side * over), 0)
    draw = ImageDraw.Draw(canvas)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    for polygon, inside in SHAPES[shape]:
        corners = (polygon @ rotation.T * size + place) * side * over
        draw.polygon([tuple(corner) for corner in corners.tolist()], fill=255 * inside)
    return np.asarray(canvas.reduce(over), np.float32) / 255


def render(concept: Concept, side: int, rng: np.random.Generator) -> tuple[Image.Image, list[str]]:
    """One picture of a concept and its captions.

    Parameters
    ----------
    side
        Width and height in pixels.
    rng
        Decides size, place, rotation, hue and grain.

    Returns
    -------
    (image, captions)
        RGB image and three captions, the fullest first.
    """
    size = float(rng.uniform(0.16, 0.34))
    column, row = (float(rng.uniform(0.32, 0.68)) for _ in range(2))
    turn = float(rng.uniform(-0.35, 0.35))
    hue, saturation, value = COLOURS[concept.colour]
    hue, value = hue + float(rng.uniform(-0.015, 0.015)), min(1.0, value * float(rng.uniform(0.92, 1.06)))
    picture = _background(concept.background, side, rng)
    front = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    back = tuple(0.35 * channel for channel in front)
    x, y = _grid(side)
    if concept.fill == "striped":
        pattern = (((x + y) * 14) % 1 < 0.5) * 1.0
    elif concept.fill == "dotted":
        pattern = 1.0 - ((((x * 14) % 1 - 0.5) ** 2 + ((y * 14) % 1 - 0.5) ** 2) < 0.09)
    elif concept.fill == "checked":
        pattern = ((np.floor(x * 16) + np.floor(y * 16)) % 2).astype(np.float32)
    else:
        pattern = np.ones_like(x)
    inside = _mask(concept.shape, side, size, (column, row), turn)
    outline = np.clip(_mask(concept.shape, side, size * 1.06, (column, row), turn) - inside, 0, 1)
    picture = picture * (1 - 0.7 * outline[..., None])
    picture += inside[..., None] * (_blend(back, front, pattern.astype(np.float32)) - picture)  # type: ignore[arg-type]
    pixels = (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)
    return Image.fromarray(pixels, "RGB"), _captions(concept, size, column, row)


def _captions(concept: Concept, size: float, column: float, row: float) -> list[str]:
    how_large = SIZES[int(np.clip((size - 0.16) / 0.06, 0, 2))]
    place = PLACES[int(np.clip((row - 0.32) / 0.12, 0, 2))][int(np.clip((column - 0.32) / 0.12, 0, 2))]
    thing = f"{concept.colour} {FILLS[concept.fill]}{concept.shape}"
    article = "an" if thing[0] in "aeiou" else "a"
    where = BACKGROUNDS[concept.background]
    return [f"a {how_large} {thing} {where}, {_place(place)}", f"{article} {thing} {where}", f"{article} {thing}"]
