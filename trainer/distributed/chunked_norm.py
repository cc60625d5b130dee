"""Batch statistics of a batch whose rows come in chunks, of which one at a time is in memory.

Normalised by statistics of its own, each chunk would be another function, and its gradient 13 to 43 % off. Here every normalisation of
a forward has the statistics of all chunks of all ranks, and so has its backward.

Forward. The n-th normalisation's mean and variance follow from all chunks, and from the n - 1 normalisations before it: the chunks are
passed over once for each normalisation, and once more with all of them known, which gives the outputs.

Backward. The gradient through mean and variance takes two sums over the batch, of the gradient and of the gradient times the normalised
input. These are the gradients of the layer's bias and weight, and follow from those of the normalisations behind it: the chunks
are passed over again for each normalisation, from the last to the first, backward down to its output and no further. Then one
pass with all sums known gives the gradients of the parameters.

So N normalisations cost 2 N passes more, and no memory. Statistics are merged by the parallel formula of Chan et al. (1983).

N: rows of a chunk, C: channels, R: ranks, *: any further dimensions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trainer.distributed import collectives
from trainer.distributed.batch_norm import GlobalBatchNorm, check_count, input_gradient, merge, moments, normalized


@dataclass
class _Known:
    """One normalisation of a forward: what is known of it over all chunks of all ranks."""

    norm: GlobalBatchNorm
    mean_C: Tensor
    scale_C: Tensor
    """1 / sqrt(variance + eps)."""
    count: Tensor
    """Values a channel."""
    gradient_2C: Tensor | None = None
    """Means of the output's gradient, and of it times the normalised input; None: not known yet."""


class ChunkedStatistics:
    """Statistics of one optimizer step's batch; while :meth:`used`, the module's batch normalisations ask here.

    Normalisations are told apart by their place in the forward, which must be the same for all chunks of all ranks.
    """

    def __init__(self, module: nn.Module) -> None:
        self._norms = [part for part in module.modules() if isinstance(part, GlobalBatchNorm)]
        self._known: list[_Known] = []
        self._found: list[Tensor] = []
        """Moments of the first normalisation that is not known, by chunk."""
        self._asking: GlobalBatchNorm | None = None
        self._place = 0
        self._probed = -1
        self._probe: tuple[Tensor, Tensor] | None = None

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Context in which training forwards are chunks of this batch."""
        for norm in self._norms:
            norm.chunks = self
        try:
            yield
        finally:
            for norm in self._norms:
                norm.chunks = None

    def begin_chunk(self) -> None:
        """Before each forward."""
        self._place = 0

    def learn(self) -> bool:
        """After a pass over all chunks: whether it found the statistics of one more normalisation, so that its outputs are not yet the
        batch's. A collective where it did. Running statistics are brought up to date."""
        norm = self._asking
        if norm is None:
            return False
        mean_C, var_C, count = merge(collectives.gather_ids(torch.stack(self._found)))
        check_count(int(count))
        norm.remember(mean_C, var_C, count)
        self._known.append(_Known(norm, mean_C, torch.rsqrt(var_C + norm.eps), count))
        self._found, self._asking = [], None
        return True

    def places(self) -> Iterator[int]:
        """The normalisations, from the last to the first, as :meth:`probed` wants them."""
        return reversed(range(len(self._known)))

    @contextlib.contextmanager
    def probed(self, place: int) -> Iterator[list[Tensor]]:
        """Context in which the forward's graph begins at a normalisation; give the gradients of each chunk's :meth:`probe`, stacked (2, C),
        to the list that this yields. At the end they are summed: a collective."""
        self._probed, sums = place, list[Tensor]()
        yield sums
        known, self._probed, self._probe = self._known[place], -1, None
        known.gradient_2C = collectives.sum_across(torch.stack(sums).sum(0)) / known.count

    def probe(self) -> tuple[Tensor, Tensor]:
        """Bias and weight of the normalisation that is :meth:`probed`, in the graph of the latest forward."""
        assert self._probe is not None, "no forward, or another one than before"
        return self._probe

    def normalize(self, norm: GlobalBatchNorm, x: Tensor, weight_C: Tensor, bias_C: Tensor) -> Tensor:
        """What a batch normalisation makes of its chunk (N, C, *), float32. Where its statistics are not known yet, and in what follows
        it, the output means nothing."""
        place, self._place = self._place, self._place + 1
        if place > len(self._known):
            return x
        if place == len(self._known):
            self._found.append(moments(x))
            self._asking = norm
            return x
        known = self._known[place]
        assert known.norm is norm, "a forward whose normalisations come in another order than those of the chunks before"
        if place != self._probed:
            y: Tensor = _NormalizeChunk.apply(x, weight_C, bias_C, known)
            return y
        self._probe = bias_C.detach().requires_grad_(), weight_C.detach().requires_grad_()
        return normalized(x.detach(), known.mean_C, known.scale_C, self._probe[1], self._probe[0])[0]


class _NormalizeChunk(torch.autograd.Function):
    """y = (x - mean) * scale * weight + bias, whose backward knows that mean and scale are functions of the whole batch."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_C: Tensor, bias_C: Tensor, known: _Known) -> Tensor:
        y, inner = normalized(x, known.mean_C, known.scale_C, weight_C, bias_C)
        ctx.save_for_backward(inner, weight_C)
        ctx.known = known
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        inner, weight_C = ctx.saved_tensors
        known: _Known = ctx.known
        assert known.gradient_2C is not None, "a backward pass through a normalisation whose sums are not known"
        over = [d for d in range(inner.ndim) if d != 1]
        grad_weight_C, grad_bias_C = (grads[0] * inner).sum(over), grads[0].sum(over)
        return input_gradient(grads[0], inner, weight_C * known.scale_C, known.gradient_2C), grad_weight_C, grad_bias_C, None
