"""What an encoding model is fitted from: counts and second moments of training rows, by fold and by the repetitions averaged in a row.

They add up: of rows in any order, in any blocks, on any number of ranks the sums are the same but for float64's rounding.

N: rows, E: embedding dimensions, D: features of a flattened trial.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from data_prep.contract.errors import UserError

NUM_FOLDS = 5
_ROWS_AT_ONCE = 4096


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Sums over rows, float64: of ones, of embeddings and EEG, and of their products."""

    count: float
    sum_E: np.ndarray
    sum_D: np.ndarray
    sum_EE: np.ndarray
    sum_ED: np.ndarray
    sum_DD: np.ndarray

    @classmethod
    def of(cls, embedding_NE: np.ndarray, eeg_ND: np.ndarray) -> Moments:
        """Of these rows."""
        found = cls.none(embedding_NE.shape[1], eeg_ND.shape[1])
        for start in range(0, len(eeg_ND), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            e, y = embedding_NE[rows].astype(np.float64), eeg_ND[rows].astype(np.float64)
            found += cls(count=float(len(e)), sum_E=e.sum(0), sum_D=y.sum(0), sum_EE=e.T @ e, sum_ED=e.T @ y, sum_DD=y.T @ y)
        return found

    @classmethod
    def none(cls, embedding_dim: int, num_features: int) -> Moments:
        """Of no rows."""
        e, d = embedding_dim, num_features
        sums = {"sum_EE": np.zeros((e, e)), "sum_ED": np.zeros((e, d)), "sum_DD": np.zeros((d, d))}
        return cls(count=0.0, sum_E=np.zeros(e), sum_D=np.zeros(d), **sums)

    def __add__(self, other: Moments) -> Moments:
        return Moments(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    def __sub__(self, other: Moments) -> Moments:
        return Moments(**{name: value - getattr(other, name) for name, value in vars(self).items()})

    def __mul__(self, weight: float) -> Moments:
        return Moments(**{name: value * weight for name, value in vars(self).items()})

    def projected(self, basis_DR: np.ndarray) -> Moments:
        """Of the EEG in the coordinates ``eeg @ basis``."""
        return Moments(
            count=self.count,
            sum_E=self.sum_E,
            sum_D=self.sum_D @ basis_DR,
            sum_EE=self.sum_EE,
            sum_ED=self.sum_ED @ basis_DR,
            sum_DD=basis_DR.T @ self.sum_DD @ basis_DR,
        )

    def about(self, mean_E: np.ndarray, mean_D: np.ndarray) -> Moments:
        """Of the same rows less ``mean_E`` and ``mean_D``."""
        e, d, n = self.sum_E, self.sum_D, self.count
        return Moments(
            count=n,
            sum_E=e - n * mean_E,
            sum_D=d - n * mean_D,
            sum_EE=self.sum_EE - np.outer(e, mean_E) - np.outer(mean_E, e) + n * np.outer(mean_E, mean_E),
            sum_ED=self.sum_ED - np.outer(e, mean_D) - np.outer(mean_E, d) + n * np.outer(mean_E, mean_D),
            sum_DD=self.sum_DD - np.outer(d, mean_D) - np.outer(mean_D, d) + n * np.outer(mean_D, mean_D),
        )

    @property
    def means(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean embedding (E,) and mean EEG (D,)."""
        return self.sum_E / self.count, self.sum_D / self.count


@dataclass(frozen=True, kw_only=True)
class GroupedMoments:
    """Sums by (fold, repetitions averaged in a row)."""

    groups: Mapping[tuple[int, int], Moments] = field(default_factory=dict)

    @classmethod
    def of(cls, embedding_NE: np.ndarray, eeg_ND: np.ndarray, fold_N: np.ndarray, n_reps_N: np.ndarray) -> GroupedMoments:
        """Of rows with their folds and repetitions.

        Raises
        ------
        UserError
            Rows that do not match, or values that are not finite.
        """
        if embedding_NE.ndim != 2 or len(embedding_NE) != len(eeg_ND):
            raise UserError(f"{len(eeg_ND)} rows of EEG and embeddings of shape {embedding_NE.shape}: expected (n, e) with as many rows")
        if not (np.isfinite(eeg_ND).all() and np.isfinite(embedding_NE).all()):
            raise UserError("EEG or embeddings hold values that are not finite")
        groups = {}
        for fold, n_reps in sorted(set(zip(fold_N.tolist(), n_reps_N.tolist(), strict=True))):
            own = (fold_N == fold) & (n_reps_N == n_reps)
            groups[int(fold), int(n_reps)] = Moments.of(embedding_NE[own], eeg_ND[own])
        return cls(groups=groups)

    def __add__(self, other: GroupedMoments) -> GroupedMoments:
        found = dict(self.groups)
        for key, moments in other.groups.items():
            found[key] = found[key] + moments if key in found else moments
        return GroupedMoments(groups=found)

    def map(self, change: Callable[[Moments], Moments]) -> GroupedMoments:
        """Every group changed."""
        return GroupedMoments(groups={key: change(moments) for key, moments in self.groups.items()})

    @property
    def folds(self) -> list[int]:
        """Folds that have rows."""
        return sorted({fold for fold, _ in self.groups})

    def total(self, weights: Mapping[int, float] | None = None, *, fold: int | None = None) -> Moments:
        """All groups, or those of one fold, summed; ``weights`` by repetitions."""
        chosen = [(n, moments) for (own, n), moments in sorted(self.groups.items()) if fold in (None, own)]
        n, found = chosen[0]
        found = found if weights is None else found * weights[n]
        for n, moments in chosen[1:]:
            found = found + (moments if weights is None else moments * weights[n])
        return found


def folds_of_new(concept_N: np.ndarray, stimulus_N: np.ndarray) -> np.ndarray:
    """Fold of each row, by its concept, since lack of fit is to be that of new concepts; where concepts are few, which cannot be left out,
    by its stimulus."""
    return folds_of(concept_N if len(np.unique(concept_N)) >= 2 * NUM_FOLDS else stimulus_N)


def folds_of(group_N: np.ndarray, num_folds: int = NUM_FOLDS) -> np.ndarray:
    """Fold of each row, int64: rows of one group (a concept, an image) have one, groups are dealt out by a fixed draw of their numbers.

    It depends on the set of groups and on each row's own alone, so that it is the same on every rank that knows the groups.
    """
    groups, place_N = np.unique(group_N, return_inverse=True)
    dealt = np.random.RandomState(0).permutation(len(groups)) % num_folds
    fold_N: np.ndarray = dealt[place_N.reshape(-1)]
    return fold_N
