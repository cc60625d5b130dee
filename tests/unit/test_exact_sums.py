"""Exact sums have the same bits in any order and cut, with outliers in them too, and are what float64 says to the rounding of the rows."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from data_prep.contract.errors import UserError
from trainer.models.encoding.exact import ExactSum, Quantum
from trainer.models.encoding.rows import Rows, Units
from trainer.models.encoding.sums import RowSums

DRAW = np.random.RandomState(0)
X = (30 * DRAW.standard_normal((3000, 12))).astype(np.float32)
X[77] *= 3e4  # so large that its products are taken in parts
Y = DRAW.standard_normal((3000, 5)).astype(np.float32)
UNIT_X, UNIT_Y = Quantum.for_values(np.abs(X[:10]).max()), Quantum.for_values(np.abs(Y).max())


def sums(order: np.ndarray, pieces: int) -> tuple[ExactSum, ...]:
    found = ExactSum((12, 12), 2 * UNIT_X.power), ExactSum((12, 5), UNIT_X.power + UNIT_Y.power), ExactSum((12,), UNIT_X.power)
    for rows in np.array_split(order, pieces):
        x, y = UNIT_X.cut(X[rows], "x"), UNIT_Y.cut(Y[rows], "y")
        found[0].add_products(x)
        found[1].add_products(x, y)
        found[2].add_rows(x)
    return found


def test_any_order_and_cut_gives_the_same_bits() -> None:
    expected = sums(np.arange(3000), 1)
    for pieces in (1, 3, 700):
        for found, first in zip(sums(np.random.RandomState(pieces).permutation(3000), pieces), expected, strict=True):
            np.testing.assert_array_equal(found.value(), first.value())
            for name, word in found.words().items():
                np.testing.assert_array_equal(word, first.words()[name])


def test_sums_of_ranks_add_up_in_place() -> None:
    expected = sums(np.arange(3000), 1)
    parts = [sums(rows, 2) for rows in np.array_split(np.arange(3000), 4)]
    for number, total in enumerate(parts[0]):
        for other in parts[1:]:
            for name, word in total.words().items():
                word += other[number].words()[name]
        np.testing.assert_array_equal(total.value(), expected[number].value())


def test_values_are_those_of_the_rows() -> None:
    x, y = np.delete(X, 77, axis=0), np.delete(Y, 77, axis=0)
    found = sums(np.delete(np.arange(3000), 77), 3)
    for total, expected in zip(found, (x.T @ x.astype(float), x.T @ y.astype(float), x.sum(0, dtype=float)), strict=True):
        assert np.abs(total.value() - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e9])
def test_what_has_no_place_in_the_unit_is_refused(value: float) -> None:
    with pytest.raises(UserError, match=r"EEG holds (nan|inf|1e\+09), expected finite numbers below"):
        UNIT_X.cut(np.array([[1.0, value]]), "EEG")


def rows(first: int, stop: int) -> Rows:
    """Samples of three repetitions: of each, these are functions of its number alone."""
    draws = [np.random.RandomState(number) for number in range(first, stop)]
    target_NE = np.array([draw.standard_normal(6) for draw in draws])
    gain_ED = np.random.RandomState(12345).standard_normal((6, 20))
    single_NRD = np.array([[e @ gain_ED + draw.standard_normal(20) for _ in range(3)] for e, draw in zip(target_NE, draws, strict=True)])
    mean_ND = single_NRD.mean(axis=1)
    noise_RD = (single_NRD - mean_ND[:, None]).reshape(-1, 20)
    return Rows(eeg_ND=mean_ND, target_NE=target_NE, count_N=np.full(stop - first, 3), noise_RD=noise_RD)


def row_sums(*cuts: int) -> RowSums:
    units = Units(eeg=UNIT_X, noise=UNIT_X, embedding=UNIT_Y, num_features=20, embedding_dim=6)
    total = RowSums(units, [(fold, 3) for fold in range(4)])
    for first, stop in pairwise(cuts):
        part = RowSums(units, [(fold, 3) for fold in range(4)])
        part.add_rows(rows(first, stop), np.arange(first, stop) % 4)
        total.add(part)
    return total


def arrays_of(model: Any) -> dict[str, np.ndarray]:
    return dict(vars(model))


def test_models_of_any_cut_have_the_same_bits() -> None:
    expected = row_sums(0, 160)
    found = row_sums(0, 7, 100, 160)
    assert found.count == 160
    assert found.freedom == 320
    for name, array in arrays_of(found.fit()).items():
        np.testing.assert_array_equal(array, arrays_of(expected.fit())[name], err_msg=name)


def test_what_is_saved_is_loaded() -> None:
    saved = {name: array.copy() for name, array in row_sums(0, 50, 160).arrays().items()}
    loaded = row_sums()
    loaded.load(saved)
    for name, array in arrays_of(loaded.fit()).items():
        np.testing.assert_array_equal(array, arrays_of(row_sums(0, 160).fit())[name], err_msg=name)
