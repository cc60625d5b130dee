"""Token matrices of a batch of prompts and captions: pure functions of lists of ids.

A sequence is ``before, K prefix slots, after, caption, end``; the last token is predicted, never read. Rows hold one
sequence each, padded on the right, or several packed ones; positions restart at 0 with each, by which transformers tells
packed sequences apart, and what comes after a sequence is never seen by it. So one layout serves both and no mask is needed.

Labels go by position, never by value: the pad id cannot hide a real token, even where pad and end are one token.

M: rows, L: columns, K: prefix tokens, T: supervised tokens of all rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from data_prep.contract.errors import UserError
from trainer.models.language.prompt import Prompt


@dataclass(frozen=True, kw_only=True, slots=True)
class TextRows:
    """A batch of sequences; all int64, all on one device."""

    ids_ML: Tensor
    """Token ids; 0 in prefix slots and behind the last sequence of a row."""
    position_ML: Tensor
    """Position of each token in its own sequence."""
    item_ML: Tensor
    """Item of each token; 0 behind the last sequence of a row."""
    slot_N: Tensor
    """Flat index (row * L + column) of every prefix slot, K an item, items in their order."""
    target_T: Tensor
    """Flat index of every position whose next token is supervised."""
    label_T: Tensor
    """That next token."""
    item_T: Tensor
    """Item of each supervised token."""

    @property
    def num_tokens(self) -> int:
        """Supervised tokens."""
        return len(self.label_T)

    def to(self, device: torch.device) -> TextRows:
        """The same on ``device``."""
        return replace(self, **{f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)})


def build_rows(
    prompts: Sequence[Prompt], targets: Sequence[Sequence[int]], num_prefix: int, *, pack_length: int | None = None, pad_multiple: int = 8
) -> TextRows:
    """Sequences as rows.

    Parameters
    ----------
    prompts, targets
        An item each: ids before and after the prefix, ids of the caption with its end token.
    num_prefix
        K.
    pack_length
        None: a row an item, as long as the longest; else rows of this length, filled first-fit from the longest item down.
    pad_multiple
        Row length is rounded up to a multiple.

    Raises
    ------
    UserError
        A sequence longer than ``pack_length`` (both numbers are in the message), or nothing before a caption.
    """
    if any(not (prompt.before or prompt.after or num_prefix) for prompt in prompts):
        raise UserError("prompt: empty, and there is no prefix, expected at least one token before the caption that it predicts")
    lengths = [len(p.before) + num_prefix + len(p.after) + len(t) - 1 for p, t in zip(prompts, targets, strict=True)]
    if pack_length is None:
        width = -(-max(lengths) // pad_multiple) * pad_multiple
        places = [(item, 0) for item in range(len(lengths))]
        num_rows = len(lengths)
    else:
        if max(lengths) > pack_length:
            raise UserError(f"stage.pack_length: {pack_length}, but a sequence has {max(lengths)} tokens")
        width = pack_length
        places, num_rows = first_fit(lengths, pack_length)
    ids = torch.zeros(num_rows, width, dtype=torch.int64)
    position = torch.full((num_rows, width), -1, dtype=torch.int64)
    token_item = torch.zeros_like(ids)
    slots: list[Tensor] = []
    target, label, item_of = [], [], []
    for item, (prompt, caption, (row, start)) in enumerate(zip(prompts, targets, places, strict=True)):
        first_slot = start + len(prompt.before)
        text = [*prompt.before, *([0] * num_prefix), *prompt.after, *caption[:-1]]
        ids[row, start : start + len(text)] = torch.tensor(text)
        position[row, start : start + len(text)] = torch.arange(len(text))
        token_item[row, start : start + len(text)] = item
        slots.append(row * width + first_slot + torch.arange(num_prefix))
        begin = row * width + start + lengths[item] - len(caption)
        target.append(begin + torch.arange(len(caption)))
        label.append(torch.tensor(list(caption), dtype=torch.int64))
        item_of.append(torch.full((len(caption),), item))
    return TextRows(
        ids_ML=ids,
        position_ML=_continued(position),
        item_ML=token_item,
        slot_N=torch.cat(slots),
        target_T=torch.cat(target),
        label_T=torch.cat(label),
        item_T=torch.cat(item_of),
    )


def first_fit(lengths: Sequence[int], capacity: int) -> tuple[list[tuple[int, int]], int]:
    """(row, first column) of each sequence and the number of rows: first fit, the longest first."""
    free: list[int] = []
    places: list[tuple[int, int]] = [(0, 0)] * len(lengths)
    for item in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        row = next((r for r, room in enumerate(free) if room >= lengths[item]), len(free))
        if row == len(free):
            free.append(capacity)
        places[item] = (row, capacity - free[row])
        free[row] -= lengths[item]
    return places, len(free)


def cut_by_length(lengths: Sequence[int], num_parts: int) -> list[list[int]]:
    """Item numbers in parts of equal count, neighbours in length together: less padding, and the same mean, since it is by token.

    Raises
    ------
    UserError
        The items cannot be dealt out evenly.
    """
    if num_parts < 1 or len(lengths) % num_parts:
        raise UserError(f"{len(lengths)} items cannot be cut into {num_parts} equal parts")
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    size = len(lengths) // num_parts
    return [order[first : first + size] for first in range(0, len(order), size)]


def _continued(position_ML: Tensor) -> Tensor:
    # Padding counts on from what is before it: a restart would be taken for another sequence.
    columns = torch.arange(position_ML.shape[1])
    last = torch.where(position_ML >= 0, columns, -1).amax(dim=1, keepdim=True)
    at_last = position_ML.gather(1, last)
    return torch.where(position_ML >= 0, position_ML, at_last + columns - last)
