"""Bounds of a trained parameter that hold after every optimizer step: projected gradient descent, under any ZeRO stage."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def clamp_parameter(parameter: nn.Parameter, most: float, least: float = -math.inf) -> None:
    """Bring a parameter's values between ``least`` and ``most``: in the model and in the copy that the optimizer steps,
    wherever DeepSpeed keeps them.

    Each rank clamps what it has, no value travels, and nobody waits for the device.
    """
    parameter.data.clamp_(least, most)
    if hasattr(parameter, "ds_tensor"):  # ZeRO 3: this rank's slice, and the optimizer's copy of it
        parameter.ds_tensor.data.clamp_(least, most)
        if parameter.requires_grad and hasattr(parameter, "_z3_optimizer"):
            from deepspeed.utils import safe_get_local_fp32_param, safe_set_local_fp32_param

            safe_set_local_fp32_param(parameter, safe_get_local_fp32_param(parameter).clamp(least, most))
    elif (mapping := getattr(parameter, "_hp_mapping", None)) is not None:  # ZeRO 1 and 2, on the rank that steps it
        mapping.get_hp_fragment().clamp_(least, most)


class BoundedExp(torch.autograd.Function):
    """``min(exp(x), most)`` whose gradient is that of ``exp`` at the bound where ``x`` lies beyond it.

    A plain clamp has no gradient there, so that a parameter that once lies beyond the bound would stay for good.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, most: float) -> Tensor:
        """Same shape as ``x``."""
        y = x.exp().clamp(max=most)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (y,) = ctx.saved_tensors
        return grads[0] * y, None


def bounded_exp(x: Tensor, most: float) -> Tensor:
    """See :class:`BoundedExp`."""
    y: Tensor = BoundedExp.apply(x, most)
    return y
