"""Trials of one file, a row an image, wherever the file keeps them; and which repetitions are padding.

Sources whose images were shown unequally often fill the rest of a rectangle with zeros, with NaN or with a repetition once more. Such
repetitions are found by their first values and, where those look so, by all of them.

Shape suffixes: N images, R repetitions, C channels, T time points, V values looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from data_prep.contract.file_rows import FileRows

_LOOKED_AT = 16
_ROWS_AT_ONCE = 512


class TrialRows(Protocol):
    """Rows of (R, C, T), of which R may vary."""

    n_reps: Sequence[int]
    """Repetitions of each row, padding included."""
    trial_shape: tuple[int, int]
    """Channels, time points."""

    def row(self, number: int) -> np.ndarray:
        """Trials of one image, in the file's dtype: (R, C, T)."""
        ...

    def first_values(self, start: int, stop: int) -> list[np.ndarray]:
        """The first values of every trial of some rows: each (R, V)."""
        ...

    def give_back(self) -> None:
        """Let go of memory that reading again brings back."""
        ...


class DenseRows:
    """An array (N, R, C, T), or (concepts, images of each, R, C, T)."""

    def __init__(self, eeg: np.ndarray) -> None:
        self._rows = FileRows(eeg)
        self._each = eeg.shape[1] if eeg.ndim == 5 else 1
        self.n_reps: Sequence[int] = [eeg.shape[-3]] * (len(eeg) * self._each)
        self.trial_shape = (eeg.shape[-2], eeg.shape[-1])

    def row(self, number: int) -> np.ndarray:
        block = self._rows[number // self._each]
        return block[number % self._each] if self._rows.array.ndim == 5 else block

    def first_values(self, start: int, stop: int) -> list[np.ndarray]:
        if self._rows.array.ndim == 4:
            return list(np.array(self._rows.array[start:stop, :, 0, :_LOOKED_AT]))
        return [self._rows.values(n // self._each, (n % self._each, slice(None), 0, slice(_LOOKED_AT))) for n in range(start, stop)]

    def give_back(self) -> None:
        self._rows.forget()


class RaggedRows:
    """A list of arrays (R, C, T) of unequal R."""

    def __init__(self, rows: Sequence[np.ndarray], trial_shape: tuple[int, int]) -> None:
        self._rows = [FileRows(row[None]) for row in rows]
        self.n_reps: Sequence[int] = [len(row) for row in rows]
        self.trial_shape = trial_shape

    def row(self, number: int) -> np.ndarray:
        found = np.array(self._rows[number][0])
        self._rows[number].forget()
        return found

    def first_values(self, start: int, stop: int) -> list[np.ndarray]:
        return [rows.values(0, (slice(None), 0, slice(_LOOKED_AT))) for rows in self._rows[start:stop]]

    def give_back(self) -> None:
        for rows in self._rows[:1]:  # all are views of one mapping
            rows.give_back()


@dataclass(frozen=True, kw_only=True)
class Padding:
    """Which repetitions of a file are trials, and how many are not."""

    kept: dict[int, np.ndarray]
    """Rows that have padding -> the repetitions that are trials, in order; every other row keeps all."""
    counts: dict[str, int]
    """``zeros``, ``not_a_number``, ``repeated``: repetitions; ``images_without_a_trial``."""

    def of(self, row: int, n_reps: int) -> np.ndarray:
        """Repetitions of a row that are trials."""
        return self.kept.get(row, np.arange(n_reps))


def find_padding(rows: TrialRows) -> Padding:
    """Look at every repetition's first values, and at all values of those that are zero, NaN or equal to another's.

    Where every repetition of the first 512 images is zero or NaN, none is called padding: then there is no signal to pad.
    """
    kept: dict[int, np.ndarray] = {}
    counts = dict.fromkeys(("zeros", "not_a_number", "repeated"), 0)
    for start in range(0, len(rows.n_reps), _ROWS_AT_ONCE):
        stop = min(start + _ROWS_AT_ONCE, len(rows.n_reps))
        suspects = [start + i for i, values_RV in enumerate(rows.first_values(start, stop)) if _suspect(values_RV)]
        rows.give_back()
        for row in suspects:
            reason_R = _reasons(rows.row(row))
            if any(reason_R):
                kept[row] = np.flatnonzero([not reason for reason in reason_R])
                for reason in filter(None, reason_R):
                    counts[reason] += 1
        if start == 0 and len(kept) == stop and not any(len(reps) for reps in kept.values()):
            break  # no signal at all: the rest need not be read to say so
    rows.give_back()
    if len(kept) == min(_ROWS_AT_ONCE, len(rows.n_reps)) and not any(len(reps) for reps in kept.values()):
        return Padding(kept={}, counts={})
    without = sum(not len(reps) for reps in kept.values()) + sum(n == 0 for n in rows.n_reps)
    found = {name: count for name, count in counts.items() if count}
    return Padding(kept=kept, counts=found | ({"images_without_a_trial": without} if without else {}))


def _suspect(values_RV: np.ndarray) -> bool:
    """Whether a repetition could be padding."""
    if not len(values_RV):
        return False
    empty_R = ((values_RV == 0) | np.isnan(values_RV)).all(1)
    if empty_R.any():
        return True
    weights_V = np.cos(np.arange(1.0, values_RV.shape[1] + 1))
    sorted_R = np.sort((values_RV.astype(np.float64) * weights_V).sum(1))  # equal rows have equal sums
    return bool((np.diff(sorted_R) == 0).any())


def _reasons(eeg_RCT: np.ndarray) -> list[str]:
    """Why each repetition is padding; empty: it is none."""
    reasons: list[str] = []
    seen: set[bytes] = set()
    for trial_CT in eeg_RCT:
        content = np.ascontiguousarray(trial_CT).tobytes()
        if not trial_CT.any():
            reasons.append("zeros")
        elif trial_CT.dtype.kind == "f" and np.isnan(trial_CT).all():
            reasons.append("not_a_number")
        else:
            reasons.append("repeated" if content in seen else "")
            seen.add(content)
    return reasons
