"""Dropout by item: what is dropped of an item depends neither on its batch nor on its rank, and is the same after a restart.

torch draws masks from one stream of random numbers, which ranks and micro-batches cut differently. Here an element's number is
a hash of (seed, data pass, item, module, element), as augmentation's numbers are. Its path: a task hashes seed, data pass and
item to a key (:func:`trainer.data.random.hash_torch`) and gives the keys of its rows to the model's forward, which hands them
to all its dropouts (:class:`DropoutKeys`); each of these hashes them with its own name to the rows of its mask. All of it is
tensor arithmetic on the device, for which nobody waits.

R: rows of a mask (items, or tokens of a language model), E: elements of a row, B: items, H: heads, Q: queries, K: keys, D: width.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.data import random

_CHUNK = {"cpu": 1 << 16}
"""Elements that are hashed at a time, so that what lies between two operations stays in the cache."""
_OTHERWISE = 1 << 23
_FIRST, _SECOND = 0x7FEB352D, 0x846CA68B - (1 << 32)


class Dropout(nn.Dropout):
    """Dropout that draws by item where it is given keys, and from torch's own stream otherwise.

    Keys count where the leading dimensions of the input are the rows that they belong to; ``whole_maps`` drops all positions of
    a feature (the dimension after the rows) together, as :class:`torch.nn.Dropout2d` does.
    """

    row_R: Tensor | None = None
    """int32: hash of each row's key and of the module's name; see :class:`DropoutKeys`."""

    def __init__(self, p: float = 0.5, *, whole_maps: bool = False) -> None:
        super().__init__(p)
        self.whole_maps = whole_maps

    @property
    def drops(self) -> bool:
        """Whether it is more than the identity."""
        return self.training and self.p > 0

    def forward(self, x: Tensor) -> Tensor:
        """Of any shape, rows first."""
        return x * self.mask(x) * (1 / (1 - self.p)) if self.drops else x

    def mask(self, x: Tensor) -> Tensor:
        """bool, what is kept of ``x``: of its shape, with ``whole_maps`` of size 1 behind the features."""
        shape = x.shape[:2] if self.whole_maps else x.shape
        row_R = self.row_R
        if row_R is not None and len(row_R) in itertools.accumulate(shape, operator.mul):
            kept = kept_by_hash(row_R, shape.numel() // len(row_R), self.p)
        else:
            kept = torch.empty(shape, dtype=torch.bool, device=x.device).bernoulli_(1 - self.p)
        return kept.view(*shape, *[1] * (x.dim() - len(shape)))


class DropoutKeys:
    """Hands the keys of a batch's rows to dropouts, each of which makes other random numbers of them.

    Parameters
    ----------
    modules
        With their names, of which a dropout's numbers depend; those that are no :class:`Dropout` are passed over.
    """

    def __init__(self, modules: Iterable[tuple[str, nn.Module]]) -> None:
        found = [(name, module) for name, module in modules if isinstance(module, Dropout)]
        self.dropouts = [module for _, module in found]
        words = np.array([random.word(f"dropout {name}") for name, _ in found], np.uint64)
        self.word_N1 = torch.from_numpy(words.view(np.int64)).unsqueeze(1)

    def set(self, key_R: Tensor | None) -> None:
        """For the forward that follows and whatever its backward computes anew.

        Parameters
        ----------
        key_R
            int64, on the device: a hash for each row; None: there are none.
        """
        rows: Iterable[Tensor | None] = itertools.repeat(None)
        if key_R is not None:
            self.word_N1 = self.word_N1.to(key_R.device, non_blocking=True)
            rows = _halved(random.hash_torch(key_R, self.word_N1, device=key_R.device))
        for dropout, row_R in zip(self.dropouts, rows, strict=False):
            dropout.row_R = row_R


def kept_by_hash(row_R: Tensor, num_elements: int, p: float) -> Tensor:
    """Which elements are kept: bool (R, E), each with probability ``1 - p``, whatever other rows there are.

    An element's number are the bits of ``row ^ element``, both hashed, after Wellons' ``lowbias32`` (its first and its last step
    are left out: the one is in the hashes, the other changes no high bits). They are compared as int32.
    """
    element_E = _halved(random.hash_torch(torch.arange(num_elements, device=row_R.device), device=row_R.device))
    least = min(round(p * 2**32), 2**32 - 1) - 2**31
    if torch.compiler.is_compiling():  # one pass over memory
        return _mixed(row_R.unsqueeze(1) ^ element_E) >= least
    kept_RE = torch.empty(len(row_R), num_elements, dtype=torch.bool, device=row_R.device)
    at_once = max(1, _CHUNK.get(row_R.device.type, _OTHERWISE) // max(1, num_elements))
    for first in range(0, len(row_R), at_once):
        rows = slice(first, first + at_once)
        torch.ge(_mixed(row_R[rows, None] ^ element_E), least, out=kept_RE[rows])
    return kept_RE


def attend(query_BHQD: Tensor, key_BHKD: Tensor, value_BHKD: Tensor, dropout: Dropout) -> Tensor:
    """Scaled dot-product attention with dropout of its weights: (B, H, Q, D).

    Fused where nothing is dropped, for no fused kernel takes a mask.
    """
    if not dropout.drops:
        return F.scaled_dot_product_attention(query_BHQD, key_BHKD, value_BHKD)
    scores_BHQK = query_BHQD * query_BHQD.shape[-1] ** -0.5 @ key_BHKD.transpose(-2, -1)
    weights_BHQK: Tensor = dropout(scores_BHQK.softmax(-1))
    return weights_BHQK.to(value_BHKD.dtype) @ value_BHKD


def _halved(bits: Tensor) -> Tensor:
    return (bits >> 32).to(torch.int32)


def _mixed(bits: Tensor) -> Tensor:
    bits = bits * _FIRST
    bits ^= (bits >> 15) & 0x1FFFF
    bits *= _SECOND
    return bits
