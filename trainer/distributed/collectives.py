"""Collectives with gradients, identities where there is only one rank.

With a local loss on each rank and DeepSpeed averaging gradients over ranks, these give the gradient of the mean of the
local losses exactly: the backward of a gather sums what all ranks' losses say about this rank's rows.

B: rows of this rank, G: rows of all ranks, D: any width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor


def num_ranks() -> int:
    """Ranks that are connected; 1 where nothing was started."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def this_rank() -> int:
    """Number of this rank; 0 where nothing was started."""
    return dist.get_rank() if num_ranks() > 1 else 0


def gather_rows(x_BD: Tensor) -> Tensor:
    """Rows of all ranks, in rank order, with gradient: (B, ...) -> (G, ...). Every rank must bring equally many rows.

    The backward pass sums over ranks the gradient with respect to this rank's rows (a reduce-scatter).
    """
    return _GatherRows.apply(x_BD) if num_ranks() > 1 else x_BD


def gather_ids(ids_B: Tensor) -> Tensor:
    """Integers of all ranks in rank order, without gradient: (B,) -> (G,)."""
    return _all_gather(ids_B) if num_ranks() > 1 else ids_B


def sum_across(x: Tensor) -> Tensor:
    """Sum over ranks, with gradient (whose backward is a sum over ranks as well)."""
    return _SumAcross.apply(x) if num_ranks() > 1 else x


def sum_on_rank_0(arrays: Mapping[str, np.ndarray]) -> None:
    """Integers of all ranks added up in place on rank 0, and zero on the others; a collective where there are several ranks."""
    if num_ranks() == 1:
        return
    for name in sorted(arrays):
        total = torch.from_numpy(arrays[name])
        dist.reduce(total, dst=0)
        if this_rank():
            arrays[name][...] = 0


def check_equal_rows(rows: int, device: torch.device) -> None:
    """Assert that all ranks bring the same number of rows; gathering unequal ones would hang or mix them up."""
    if num_ranks() > 1:
        counts = _all_gather(torch.tensor([rows], device=device)).tolist()
        assert len(set(counts)) == 1, f"ranks bring {counts} rows: a collective needs equally many"


def _all_gather(x: Tensor) -> Tensor:
    x = x.contiguous()
    gathered = x.new_empty((num_ranks() * x.shape[0], *x.shape[1:]))
    dist.all_gather_into_tensor(gathered, x)
    return gathered


def _reduce_scatter(x: Tensor) -> Tensor:
    x = x.contiguous()
    rows = x.shape[0] // num_ranks()
    if dist.get_backend() == "nccl":
        mine = x.new_empty((rows, *x.shape[1:]))
        dist.reduce_scatter_tensor(mine, x)
        return mine
    # gloo has a reduce-scatter only in recent versions of torch; an all-reduce and a slice give the same sum everywhere.
    x = x.clone()
    dist.all_reduce(x)
    return x[this_rank() * rows : (this_rank() + 1) * rows]


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BD: Tensor) -> Tensor:
        return _all_gather(x_BD)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _reduce_scatter(grads[0])


class _SumAcross(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total
