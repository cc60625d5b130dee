"""Sums over training samples, exact, from which an encoding model is solved: of a subject, or of several added up.

N: samples, D: features of a flattened trial, E: embedding dimensions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from threadpoolctl import threadpool_limits

from data_prep.contract.closed_form import EncodingModel
from trainer.data.loader import Loader
from trainer.models.encoding.by_direction import MOST_DIRECTIONS, fit_by_direction
from trainer.models.encoding.exact import ExactSum
from trainer.models.encoding.moments import GroupedMoments, Moments
from trainer.models.encoding.rows import Rows, Units, read_in_pieces

Key = tuple[int, int]
"""Fold, and repetitions averaged in a row."""


class RowSums:
    """Counts and sums by fold and repetitions, and the noise of single repetitions about their means.

    Parameters
    ----------
    units
        As of all sums that are to be added to these.
    keys
        All (fold, repetitions) that will come: the same on every rank.
    """

    def __init__(self, units: Units, keys: Iterable[Key]) -> None:
        self.units = units
        self.groups = {key: _Group(units) for key in sorted(set(keys))}
        self.noise = ExactSum((units.num_features, units.num_features), 2 * units.noise.power)
        self.freedom = np.zeros(1, np.int64)

    def add_rows(self, rows: Rows, fold_N: np.ndarray) -> None:
        """Add samples with their folds.

        Raises
        ------
        UserError
            A value that is not finite, or beyond the units.
        """
        embedding, eeg = self.units.embedding.cut(rows.target_NE, "the embedding"), self.units.eeg.cut(rows.eeg_ND, "EEG")
        for key, group in self.groups.items():
            own = (fold_N == key[0]) & (rows.count_N == key[1])
            if own.any():
                group.add_rows(embedding[own], eeg[own])
        self.noise.add_products(self.units.noise.cut(rows.noise_RD, "EEG"))
        self.freedom += rows.freedom

    def add_samples(self, loader: Loader, samples: np.ndarray, fold_N: np.ndarray) -> None:
        """Read samples of a part by number, and add them; ``fold_N`` of all samples of the part."""
        for some, rows in read_in_pieces(loader, samples):
            self.add_rows(rows, fold_N[some])

    def add(self, other: RowSums) -> None:
        """Add the sums of other samples, all of whose keys these have."""
        for key, group in other.groups.items():
            self.groups[key].add(group)
        self.noise.add(other.noise)
        self.freedom += other.freedom

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it, int64, by name, to be saved, or added to that of other ranks in place."""
        found = {"freedom": self.freedom} | {f"noise.{word}": array for word, array in self.noise.words().items()}
        for (fold, n_reps), group in self.groups.items():
            found |= {f"{fold}.{n_reps}.{name}": array for name, array in group.arrays().items()}
        return found

    def load(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Become what :meth:`arrays` gave."""
        for name, array in self.arrays().items():
            array[...] = arrays[name]

    @property
    def count(self) -> int:
        """Samples."""
        return sum(int(group.count[0]) for group in self.groups.values())

    def fit(self, *, most_directions: int = MOST_DIRECTIONS) -> EncodingModel:
        """The encoding model of these samples; solved on one thread, so that the same sums give the same bits whatever the machine is asked
        to use.

        Raises
        ------
        UserError
            They are too few.
        """
        moments = GroupedMoments(groups={key: group.moments() for key, group in self.groups.items() if group.count[0]})
        freedom = int(self.freedom[0])
        with threadpool_limits(1):
            return fit_by_direction(moments, self.noise.value() / max(freedom, 1), freedom, most_directions=most_directions)


def keys_of(loader: Loader, samples: np.ndarray, fold_N: np.ndarray) -> list[Key]:
    """Folds and repetitions of some samples of a part."""
    return sorted(set(zip(fold_N[samples].tolist(), loader.sample_counts[samples].tolist(), strict=True)))


class _Group:
    """The sums of :class:`Moments`."""

    def __init__(self, units: Units) -> None:
        e, d = units.embedding_dim, units.num_features
        a, b = units.embedding.power, units.eeg.power
        shapes = {"sum_E": ((e,), a), "sum_D": ((d,), b), "sum_EE": ((e, e), 2 * a), "sum_ED": ((e, d), a + b), "sum_DD": ((d, d), 2 * b)}
        self.count = np.zeros(1, np.int64)
        self.totals = {name: ExactSum(shape, power) for name, (shape, power) in shapes.items()}

    def add_rows(self, embedding: np.ndarray, eeg: np.ndarray) -> None:
        self.count += len(eeg)
        self.totals["sum_E"].add_rows(embedding)
        self.totals["sum_D"].add_rows(eeg)
        self.totals["sum_EE"].add_products(embedding)
        self.totals["sum_ED"].add_products(embedding, eeg)
        self.totals["sum_DD"].add_products(eeg)

    def add(self, other: _Group) -> None:
        self.count += other.count
        for name, total in self.totals.items():
            total.add(other.totals[name])

    def arrays(self) -> dict[str, np.ndarray]:
        words = {f"{name}.{word}": array for name, total in self.totals.items() for word, array in total.words().items()}
        return {"count": self.count} | words

    def moments(self) -> Moments:
        return Moments(count=float(self.count[0]), **{name: total.value() for name, total in self.totals.items()})
