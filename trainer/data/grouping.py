"""Which repetitions make an item, and which of them a batch takes.

N items, R repetitions, both by number among the rows of a loader.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainer.data import random


@dataclass(frozen=True, kw_only=True)
class Grouping:
    """Items of a part: item i averages the repetitions ``first_N[i] ... + count_N[i]`` of the loader's rows."""

    first_N: np.ndarray
    count_N: np.ndarray
    sample_N: np.ndarray

    def __len__(self) -> int:
        return len(self.first_N)

    @classmethod
    def by_sample(cls, sample_R: np.ndarray) -> Grouping:
        """The repetitions of a sample, which are neighbours, are one item."""
        sample, first, count = np.unique(sample_R, return_index=True, return_counts=True)
        return cls(first_N=first, count_N=count, sample_N=sample)

    @classmethod
    def singly(cls, sample_R: np.ndarray) -> Grouping:
        """Every repetition is an item."""
        number = np.arange(len(sample_R))
        return cls(first_N=number, count_N=np.ones_like(number), sample_N=sample_R)

    def rows(self, items: np.ndarray) -> np.ndarray:
        """Repetitions of some items, item by item."""
        return ranges(self.first_N[items], self.count_N[items])

    def choose(self, items: np.ndarray, data_pass: np.ndarray, most: int, words: tuple[int, ...] | None) -> tuple[np.ndarray, np.ndarray]:
        """At most ``most`` repetitions of each item: the first, or with hash words a choice at random without replacement.

        Returns
        -------
        (rows, count)
            Repetitions item by item, and how many of each item.
        """
        first, count = self.first_N[items], self.count_N[items]
        if words is None:
            rank = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
        else:
            rank = _random_ranks(words, data_pass, items, count)
        return ranges(first, count)[rank < most], np.minimum(count, most)


def ranges(first: np.ndarray, count: np.ndarray) -> np.ndarray:
    """first[0], first[0] + 1, ... (count[0] of them), first[1], ..."""
    before = np.cumsum(count) - count
    return np.repeat(first - before, count) + np.arange(int(count.sum()))


def _random_ranks(words: tuple[int, ...], data_pass: np.ndarray, items: np.ndarray, count: np.ndarray) -> np.ndarray:
    # Rank of each repetition of an item by a hash: those below k are k drawn without replacement.
    item = np.repeat(np.arange(len(items)), count)
    starts = np.repeat(np.cumsum(count) - count, count)
    number = np.arange(len(item))
    keys = random.hash_numpy(*words, data_pass[item], items[item], number - starts)
    rank = np.empty(len(item), np.int64)
    rank[np.lexsort((number, keys, item))] = number - starts
    return rank
