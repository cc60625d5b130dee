"""Sums over long arrays in blocks: float32 products inside a block, float64 sums across.

Shapes in names: A, B, C any; N rows, D features of a row.
"""

from __future__ import annotations

import numpy as np

NUM_REDUCED = 2000
"""Directions that :func:`leading_directions` keeps."""
BLOCK = 4096
"""Columns, or rows, a block."""


def mean_of(x: np.ndarray) -> np.ndarray:
    """Mean of the rows, summed in float64; float32."""
    mean: np.ndarray = x.mean(0, dtype=np.float64).astype(np.float32)
    return mean


def gram(x_AB: np.ndarray) -> np.ndarray:
    """``x x'`` in float64, summed over blocks of columns: float32 products inside a block, float64 sums across."""
    total = np.zeros((len(x_AB), len(x_AB)))
    for start in range(0, x_AB.shape[1], BLOCK):
        block = x_AB[:, start : start + BLOCK]
        total += block @ block.T
    return total


def product(x_AB: np.ndarray, y_BC: np.ndarray) -> np.ndarray:
    """``x y`` in float64, summed over blocks like :func:`gram`."""
    total = np.zeros((len(x_AB), y_BC.shape[1]))
    for start in range(0, x_AB.shape[1], BLOCK):
        total += x_AB[:, start : start + BLOCK] @ y_BC[start : start + BLOCK]
    return total


def leading_directions(x_ND: np.ndarray) -> np.ndarray:
    """Orthonormal leading principal directions, float32 (d, NUM_REDUCED), by a randomised range finder with two power steps."""
    rng = np.random.default_rng(0)
    sketch = x_ND.T @ (x_ND @ rng.standard_normal((x_ND.shape[1], min(NUM_REDUCED, *x_ND.shape)), np.float32))
    for _ in range(2):
        sketch = x_ND.T @ (x_ND @ np.linalg.qr(sketch)[0])
    return np.linalg.qr(sketch)[0]
