"""Sums of products of rows without rounding: of the same rows in any order, in any blocks, on any number of ranks they have the same bits.

A fit from sums needs that. The directions in which a response is noise alone have nearly equal eigenvalues, and a sum that differs in its
last digit turns them among each other: a coefficient may differ in its seventh digit, its sign, or altogether.

So values are rounded once, to multiples of a quantum that is a power of two, and added as integers. A matrix product of integers is exact
in float64, whatever BLAS adds first, while no column's sum of squares reaches 2**53 (Cauchy-Schwarz); rows of which it does, by an
outlier, are multiplied in a high and a low part (Ozaki, Ogita, Oishi & Rump 2012, doi:10.1007/s11075-011-9478-1), which gives the same
integers. Products of many rows are added in two words of int64.

N: rows, A, B: columns of the first and the second matrix.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from data_prep.contract.errors import UserError

_DIGITS = 22
"""Binary digits of the largest value that was looked at: what is rounded away is some millionths of a standard deviation."""
_PART_BITS = 21
_WORD_BITS = 2 * _PART_BITS
"""Of an integer at most: 2**20 times the largest value that was looked at."""
_EXACT = 2.0**53
_ROWS_AT_ONCE, _ROWS_IN_PARTS = 4096, 1024
_MOST_PENDING = 256
"""Products that may be added to a word before it is settled."""


@dataclass(frozen=True, kw_only=True)
class Quantum:
    """Of which values are taken as multiples; the power of two of it."""

    power: int

    @classmethod
    def for_values(cls, largest: float) -> Quantum:
        """For values of which ``largest`` has been seen."""
        return cls(power=math.frexp(largest or 1.0)[1] - _DIGITS)

    def cut(self, x_NA: np.ndarray, name: str) -> np.ndarray:
        """Values as integers, in float64.

        Raises
        ------
        UserError
            One that is not finite, or a million times larger than what was seen.
        """
        whole_NA = np.rint(np.ldexp(x_NA.astype(np.float64), -self.power))
        if not (np.abs(whole_NA) < 2.0**_WORD_BITS).all():  # asked this way round, NaN is refused
            limit = math.ldexp(1.0, self.power + _WORD_BITS)
            raise UserError(f"{name} holds {np.abs(x_NA).max():g}, expected finite numbers below {limit:g}")
        return whole_NA


class ExactSum:
    """A sum of integers in two words of int64, ``high * 2**42 + low``, that stands for a matrix of float64.

    Parameters
    ----------
    shape
        Of the matrix.
    power
        Power of two of the unit.
    """

    def __init__(self, shape: tuple[int, ...], power: int) -> None:
        self.power = power
        self._high, self._low = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        self._pending = 0

    def add_rows(self, x_NA: np.ndarray) -> None:
        """Add the sum of some rows of integers; for a matrix of shape (A,)."""
        for start in range(0, len(x_NA), _ROWS_IN_PARTS):
            self._add(x_NA[start : start + _ROWS_IN_PARTS].sum(axis=0))

    def add_products(self, x_NA: np.ndarray, y_NB: np.ndarray | None = None) -> None:
        """Add ``x' y`` (A, B) of rows of integers, or ``x' x`` (A, A)."""
        for start in range(0, len(x_NA), _ROWS_AT_ONCE):
            x, y = (None if rows is None else rows[start : start + _ROWS_AT_ONCE] for rows in (x_NA, y_NB))
            assert x is not None
            if _is_exact(x) and (y is None or _is_exact(y)):
                self._add(x.T @ (x if y is None else y))
                continue
            for first in range(0, len(x), _ROWS_IN_PARTS):
                part = slice(first, first + _ROWS_IN_PARTS)
                self._add_in_parts(x[part], x[part] if y is None else y[part])

    def _add_in_parts(self, x: np.ndarray, y: np.ndarray) -> None:
        (x_high, x_low), (y_high, y_low) = _parts(x), _parts(y)
        self._add(x_low.T @ y_low)
        middle = (x_high.T @ y_low + x_low.T @ y_high).astype(np.int64)
        over = middle >> _PART_BITS
        self._high += (x_high.T @ y_high).astype(np.int64) + over
        self._low += (middle - (over << _PART_BITS)) << _PART_BITS
        self._settle()

    def _add(self, integers: np.ndarray) -> None:
        self._low += integers.astype(np.int64)
        self._pending += 1
        if self._pending >= _MOST_PENDING:
            self._settle()

    def _settle(self) -> None:
        """Bring ``low`` below 2**42, as it is of any sum of the same integers."""
        over = self._low >> _WORD_BITS
        self._high += over
        self._low -= over << _WORD_BITS
        self._pending = 0

    def words(self) -> dict[str, np.ndarray]:
        """Both words; what is added to them in place, of other ranks, is part of the sum from then on."""
        self._settle()
        self._pending = _MOST_PENDING
        return {"high": self._high, "low": self._low}

    def add(self, other: ExactSum) -> None:
        """Add a sum of the same unit."""
        assert self.power == other.power, "sums of one unit"
        for own, others in zip(self.words().values(), other.words().values(), strict=True):
            own += others
        self._settle()

    def value(self) -> np.ndarray:
        """In float64."""
        self._settle()
        found: np.ndarray = np.ldexp(np.ldexp(self._high.astype(np.float64), _WORD_BITS) + self._low.astype(np.float64), self.power)
        return found


def _is_exact(x_NA: np.ndarray) -> bool:
    return bool(np.einsum("na,na->a", x_NA, x_NA).max(initial=0.0) < _EXACT)


def _parts(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    high = np.rint(np.ldexp(x, -_PART_BITS))
    return high, x - np.ldexp(high, _PART_BITS)
