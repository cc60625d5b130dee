"""The training stream is one sequence, whatever it is cut into; and random numbers are the same bits everywhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data import random
from trainer.data.order import Order, rank_slices

SHARDS = st.lists(st.integers(0, 12), min_size=1, max_size=12).filter(lambda counts: sum(counts) > 0)
property_test = settings(max_examples=60, deadline=None, derandomize=True)


def order(shard_items: list[int], *, seed: int = 3, split: str = "a", block: int = 2) -> Order:
    return Order(seed=seed, shard_items=shard_items, split_hash=split, block_shards=block)


@property_test
@given(shards=SHARDS, seed=st.integers(0, 2**40), block=st.integers(1, 14), passes=st.integers(1, 3))
def test_every_pass_has_every_item_once(shards, seed, block, passes):
    stream = order(shards, seed=seed, block=block)
    n = sum(shards)
    for data_pass in range(passes):
        items = stream.items(data_pass * n, (data_pass + 1) * n)
        assert sorted(items.tolist()) == list(range(n))
        assert set(stream.data_passes(data_pass * n, (data_pass + 1) * n)) == {data_pass}


@property_test
@given(
    shards=SHARDS,
    block=st.integers(1, 5),
    step_items=st.integers(1, 3),
    micro_divisor=st.sampled_from([1, 2, 4]),
    steps=st.integers(1, 5),
    seed=st.integers(0, 999),
)
def test_world_size_and_micro_batch_only_cut_the_stream(shards, block, step_items, micro_divisor, steps, seed):
    global_batch = 24 * step_items  # a multiple of every world size below
    whole = order(shards, seed=seed, block=block).items(0, steps * global_batch)
    for world_size in (1, 2, 3, 4, 8):
        of_rank = global_batch // world_size
        micro = of_rank // micro_divisor if of_rank % micro_divisor == 0 else of_rank
        # Each rank has its own Order, as it has its own process.
        ranks = [order(shards, seed=seed, block=block) for _ in range(world_size)]
        seen: list[int] = []
        for step in range(steps):
            for rank, stream in enumerate(ranks):
                slices = rank_slices(
                    step * global_batch, global_batch_size=global_batch, rank=rank, world_size=world_size, micro_batch_size=micro
                )
                assert all(stop - start == micro for start, stop in slices)
                seen += [int(i) for start, stop in slices for i in stream.items(start, stop)]
        assert seen == whole.tolist()


@property_test
@given(shards=SHARDS, block=st.integers(1, 5), cut=st.integers(0, 200), length=st.integers(0, 100))
def test_resume_anywhere_continues_exactly(shards, block, cut, length):
    whole = order(shards, block=block).items(0, cut + length)
    assert order(shards, block=block).items(cut, cut + length).tolist() == whole[cut:].tolist()


@property_test
@given(shards=SHARDS, block=st.integers(1, 5), data_pass=st.integers(0, 3))
def test_blocks_hold_whole_shards_and_cover_them(shards, block, data_pass):
    stream = order(shards, block=block)
    shard_of = np.repeat(np.arange(len(shards)), shards)
    position, end, seen = data_pass * sum(shards), (data_pass + 1) * sum(shards), []
    while position < end:
        of_block = stream.shards_of_block(position)
        size = sum(shards[s] for s in of_block)
        assert set(shard_of[stream.items(position, position + size)]) == set(of_block.tolist())
        assert len(of_block) <= block
        seen += of_block.tolist()
        position += size
    assert position == end
    assert sorted(seen) == [s for s, count in enumerate(shards) if count]


def test_seed_split_and_pass_change_the_order():
    first = order([50, 50]).items(0, 100).tolist()
    others = [order([50, 50], seed=4).items(0, 100), order([50, 50], split="b").items(0, 100), order([50, 50]).items(100, 200)]
    assert all(first != other.tolist() for other in others)


def python_hash(*words: int) -> int:
    state = 0
    for word in words:
        state = ((state ^ word) + 0x9E3779B97F4A7C15) % 2**64
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ state >> 27) * 0x94D049BB133111EB % 2**64
        state ^= state >> 31
    return state


def test_order_is_what_its_description_says():
    """Written again with Python's integers and sort, so that no version of numpy can reorder a run that is half-way through."""
    counts, seed, block = [3, 0, 4, 2, 5], 11, 2
    split, shards_word, items_word = (random.word(w) for w in ("abc", "order of shards", "order of items in a block"))
    starts = np.cumsum(counts) - counts
    expected: list[int] = []
    for data_pass in range(3):
        shards = sorted((s for s, n in enumerate(counts) if n), key=lambda s: python_hash(seed, split, data_pass, shards_word, s))
        for first in range(0, len(shards), block):
            items = [int(starts[s]) + i for s in shards[first : first + block] for i in range(counts[s])]
            expected += sorted(items, key=lambda i: python_hash(seed, split, data_pass, items_word, i))
    assert order(counts, seed=seed, split="abc", block=block).items(0, 3 * 14).tolist() == expected


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: order([0, 0]), "no items"),
        (lambda: order([3, -1]), "-1"),
        (lambda: order([3], block=0), "block_shards is 0"),
        (lambda: order([3]).items(5, 2), r"\[5, 2\)"),
        (
            lambda: rank_slices(0, global_batch_size=10, rank=0, world_size=4),
            "global_batch_size is 10, expected a multiple of the world size 4",
        ),
        (
            lambda: rank_slices(0, global_batch_size=8, rank=0, world_size=2, micro_batch_size=3),
            "micro_batch_size is 3, expected a divisor of 4",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@property_test
@given(
    words=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5), many=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1)
)
def test_numpy_and_torch_hash_to_the_same_bits(words, many):
    numpy_bits = random.hash_numpy(*words, np.asarray(many, np.int64))
    torch_bits = random.hash_torch(*words, torch.tensor(many, dtype=torch.int64))
    assert numpy_bits.view(np.int64).tolist() == torch_bits.tolist()
    assert random.uniform_numpy(numpy_bits).tolist() == random.uniform_torch(torch_bits).tolist()


def test_hash_is_splitmix64():
    """First outputs of the published SplitMix64 from state 0: our hash of one word is its finaliser."""
    assert int(random.hash_numpy(0)) == 0xE220A8397B1DCDAF
    assert int(random.hash_numpy(0x9E3779B97F4A7C15)) == 0x6E789E6AA1B965F4


def test_random_numbers_have_their_distributions():
    bits = random.hash_torch(7, torch.arange(200_000))
    uniform, normal = random.uniform_torch(bits), random.normal_torch(bits[:2_000], 101)
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert abs(uniform.mean() - 0.5) < 0.003
    assert abs(np.corrcoef(uniform[:-1], uniform[1:])[0, 1]) < 0.01
    assert normal.shape == (2_000, 101)
    assert torch.isfinite(normal).all()
    assert abs(normal.mean()) < 0.01
    assert abs(normal.std() - 1) < 0.01
    assert abs((normal.abs() < 1.96).float().mean() - 0.95) < 0.003
    assert abs(np.corrcoef(normal[:, 0], normal[:, 51])[0, 1]) < 0.08  # cosine and sine of one hash
