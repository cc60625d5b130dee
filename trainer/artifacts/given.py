"""EEG as a caller or a client gives it: an array, or nested lists of numbers, looked at before numpy makes anything of them.

``np.asarray`` of what comes over a network makes rows of texts of the longest text's length, numbers of texts, nothing of ``null``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from data_prep.contract.errors import UserError
from data_prep.contract.words import short

_DEEPEST = 8
_NUMBERS = {int, float}
_NAMES = {"str": "text", "bool": "truth value", "NoneType": "null", "dict": "object", "list": "list"}


def read_eeg(given: Any, sizes: tuple[int, int], expects: str) -> np.ndarray:
    """EEG as (B, C, T) or (B, R, C, T) finite numbers that float32 can hold, in the type they came in; lists become float64.

    Parameters
    ----------
    sizes
        C and T.
    expects
        What the encoder takes, for sentences.

    Raises
    ------
    UserError
        One sentence with both sides.
    """
    _check_unmasked(given, expects)
    eeg = _of_lists(given, sizes, expects) if isinstance(given, (list, tuple)) else _array(given, expects)
    _check_shape(eeg.shape, sizes, expects)
    if eeg.dtype.kind not in "fiu":
        raise UserError(f"EEG has values of type {short(eeg.dtype)}, expected numbers: {expects}")
    finite = np.isfinite(eeg) & (np.abs(eeg) <= np.finfo(np.float32).max)
    if not finite.all():
        raise UserError(f"EEG of trial {int(np.argwhere(~finite)[0][0])} has values that are not finite, or beyond float32")
    return eeg


def _array(given: Any, expects: str) -> np.ndarray:
    try:
        return np.asarray(given)
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"EEG is {short(type(given).__name__)} ({short(error)}), this encoder expects {expects}") from error


def _of_lists(given: Any, sizes: tuple[int, int], expects: str) -> np.ndarray:
    shape = _shape(given)
    if len(shape) > _DEEPEST:
        raise UserError(f"EEG has more than {_DEEPEST} levels of lists, this encoder expects {expects}")
    _check_shape(shape, sizes, expects)
    rows = [given]
    for size in shape[:-1]:
        rows = [inner for row in rows for inner in _parts(row, size, expects)]
    eeg = np.empty((len(rows), shape[-1]), np.float64)
    for number, row in enumerate(rows):
        eeg[number] = _row(row, shape[-1], expects)
    return eeg.reshape(shape)


def _shape(given: Any) -> tuple[int, ...]:
    """Sizes by the first of each level."""
    sizes: list[int] = []
    while isinstance(given, (list, tuple)) and len(sizes) <= _DEEPEST:
        sizes.append(len(given))
        if not given:
            break
        given = given[0]
    return (*sizes, *given.shape) if isinstance(given, np.ndarray) else tuple(sizes)


def _parts(row: Any, size: int, expects: str) -> Any:
    if not isinstance(row, (list, tuple, np.ndarray)) or len(row) != size:
        raise UserError(f"EEG has rows of unequal length, this encoder expects {expects}")
    return row


def _row(row: Any, size: int, expects: str) -> Any:
    values = _parts(row, size, expects)
    if isinstance(values, np.ndarray):
        _check_unmasked(values, expects)
        if values.dtype.kind not in "fiu" or values.shape != (size,):
            raise UserError(f"EEG has values of type {short(values.dtype)}, expected numbers: {expects}")
        return values
    odd = {type(value) for value in values} - _NUMBERS
    if odd := {kind for kind in odd if not issubclass(kind, (np.floating, np.integer))}:
        name = sorted(kind.__name__ for kind in odd)[0]
        raise UserError(f"EEG has values of type {_NAMES.get(name, short(name))}, expected numbers: {expects}")
    try:
        return np.array(values, np.float64)
    except OverflowError:  # a whole number beyond any float
        return np.full(size, np.inf)


def _check_unmasked(values: Any, expects: str) -> None:
    if np.ma.is_masked(values):  # what lies under a mask is anything
        raise UserError(f"EEG has masked values, expected numbers: {expects}")


def _check_shape(shape: tuple[int, ...], sizes: tuple[int, int], expects: str) -> None:
    # No repetitions have no average.
    if len(shape) not in (3, 4) or shape[-2:] != sizes or (len(shape) == 4 and not shape[1]):
        raise UserError(f"EEG has shape {short(str(shape))}, this encoder expects {expects}")
