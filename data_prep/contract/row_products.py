"""Products of rows whose digits depend on the two rows alone.

What a BLAS gives for one pair of rows depends, in the last digits, on the shape of both matrices, the place in them, the threads
and the processor: one image that stands twice in a gallery need not tie with itself, and a matrix in blocks is not the matrix
computed whole. Here a row is cut into a high and a low row of integers, of so few bits that every sum a matrix product can form
of them, in whatever order, is an integer below 2**53: float64 holds it without rounding. Only what follows the sums rounds.
Error-free transformation (Ozaki, Ogita, Oishi & Rump 2012, doi:10.1007/s11075-011-9478-1), about three matrix products::

    row = scale * (high + low / 2**low_bits)        |high| <= 2**HIGH_BITS
    a . b = scale_a * scale_b * (high_a . high_b + (high_a . low_b + low_a . high_b) / 2**low_bits)

By Cauchy-Schwarz no partial sum, neither of ``high_a . high_b`` nor of the mixed products, reaches 2**53, whatever the length of the
rows. The error, relative to ``|a| |b|``, is about 1e-14 for rows of a thousand values.

N: rows, A, B: rows of the first and the second matrix, K: values a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from data_prep.contract.errors import UserError

HIGH_BITS = 26
PRODUCTS_A_BLOCK = 1 << 23
_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class CutRows:
    """Rows in integers; see the module. Made by :func:`cut_rows`, multiplied by :func:`row_products`."""

    high_NK: np.ndarray
    low_NK: np.ndarray
    """int32 both."""
    scale_N: np.ndarray
    """float64."""

    def __len__(self) -> int:
        return len(self.scale_N)

    def __getitem__(self, rows: slice | np.ndarray) -> CutRows:
        return CutRows(self.high_NK[rows], self.low_NK[rows], self.scale_N[rows])


def low_bits(length: int) -> int:
    """Bits of the low row: fewer where rows of ``length`` values are longer, so that the mixed products stay exact."""
    return max(0, HIGH_BITS - ((length - 1).bit_length() + 1) // 2)


def cut_rows(rows_NK: np.ndarray, name: str = "the rows", *, unit: bool = False) -> CutRows:
    """Rows of finite numbers, ready to be multiplied; some at a time, so that a large matrix is never twice in memory.

    Parameters
    ----------
    name
        What an error calls them.
    unit
        Their directions are meant: every row over its length, which must not be zero. The products are cosines then.

    Raises
    ------
    UserError
        Not two-dimensional, a value that is not finite, or, where directions are meant, a row of zeros.
    """
    rows_NK = np.asarray(rows_NK)
    if rows_NK.ndim != 2 or 0 in rows_NK.shape[1 - unit :]:
        raise UserError(f"{name} have shape {rows_NK.shape}, expected (rows, dimensions), at least one of each")
    found = CutRows(np.empty(rows_NK.shape, np.int32), np.empty(rows_NK.shape, np.int32), np.empty(len(rows_NK)))
    bits = low_bits(rows_NK.shape[1])
    for start in range(0, len(rows_NK), _ROWS_AT_ONCE):
        block = slice(start, start + _ROWS_AT_ONCE)
        rows = np.ascontiguousarray(rows_NK[block], dtype=np.float64)
        if not np.isfinite(rows).all():
            row = start + int(np.argwhere(~np.isfinite(rows))[0][0])
            raise UserError(f"row {row} of {name} holds NaN or infinity, expected finite numbers")
        _, peak_N = np.frexp(np.abs(rows).max(axis=1))  # of rows near one, squares neither overflow nor vanish
        rows = np.ldexp(rows, -peak_N[:, None])
        length_N = np.sqrt(np.square(rows).sum(axis=1))
        if unit and not length_N.all():
            raise UserError(f"row {start + int(np.argmin(length_N))} of {name} has no direction: it is all zeros")
        # Whether a row that is as long as a power of two belongs below or above it must not hang on a rounding.
        _, power_N = np.frexp(length_N * (1 - 2.0**-30))
        rows = np.ldexp(rows, (HIGH_BITS - power_N)[:, None])
        high = np.rint(rows)
        rows -= high
        found.high_NK[block], found.low_NK[block] = high, np.rint(rows * 2.0**bits)
        exponent_N = power_N - HIGH_BITS
        found.scale_N[block] = np.ldexp(1 / length_N, exponent_N) if unit else np.ldexp(1.0, exponent_N + peak_N)
    return found


def row_products(a: CutRows, b: CutRows) -> np.ndarray:
    """Dot product of every row of ``a`` with every row of ``b``: float64 (A, B).

    Each value is a function of its two rows alone: of any parts of the matrices, in any order, the same digits come out, and
    ``row_products(b, a)`` is the transpose.
    """
    length = a.high_NK.shape[1]
    assert length == b.high_NK.shape[1], "rows of one length"
    product_AB = np.empty((len(a), len(b)))
    high_AK, low_AK = a.high_NK.astype(np.float64), a.low_NK.astype(np.float64)
    for start in range(0, len(b), _ROWS_AT_ONCE):
        part = b[start : start + _ROWS_AT_ONCE]
        high_BK = part.high_NK.astype(np.float64)
        sum_AB = low_AK @ high_BK.T
        sum_AB += high_AK @ part.low_NK.astype(np.float64).T
        sum_AB *= 2.0 ** -low_bits(length)
        sum_AB += high_AK @ high_BK.T
        sum_AB *= a.scale_N[:, None] * part.scale_N
        product_AB[:, start : start + _ROWS_AT_ONCE] = sum_AB
    return product_AB


def row_blocks(num_rows: int, num_columns: int) -> Iterator[slice]:
    """All rows in blocks of which the products with ``num_columns`` others fit into memory."""
    size = max(1, PRODUCTS_A_BLOCK // max(1, num_columns))
    for start in range(0, num_rows, size):
        yield slice(start, start + size)
