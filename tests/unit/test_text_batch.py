"""Token rows hold every sequence whole, supervise captions only, and are cut without losing anything."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.models.language.prompt import Prompt
from trainer.models.language.rows import TextRows, build_rows, cut_by_length, first_fit

IDS = st.integers(1, 9)  # few ids, so that a caption's tokens are often those of a prompt or of padding
SEQUENCES = st.lists(
    st.tuples(st.lists(IDS, min_size=1, max_size=6), st.lists(IDS, max_size=5), st.lists(IDS, min_size=1, max_size=7)),
    min_size=1,
    max_size=9,
)


def rows_of(sequences: list[tuple[list[int], list[int], list[int]]], num_prefix: int, pack_length: int | None) -> TextRows:
    prompts = [Prompt(before, after, "") for before, after, _ in sequences]
    return build_rows(prompts, [caption for *_, caption in sequences], num_prefix, pack_length=pack_length)


def test_one_item_a_row() -> None:
    rows = rows_of([([5, 6], [7], [8, 9, 2]), ([5], [], [2])], 2, None)
    assert rows.ids_ML.tolist() == [[5, 6, 0, 0, 7, 8, 9, 0], [5, 0, 0, 0, 0, 0, 0, 0]]
    assert rows.position_ML.tolist() == [list(range(8))] * 2  # padding counts on: a restart would be another sequence
    assert rows.slot_N.tolist() == [2, 3, 9, 10]
    assert rows.target_T.tolist() == [4, 5, 6, 10]  # the last token before the caption predicts its first, be it a prefix token
    assert rows.label_T.tolist() == [8, 9, 2, 2]
    assert rows.item_T.tolist() == [0, 0, 0, 1]
    assert rows.num_tokens == 4


@settings(max_examples=60, deadline=None)
@given(sequences=SEQUENCES, num_prefix=st.integers(0, 3), pack_length=st.sampled_from([None, 24, 40]))
def test_every_sequence_is_there_whole_and_only_its_caption_is_supervised(sequences, num_prefix: int, pack_length: int | None) -> None:
    rows = rows_of(sequences, num_prefix, pack_length)
    width = rows.ids_ML.shape[1]
    assert width % 8 == 0
    assert pack_length in (None, width)
    ids, positions = rows.ids_ML.flatten(), rows.position_ML.flatten()
    taken = torch.zeros(len(ids), dtype=torch.int64)
    assert rows.num_tokens == sum(len(caption) for *_, caption in sequences)
    for item, (before, after, caption) in enumerate(sequences):
        target = rows.target_T[rows.item_T == item]
        length = len(before) + num_prefix + len(after) + len(caption) - 1
        start = int(target[-1]) - length + 1
        assert start // width == int(target[-1]) // width, "a sequence lies in one row"
        own = slice(start, start + length)
        taken[own] += 1
        assert ids[own].tolist() == [*before, *[0] * num_prefix, *after, *caption[:-1]]
        assert positions[own].tolist() == list(range(length))
        assert target.tolist() == list(range(start + length - len(caption), start + length))
        assert rows.label_T[rows.item_T == item].tolist() == caption  # the end token too, whatever the padding's id
        slots = rows.slot_N[item * num_prefix : (item + 1) * num_prefix]
        assert slots.tolist() == list(range(start + len(before), start + len(before) + num_prefix))
    assert taken.max() == 1, "sequences overlap"
    assert int((rows.position_ML == 0).sum()) == len(sequences), "a position 0 begins a sequence, and nothing else"
    assert not ids[taken == 0].any()


def test_packing_saves_rows() -> None:
    lengths = [9, 30, 7, 12, 20, 2]
    places, num_rows = first_fit(lengths, 32)
    assert num_rows == 3  # 30 + 2, 20 + 12, 9 + 7
    assert sorted(row for row, _ in places) == [0, 0, 1, 1, 2, 2]
    assert build_rows([Prompt([1] * n, [], "") for n in lengths], [[2]] * 6, 0, pack_length=32).ids_ML.shape == (3, 32)


@pytest.mark.parametrize(
    ("sequence", "num_prefix", "message"),
    [(([1] * 20, [2] * 5, [3] * 10), 4, r"stage\.pack_length: 32, .* 38 tokens"), (([], [], [3]), 0, "prompt: empty")],
)
def test_what_cannot_be_laid_out_is_refused(sequence, num_prefix: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rows_of([sequence], num_prefix, 32)


def test_a_share_is_cut_into_equal_parts_of_like_length() -> None:
    lengths = [30, 5, 12, 31, 6, 11]
    parts = cut_by_length(lengths, 3)
    assert [sorted(lengths[i] for i in part) for part in parts] == [[5, 6], [11, 12], [30, 31]]
    assert cut_by_length([4, 4, 4, 4], 2) == [[0, 1], [2, 3]]  # ties by number: the same everywhere
    with pytest.raises(ValueError, match="6 items cannot be cut into 4 equal parts"):
        cut_by_length(lengths, 4)
