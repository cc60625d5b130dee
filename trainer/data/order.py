"""The order of the training stream: a pure function of numbers, nothing else.

The items of a split's part are numbered shard by shard: item 0 is the first of the first shard that has any. One data
pass visits every item once::

    shards  0 1 2 3 4 5 6 7        permuted for this pass       5 0 7 2 | 6 1 3 4
    blocks of B = 4 shards         items permuted inside each   [.......] [.......]

so only B shards are read from at a time and memory holds one block's item numbers. Passes follow each other in one
endless stream of *positions* 0, 1, 2, ...: position p belongs to data pass ``p // num_items``. Optimizer step t takes
positions ``[t*G, (t+1)*G)`` of global batch G; a batch may straddle two passes; nothing is dropped and nothing doubled.
World size, micro-batch and restarts only cut the stream elsewhere, so its cursor is one number, ``samples_seen``.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from data_prep.contract.errors import CommandError
from trainer.data import random

_SHARDS = random.word("order of shards")
_ITEMS = random.word("order of items in a block")


class Order:
    """Which item stands at which position of the endless stream.

    Parameters
    ----------
    seed
        Of the run.
    shard_items
        Items that each shard holds; shards without any vanish.
    split_hash
        Identity of the split, so that another split is another order.
    block_shards
        Shards whose items are mixed with each other.

    Raises
    ------
    ValueError
        If there are no items, or a count or ``block_shards`` cannot be.
    """

    def __init__(self, *, seed: int, shard_items: Sequence[int], split_hash: str, block_shards: int) -> None:
        counts = np.asarray(shard_items, np.int64).reshape(-1)
        if (counts < 0).any():
            raise ValueError(f"shard_items has {int(counts.min())}, expected counts from 0 on")
        if counts.sum() == 0:
            raise ValueError("shard_items counts no items at all, expected at least one")
        if block_shards < 1:
            raise ValueError(f"block_shards is {block_shards}, expected at least 1")
        self.num_items = int(counts.sum())
        self._starts = (np.cumsum(counts) - counts)[counts > 0]
        self._counts = counts[counts > 0]
        self._shards = np.flatnonzero(counts)
        self._block_shards = block_shards
        self._words = (int(seed), random.word(split_hash))
        # Two of each: a batch that straddles two blocks or passes must not compute either twice.
        self._pass = functools.lru_cache(maxsize=2)(self._compute_pass)
        self._block = functools.lru_cache(maxsize=2)(self._compute_block)

    def data_passes(self, start: int, stop: int) -> np.ndarray:
        """Data pass of positions [start, stop): int64 (stop - start,)."""
        return np.arange(start, stop, dtype=np.int64) // self.num_items

    def data_pass(self, position: int) -> int:
        """Data pass of one position."""
        return position // self.num_items

    def items(self, start: int, stop: int) -> np.ndarray:
        """Item numbers at positions [start, stop): int64 (stop - start,)."""
        if not 0 <= start <= stop:
            raise ValueError(f"positions [{start}, {stop}): expected 0 <= start <= stop")
        pieces: list[np.ndarray] = []
        while start < stop:
            data_pass, first = divmod(start, self.num_items)
            ends = self._pass(data_pass)[1]
            block = int(np.searchsorted(ends, first, side="right"))
            block_start = int(ends[block - 1]) if block else 0
            take = min(int(ends[block]) - first, stop - start)
            pieces.append(self._block(data_pass, block)[first - block_start : first - block_start + take])
            start += take
        return np.concatenate(pieces) if pieces else np.empty(0, np.int64)

    def shards_of_block(self, position: int) -> np.ndarray:
        """Numbers of the shards that the block around ``position`` reads from: what is worth fetching ahead."""
        data_pass, first = divmod(position, self.num_items)
        shards, ends = self._pass(data_pass)
        block = int(np.searchsorted(ends, first, side="right"))
        chosen: np.ndarray = self._shards[shards[block * self._block_shards : (block + 1) * self._block_shards]]
        return chosen

    def _compute_pass(self, data_pass: int) -> tuple[np.ndarray, np.ndarray]:
        # The shards in this pass's order, and the position (inside the pass) at which each block ends.
        shards = _permutation(random.hash_numpy(*self._words, data_pass, _SHARDS, self._shards))
        ends = np.cumsum(self._counts[shards])
        last = np.minimum(np.arange(self._block_shards, len(shards) + self._block_shards, self._block_shards), len(shards)) - 1
        return shards, ends[last]

    def _compute_block(self, data_pass: int, block: int) -> np.ndarray:
        shards = self._pass(data_pass)[0][block * self._block_shards : (block + 1) * self._block_shards]
        # Sorted, so that equal hashes are settled by item number.
        items = np.concatenate([np.arange(self._starts[s], self._starts[s] + self._counts[s]) for s in np.sort(shards)])
        order: np.ndarray = items[_permutation(random.hash_numpy(*self._words, data_pass, _ITEMS, items))]
        order.flags.writeable = False
        return order


def rank_slices(
    samples_seen: int, *, global_batch_size: int, rank: int, world_size: int, micro_batch_size: int | None = None
) -> list[tuple[int, int]]:
    """Positions of the stream that one rank computes in the step that begins at ``samples_seen``, one pair a micro-batch.

    A rank takes one contiguous slice of the global batch, its micro-batches contiguous slices of that.

    Raises
    ------
    CommandError
        If the sizes do not divide, naming both.
    """
    if global_batch_size < 1 or global_batch_size % world_size:
        raise CommandError(f"global_batch_size is {global_batch_size}, expected a multiple of the world size {world_size}")
    of_rank = global_batch_size // world_size
    micro = of_rank if micro_batch_size is None else micro_batch_size
    if micro < 1 or of_rank % micro:
        raise CommandError(
            f"micro_batch_size is {micro}, expected a divisor of {of_rank} "
            f"(global_batch_size {global_batch_size} over world size {world_size})"
        )
    first = samples_seen + rank * of_rank
    return [(start, start + micro) for start in range(first, first + of_rank, micro)]


def _permutation(keys: np.ndarray) -> np.ndarray:
    # A stable sort of hashes: any correct sort gives this very permutation, whatever the version of numpy.
    return np.argsort(keys, kind="stable")
