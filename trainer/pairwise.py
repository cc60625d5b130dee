"""Sums over all pairs of a row and a column, a block of rows at a time: what compares every row of a large batch with all of it.

A matrix of all logits would be B x G numbers, and its gradient as many: 17 GB each for a batch of 65,536. Here only a block of rows of it
is there at any time, and each block leaves its share of the gradient behind: what is kept until the backward pass are gradients
of the embeddings, as large as these. A small batch is one block.

B: rows of this rank, G: columns (rows of all ranks), E: embedding dimension, N: rows of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK_ELEMENTS = 1 << 24
"""Logits of a block at most, unless a single row has more: 64 MiB in float32."""
Terms = Callable[[Tensor, Tensor], Tensor]
"""From logits (N, G), excluded ones ``-inf``, and the pairs' columns (N, 1) to the sum of the block's terms; the logits become its gradient
with respect to them, in place."""


class Compared(NamedTuple):
    """How rows are compared with columns."""

    terms: Terms
    weight: float
    """Of each term in the sum."""
    offset: int
    """Column of the first row's pair."""
    ids_B: Tensor | None
    ids_G: Tensor | None
    """Columns of a row's own id are left out, except its pair; None: none are."""


def softmax_terms(logits_NG: Tensor, pair_N1: Tensor) -> Tensor:
    """Cross-entropy of each row's softmax."""
    logits_NG -= logits_NG.amax(1, keepdim=True)
    pair_sum = logits_NG.gather(1, pair_N1).sum()
    total_N1 = logits_NG.exp_().sum(1, keepdim=True)
    logits_NG /= total_N1
    _add_at(logits_NG, pair_N1, -1.0)
    return total_N1.log().sum() - pair_sum


def sigmoid_terms(logits_NG: Tensor, pair_N1: Tensor) -> Tensor:
    """Logistic loss of each pair of a row and a column."""
    logit_N1 = logits_NG.gather(1, pair_N1)
    terms_NG = F.softplus(logits_NG).scatter_(1, pair_N1, F.softplus(-logit_N1))
    logits_NG.sigmoid_().scatter_(1, pair_N1, -torch.sigmoid(-logit_N1))
    return terms_NG.sum()


def excluded_columns(ids_B: Tensor, ids_G: Tensor, offset: int) -> Tensor:
    """Columns that are no negatives of a row although they are not its pair: bool (B, G), same id but another row."""
    same_BG = ids_B[:, None] == ids_G[None, :]
    rows = torch.arange(len(ids_B), device=ids_B.device)
    same_BG[rows, rows + offset] = False
    return same_BG


def compare(how: Compared, directions: Sequence[tuple[Tensor, Tensor]], scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """The weighted sum of all terms, a scalar with gradients to all that is given; float32 throughout.

    Parameters
    ----------
    how
        What is summed.
    directions
        Rows (B, E) and the columns (G, E) that they are compared with. A tensor that is given twice has one gradient in memory.
    scale, bias
        Shape (1,): logits are ``scale * row @ column + bias``.
    """
    given = {id(tensor): tensor for direction in directions for tensor in direction}
    place = {key: number for number, key in enumerate(given)}
    sides = [(place[id(rows)], place[id(columns)]) for rows, columns in directions]
    loss: Tensor = _Compare.apply(how, sides, scale, scale.new_zeros(1) if bias is None else bias, *given.values())
    return loss


class _Compare(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, how: Compared, sides: Sequence[tuple[int, int]], scale: Tensor, bias: Tensor, *given: Tensor) -> Tensor:
        grads = [torch.zeros_like(x) if wanted else None for x, wanted in zip(given, ctx.needs_input_grad[4:], strict=True)]
        grad_scale, grad_bias, total = torch.zeros_like(scale), torch.zeros_like(bias), scale.new_zeros(())
        for rows, columns in sides:
            x_BE, y_GE, grad_x_BE, grad_y_GE = given[rows], given[columns], grads[rows], grads[columns]
            at_once = max(1, BLOCK_ELEMENTS // len(y_GE))
            for first in range(0, len(x_BE), at_once):
                block = slice(first, first + at_once)
                logits_NG, pair_N1 = _logits(how, x_BE[block], y_GE, first, scale, bias)
                total += how.terms(logits_NG, pair_N1) * how.weight
                if not any(ctx.needs_input_grad):
                    continue
                logits_NG *= how.weight
                grad_x_NE = logits_NG @ y_GE
                grad_scale += (x_BE[block] * grad_x_NE).sum()
                grad_bias += logits_NG.sum()
                if grad_x_BE is not None:
                    grad_x_BE[block] += grad_x_NE.mul_(scale)
                if grad_y_GE is not None:
                    grad_y_GE.addmm_(logits_NG.T, x_BE[block] * scale)
        ctx.grads = (grad_scale, grad_bias, *grads)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        found, ctx.grads = ctx.grads, None
        assert found is not None, "a second backward pass through the same comparison"
        return None, None, *(None if grad is None else grad.mul_(grads[0]) for grad in found)


def _logits(how: Compared, x_NE: Tensor, y_GE: Tensor, first: int, scale: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Of a block of rows from ``first`` on: (N, G), and their pairs' columns (N, 1)."""
    logits_NG = (x_NE @ y_GE.T).mul_(scale).add_(bias)
    offset = how.offset + first
    if how.ids_B is not None:
        assert how.ids_G is not None, "ids of rows without ids of columns"
        logits_NG.masked_fill_(excluded_columns(how.ids_B[first : first + len(x_NE)], how.ids_G, offset), -torch.inf)
    return logits_NG, torch.arange(offset, offset + len(x_NE), device=x_NE.device)[:, None]


def _add_at(matrix_NG: Tensor, column_N1: Tensor, value: float) -> None:
    matrix_NG.scatter_(1, column_N1, matrix_NG.gather(1, column_N1) + value)
