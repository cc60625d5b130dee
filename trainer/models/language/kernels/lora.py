"""PEFT's linear layers as one function each.

The update is added inside the matrix product, and one copy of the input is kept for the backward pass instead of several: of a
dropout only the mask, its output is made again.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.models.dropout import Dropout


def fuse_lora(model: nn.Module) -> int:
    """Turn PEFT's plain LoRA linear layers (also over 4- and 8-bit ones) into fused ones in place; returns how many.

    DoRA and other variants stay as they are. Merging, saving, disabling, ZeRO 3 (whose weights are there only inside PEFT's own
    submodules) and several adapters at once go PEFT's way as before.
    """
    from peft.tuners.lora import LoraLayer

    found = 0
    for module in model.modules():
        if isinstance(module, LoraLayer) and type(module).__name__ in ("Linear", "Linear4bit", "Linear8bitLt"):
            kind: Any = type(module)
            module.__class__ = _fused_class(kind)
            found += 1
    return found


@functools.cache
def _fused_class(kind: Any) -> type:
    def forward(self: Any, x: Tensor, *arguments: Any, **options: Any) -> Tensor:
        plan = None if arguments or options else _plan(self, x)
        out: Tensor
        if plan is None:
            out = kind.forward(self, x, *arguments, **options)
            return out
        a, b, scale, dropout, dtype = plan
        mask = None if dropout is None else dropout.mask(x).flatten(0, -2)
        share = 0.0 if dropout is None else dropout.p
        a, b = a.to(dtype), b.to(dtype)
        base = self.base_layer
        if type(base) is nn.Linear:
            out = _LoraLinear.apply(x.to(dtype), base.weight.to(dtype), base.bias, a, b, scale, mask, share)
        else:
            out = _LoraUpdate.apply(base(x), x.to(dtype), a, b, scale, mask, share)
        return out

    return type(f"Fused{kind.__name__}", (kind,), {"forward": forward})


def _plan(layer: Any, x: Tensor) -> tuple[Tensor, Tensor, float, Dropout | None, torch.dtype] | None:
    """Weights, scale, dropout and dtype of the one adapter, or None where PEFT's own forward is needed."""
    names = layer.active_adapters
    if layer.disable_adapters or layer.merged or len(names) != 1 or names[0] not in layer.lora_A:
        return None
    name = names[0]
    a, b, dropout = layer.lora_A[name], layer.lora_B[name], layer.lora_dropout[name]
    if name in layer.lora_variant or b.bias is not None or hasattr(a.weight, "ds_id"):
        return None
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
    elif x.dtype == a.weight.dtype and (type(layer.base_layer) is not nn.Linear or x.dtype == layer.base_layer.weight.dtype):
        dtype = x.dtype
    else:
        return None
    if not isinstance(dropout, (Dropout, nn.Identity)):
        return None
    drops = dropout if isinstance(dropout, Dropout) and dropout.drops else None
    return a.weight, b.weight, layer.scaling[name], drops, dtype


class _LoraLinear(torch.autograd.Function):
    """x W' + bias + scale * dropout(x) A' B'; the base's weight is frozen."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float, mask: Tensor | None, dropout: float
    ) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        out = F.linear(flat, weight, None if bias is None else bias.to(flat.dtype))
        low = _dropped(flat, mask, dropout) @ a.t()
        out.addmm_(low, b.t(), alpha=scale)
        ctx.save_for_backward(flat, mask, low, weight, a, b)
        ctx.scale, ctx.dropout, ctx.shape = scale, dropout, x.shape
        return out.view(*x.shape[:-1], out.shape[-1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        flat, mask, low, weight, a, b = ctx.saved_tensors
        grad = gradients[0].reshape(-1, gradients[0].shape[-1])
        grad_low, grad_a, grad_b = _low_rank_gradients(grad, flat, mask, low, b, ctx.scale, ctx.dropout)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = grad @ weight
            if mask is None:
                grad_x.addmm_(grad_low, a)
            else:
                grad_x.add_(_dropped(grad_low @ a, mask, ctx.dropout))
            grad_x = grad_x.view(ctx.shape)
        return grad_x, None, None, grad_a, grad_b, None, None, None


class _LoraUpdate(torch.autograd.Function):
    """result + scale * dropout(x) A' B', for a base layer that is its own function (4 and 8 bits)."""

    @staticmethod
    def forward(ctx: Any, result: Tensor, x: Tensor, a: Tensor, b: Tensor, scale: float, mask: Tensor | None, dropout: float) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        low = _dropped(flat, mask, dropout) @ a.t()
        out = torch.addmm(result.reshape(-1, result.shape[-1]), low.to(result.dtype), b.t().to(result.dtype), alpha=scale)
        ctx.save_for_backward(flat, mask, low, a, b)
        ctx.scale, ctx.dropout, ctx.shape = scale, dropout, x.shape
        return out.view(result.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        flat, mask, low, a, b = ctx.saved_tensors
        grad = gradients[0].reshape(-1, gradients[0].shape[-1]).to(flat.dtype)
        grad_low, grad_a, grad_b = _low_rank_gradients(grad, flat, mask, low, b, ctx.scale, ctx.dropout)
        grad_x = None
        if ctx.needs_input_grad[1]:
            grad_x = _dropped(grad_low @ a, mask, ctx.dropout).view(ctx.shape)
        return gradients[0], grad_x, grad_a, grad_b, None, None, None


def _low_rank_gradients(
    grad: Tensor, flat: Tensor, mask: Tensor | None, low: Tensor, b: Tensor, scale: float, dropout: float
) -> tuple[Tensor, Tensor, Tensor]:
    grad_low = (grad @ b) * scale
    return grad_low, grad_low.t() @ _dropped(flat, mask, dropout), (grad.t() @ low) * scale


def _dropped(values: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    if mask is None:
        return values
    kept: Tensor = torch.ops.aten.native_dropout_backward(values, mask, 1.0 / (1.0 - dropout))
    return kept
