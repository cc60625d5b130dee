"""Cross-entropy of a frozen head in blocks of tokens, so that no tokens x vocabulary matrix is kept.

N: supervised tokens, H: hidden size, V: vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

LOSS_BLOCK_VALUES = 2**28
"""Logits computed at a time by :func:`supervised_loss`: 1 GiB in float32."""


def has_plain_head(head: nn.Module) -> bool:
    """Whether :func:`supervised_loss` may use the head's weight: frozen, without bias or adapter, whole (not ZeRO 3's)."""
    weight = getattr(head, "weight", None)
    return type(head) is nn.Linear and head.bias is None and not head.weight.requires_grad and not hasattr(weight, "ds_id")


def supervised_loss(hidden_NH: Tensor, weight_VH: Tensor, label_N: Tensor, block_values: int = LOSS_BLOCK_VALUES) -> tuple[Tensor, Tensor]:
    """Cross-entropy (N,) in float32 of a frozen head without bias, and (N,) bool: the label was the likeliest token.

    Logits are made for a block of tokens at a time together with their gradient, which is all that is kept: a tensor like
    ``hidden_NH`` instead of three of N x V.
    """
    if torch.is_autocast_enabled(hidden_NH.device.type):
        dtype = torch.get_autocast_dtype(hidden_NH.device.type)
        hidden_NH, weight_VH = hidden_NH.to(dtype), weight_VH.to(dtype)
    found: tuple[Tensor, Tensor] = _HeadLoss.apply(hidden_NH, weight_VH, label_N, max(1, block_values // len(weight_VH)))
    return found


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, label_N: Tensor, block: int) -> tuple[Tensor, Tensor]:
        needed = ctx.needs_input_grad[0]
        losses, right, gradients = [], [], []
        for first in range(0, len(hidden_NH), block):
            label = label_N[first : first + block]
            logits = (hidden_NH[first : first + block] @ weight_VH.t()).float()
            right.append(logits.argmax(dim=1) == label)
            log_sum = logits.logsumexp(dim=1)
            losses.append(log_sum - logits.gather(1, label[:, None])[:, 0])
            if needed:
                slope = logits.sub_(log_sum[:, None]).exp_()
                slope[torch.arange(len(label), device=label.device), label] -= 1.0
                gradients.append(slope.to(weight_VH.dtype) @ weight_VH)
            del logits
        ctx.save_for_backward(torch.cat(gradients) if gradients else hidden_NH.new_zeros(0))
        found = torch.cat(right) if right else label_N.new_zeros(0, dtype=torch.bool)
        ctx.mark_non_differentiable(found)
        return (torch.cat(losses) if losses else hidden_NH.new_zeros(0, dtype=torch.float32)), found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (kept_NH,) = ctx.saved_tensors
        return (kept_NH.float() * gradients[0][:, None]).to(kept_NH.dtype), None, None, None
