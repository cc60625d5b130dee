"""A product of two rows is what exact arithmetic gives, and hangs on nothing but these two rows."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from data_prep.contract import row_products as module
from data_prep.contract.ranking import cosine_similarity
from data_prep.contract.row_products import cut_rows, row_products


def made(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of some length, type, scale and spread of magnitudes."""
    rng = np.random.default_rng(seed)
    length, dtype = int(rng.choice([1, 2, 3, 17, 64, 65, 300])), rng.choice([np.float16, np.float32, np.float64])
    size = 1.0 if dtype == np.float16 else 10.0 ** rng.integers(-30, 30)
    rows = [
        (size * rng.standard_normal((int(rng.integers(1, 30)), length)) * np.exp(rng.standard_normal(length))).astype(dtype)
        for _ in range(2)
    ]
    return rows[0], rows[1]


def exact(a_K: np.ndarray, b_K: np.ndarray) -> Fraction:
    """The dot product without any rounding."""
    return sum((Fraction(float(x)) * Fraction(float(y)) for x, y in zip(a_K, b_K, strict=True)), Fraction(0))


@pytest.mark.parametrize("seed", range(12))
def test_products_are_those_of_exact_arithmetic(seed: int) -> None:
    a_AK, b_BK = made(seed)
    found_AB, cosine_AB = row_products(cut_rows(a_AK), cut_rows(b_BK)), cosine_similarity(a_AK, b_BK)
    for i in range(min(4, len(a_AK))):
        for j in range(min(4, len(b_BK))):
            lengths = float(exact(a_AK[i], a_AK[i])) ** 0.5 * float(exact(b_BK[j], b_BK[j])) ** 0.5
            expected = float(exact(a_AK[i], b_BK[j]))
            assert found_AB[i, j] == pytest.approx(expected, abs=2e-14 * lengths)
            assert cosine_AB[i, j] == pytest.approx(expected / lengths, abs=2e-14)


@pytest.mark.parametrize("seed", range(12))
def test_a_product_hangs_on_its_two_rows_alone(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    a_AK, b_BK = made(seed)
    rng = np.random.default_rng(seed)
    whole_AB, cosine_AB = row_products(cut_rows(a_AK), cut_rows(b_BK)), cosine_similarity(a_AK, b_BK)
    monkeypatch.setattr(module, "_ROWS_AT_ONCE", int(rng.integers(1, 9)))
    some_A = rng.integers(0, len(a_AK), int(rng.integers(1, 7)))
    some_B = rng.integers(0, len(b_BK), int(rng.integers(1, 7)))
    np.testing.assert_array_equal(row_products(cut_rows(a_AK[some_A]), cut_rows(b_BK[some_B])), whole_AB[np.ix_(some_A, some_B)])
    np.testing.assert_array_equal(row_products(cut_rows(a_AK)[some_A], cut_rows(b_BK)[some_B]), whole_AB[np.ix_(some_A, some_B)])
    np.testing.assert_array_equal(row_products(cut_rows(b_BK), cut_rows(a_AK)).T, whole_AB)
    np.testing.assert_array_equal(cosine_similarity(b_BK[some_B], np.asfortranarray(a_AK)), cosine_AB[:, some_B].T)
    np.testing.assert_array_equal(cosine_similarity(a_AK[::-1], b_BK[:, :])[::-1], cosine_AB)


def test_one_image_that_stands_twice_ties_with_itself_and_so_do_equal_angles() -> None:
    rng = np.random.default_rng(0)
    image_GE = rng.standard_normal((211, 513)).astype(np.float32)
    image_GE[rng.integers(0, 211, 100)] = image_GE[7]
    image_GE[3] = 4 * image_GE[7]  # another length, the same direction
    scores_QG = cosine_similarity(rng.standard_normal((37, 513)), image_GE)
    same = (image_GE == image_GE[7]).all(axis=1)
    same[3] = True
    assert (scores_QG[:, same] == scores_QG[:, 7:8]).all()
    whole = np.array([[1, 2, 3, 4], [4, 3, 2, 1], [2, 1, 4, 3]])
    assert len(np.unique(cosine_similarity(np.ones((1, 4)), whole))) == 1


def test_the_length_of_rows_and_their_magnitudes_have_room() -> None:
    long = np.ones((2, 200_000))
    long[1, ::2] = 1 - 2.0**-30
    assert row_products(cut_rows(long), cut_rows(long)).tolist() == [[2e5, 2e5 - 1e5 * 2.0**-30], [2e5 - 1e5 * 2.0**-30, exact_square()]]
    for size in (1e-300, 1e-160, 1e160, 1e300):
        assert row_products(cut_rows(np.array([[size, 3 * size]])), cut_rows(np.array([[1 / size, 0.0]]))) == pytest.approx(1.0)
        assert cosine_similarity(np.array([[size, 0.0]]), np.array([[size, 0.0]])) == pytest.approx(1.0)
    assert (row_products(cut_rows(np.zeros((2, 3))), cut_rows(np.ones((1, 3)))) == 0).all()
    assert row_products(cut_rows(np.zeros((0, 3))), cut_rows(np.ones((1, 3)))).shape == (0, 1)


def exact_square() -> float:
    """Of the second of the long rows."""
    return float(100_000 + 100_000 * Fraction(1 - 2.0**-30) ** 2)


@pytest.mark.parametrize(
    ("rows", "unit", "message"),
    [
        (np.zeros(3), False, "the rows have shape"),
        (np.zeros((2, 0)), False, "expected .rows, dimensions."),
        (np.zeros((0, 3)), True, "at least one of each"),
        (np.array([[1.0, 2.0], [0.0, np.nan]]), False, "row 1 of the rows holds NaN"),
        (np.array([[1.0, -np.inf]]), True, "row 0 of the rows holds NaN or infinity"),
        (np.array([[1.0], [0.0]]), True, "row 1 of the rows has no direction"),
    ],
)
def test_rows_that_have_no_product_are_refused(rows: np.ndarray, unit: bool, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cut_rows(rows, unit=unit)
