"""Rows of image embeddings that are one image, where a file says no ids: equal but for rounding.

Shapes in names: Q rows, P embedding dimension.
"""

from __future__ import annotations

import numpy as np

ROUNDING = 1e-3
"""Length of the difference of two rows of one image, over the rows': float16 leaves 3e-4 of one, another batch on a GPU 1e-5. Embeddings
of two images, however alike, differ by more than 1e-2."""
_DIRECTIONS = 8


def same_rows(image_QP: np.ndarray) -> np.ndarray:
    """Number of each row's image, int64 (Q,): rows within :data:`ROUNDING` of each other, and what these chain to, are one."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    unique_UP, number_Q = np.unique(image_QP, axis=0, return_inverse=True)
    rows_UP = unique_UP.astype(np.float64)
    rows_UP /= np.linalg.norm(rows_UP, axis=1, keepdims=True)
    # Rows that are near are near from every direction: eight directions find the pairs, all dimensions confirm them.
    directions = np.random.RandomState(0).standard_normal((rows_UP.shape[1], _DIRECTIONS))
    directions /= np.linalg.norm(directions, axis=0)
    pairs = cKDTree(rows_UP @ directions).query_pairs(ROUNDING, p=np.inf, output_type="ndarray")
    near = np.linalg.norm(rows_UP[pairs[:, 0]] - rows_UP[pairs[:, 1]], axis=1) <= ROUNDING if len(pairs) else np.zeros(0, bool)
    length = np.linalg.norm(unique_UP.astype(np.float64), axis=1)
    near &= np.abs(length[pairs[:, 0]] - length[pairs[:, 1]]) <= ROUNDING * np.maximum(length[pairs[:, 0]], length[pairs[:, 1]])
    one, other = pairs[near].T
    edges = coo_array((np.ones(len(one), bool), (one, other)), shape=(len(unique_UP),) * 2)
    found: np.ndarray = connected_components(edges, directed=False)[1][number_Q.reshape(-1)].astype(np.int64)
    return found
