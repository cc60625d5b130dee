"""What makes LoRA of a large language model fast without further packages; every function computes exactly what it replaces.

- :func:`use_packed_attention`: rows of several sequences go through torch's variable-length attention. transformers would give
  torch's ``sdpa`` a dense block mask for them, which rules its fast kernels out.
- :func:`fuse_lora`: PEFT's linear layers as one function each: the update is added inside the matrix product, and one copy of the
  input is kept for the backward pass instead of several.
- :func:`fuse_norms`: root-mean-square norms as torch's own kernel instead of six passes over memory.
- :func:`supervised_loss`: cross-entropy of a frozen head in blocks of tokens, so that no tokens x vocabulary matrix is kept.
- :func:`compile_layers`: decoder layers through ``torch.compile``, one compilation for all.

M: rows, L: columns, N: supervised tokens, H: hidden size, V: vocabulary, Q: attention heads, T: tokens of all rows, D: head width.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ATTENTION = "packed"
"""Name under which the attention is known to transformers."""
LOSS_BLOCK_VALUES = 2**28
"""Logits computed at a time by :func:`supervised_loss`: 1 GiB in float32."""
_LONGEST_MULTIPLE = 128

# --------------------------------------------------------------------------------------------------- packed attention


def use_packed_attention(llm: Any, device: torch.device | str = "cpu") -> bool:
    """Give a model of transformers on ``device`` attention that knows packed rows; False (and nothing changed) where it cannot.

    Without :func:`packing`'s arguments, as in generation, it is transformers' own ``sdpa``. Models whose attention does more
    than scale and mask (Gemma 2 caps its scores) keep what they have, as do devices without torch's kernel. On the CPU it is
    the slow reference.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
    from transformers.modeling_utils import AttentionInterface

    config = llm.config.get_text_config()
    if llm.config._attn_implementation != "sdpa" or getattr(config, "attn_logit_softcapping", None):
        return False
    if getattr(config, "v_head_dim", None):  # values of another width than queries (DeepSeek-V2 and later): the kernels want one
        return False
    device = torch.device(device)
    attend: Callable[..., Tensor] | None = by_sequence
    if device.type != "cpu":
        heads = config.num_attention_heads
        kv_heads = getattr(config, "num_key_value_heads", None) or heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        attend = variable_length_attention()
        if attend is None or not agrees(attend, device, heads, kv_heads, head_dim):
            return False
    assert attend is not None
    AttentionInterface.register(ATTENTION, functools.partial(packed_attention, attend, sdpa_attention_forward))
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
    llm.set_attn_implementation(ATTENTION)
    return True


def packing(position_ML: Tensor) -> dict[str, Any]:
    """Where sequences begin in packed rows: arguments of a transformers model's forward, empty where each row holds one sequence.

    The names are transformers' own, so FlashAttention understands them, too, and others ignore them. Waits for the device once.
    """
    starts = (position_ML.flatten() == 0).nonzero().flatten()
    if len(starts) == len(position_ML):
        return {}
    ends = F.pad(starts, (0, 1), value=position_ML.numel()).to(torch.int32)
    dynamo: Any = sys.modules.get("torch._dynamo")
    if dynamo is not None:  # compiled layers, if any, are then compiled once for any number of sequences
        dynamo.maybe_mark_dynamic(ends, 0)
    # Rounded up, so that they see few different values.
    longest = min(-(-int(ends.diff().max()) // _LONGEST_MULTIPLE) * _LONGEST_MULTIPLE, position_ML.shape[1])
    return {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}


def packed_attention(
    attend: Callable[..., Tensor],
    otherwise: Callable[..., tuple[Tensor, None]],
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Causal attention within sequences, in the form transformers calls: (M, Q, L, D) queries -> (M, L, Q, D).

    ``otherwise`` takes over where no sequences are given; the mask, built by transformers for it, is then used.
    """
    if cu_seq_lens_q is None or max_length_q is None or dropout or query.shape[2] != key.shape[2]:
        return otherwise(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others)
    rows, _, columns, _ = query.shape
    if query.dtype != value.dtype:  # rotary tables may be wider than autocast's products
        query, key = query.to(value.dtype), key.to(value.dtype)
    if query.is_cuda and query.dtype == torch.float32:
        attend = by_sequence
    q_TQD, k_TQD, v_TQD = (states.transpose(1, 2).flatten(0, 1) for states in (query, key, value))
    window = sliding_window if sliding_window is not None and sliding_window < max_length_q else None
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    out_TQD = attend(q_TQD, k_TQD, v_TQD, cu_seq_lens_q, max_length_q, scale, window)
    return out_TQD.unflatten(0, (rows, columns)), None


def by_sequence(q_TQD: Tensor, k_TQD: Tensor, v_TQD: Tensor, ends: Tensor, longest: int, scale: float, window: int | None = None) -> Tensor:
    """Causal attention, sequence by sequence, on any device and in any precision: slow, and the reference."""
    del longest
    parts = []
    for first, end in itertools.pairwise(ends.tolist()):
        q, k, v = (states[first:end].transpose(0, 1).unsqueeze(0) for states in (q_TQD, k_TQD, v_TQD))
        mask = None
        if window is not None:
            mask = torch.ones(end - first, end - first, dtype=torch.bool, device=q.device).tril().triu(1 - window)
        grouped = q.shape[1] != k.shape[1]
        parts.append(F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, scale=scale, enable_gqa=grouped))
    return torch.cat([part[0].transpose(0, 1) for part in parts])


@functools.cache
def variable_length_attention() -> Callable[..., Tensor] | None:
    """torch's kernel with the arguments of :func:`by_sequence`; its own changed from 2.10 to 2.12. None where this torch has none."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    known = inspect.signature(varlen_attn).parameters
    has_window, has_scale, has_groups = ("window_size" in known, "scale" in known, "enable_gqa" in known)

    def attend(q_TQD: Tensor, k_TQD: Tensor, v_TQD: Tensor, ends: Tensor, longest: int, scale: float, window: int | None = None) -> Tensor:
        options: dict[str, Any] = {}
        if has_window:
            options["window_size"] = (-1, 0) if window is None else (window - 1, 0)
        elif window is None:
            options["is_causal"] = True
        else:
            return by_sequence(q_TQD, k_TQD, v_TQD, ends, longest, scale, window)
        if has_scale:
            options["scale"] = scale
        else:
            q_TQD = q_TQD * (scale * q_TQD.shape[-1] ** 0.5)
        if q_TQD.shape[1] != k_TQD.shape[1]:
            if has_groups:
                options["enable_gqa"] = True
            else:
                repeats = q_TQD.shape[1] // k_TQD.shape[1]
                k_TQD, v_TQD = k_TQD.repeat_interleave(repeats, 1), v_TQD.repeat_interleave(repeats, 1)
        # Not cuDNN's, which newer versions of torch prefer on some devices: it plans anew for every number of sequences.
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            out = varlen_attn(q_TQD, k_TQD, v_TQD, ends, ends, longest, longest, **options)
        assert isinstance(out, Tensor)
        return out

    return attend


@functools.cache
def agrees(attend: Callable[..., Tensor], device: torch.device, heads: int, kv_heads: int, head_dim: int) -> bool:
    """Whether the kernel runs on this device for these shapes, and gives output and gradients of the reference."""
    generator = torch.Generator().manual_seed(0)
    ends = torch.tensor([0, 170, 172, 300], dtype=torch.int32, device=device)
    q, k, v = (
        torch.randn(300, n, head_dim, generator=generator).to(device, torch.bfloat16).requires_grad_(True)
        for n in (heads, kv_heads, kv_heads)
    )
    upstream = torch.randn(300, heads, head_dim, generator=generator).to(device, torch.bfloat16)
    found = []
    for function in (attend, by_sequence):
        try:
            out = function(q, k, v, ends, 256, head_dim**-0.5)
            found.append([out, *torch.autograd.grad(out, (q, k, v), upstream)])
        except (RuntimeError, TypeError, ValueError, NotImplementedError):
            return False
    return all(bool((mine.float() - other.float()).norm() <= 0.02 * other.float().norm()) for mine, other in zip(*found, strict=True))


# --------------------------------------------------------------------------------------------------------- fused LoRA


def fuse_lora(model: nn.Module) -> int:
    """Turn PEFT's plain LoRA linear layers (also over 4- and 8-bit ones) into :class:`_Fused` ones in place; returns how many.

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
        if plan is None:
            return kind.forward(self, x, *arguments, **options)
        a, b, scale, dropout, dtype = plan
        a, b = a.to(dtype), b.to(dtype)
        base = self.base_layer
        if type(base) is nn.Linear:
            return _LoraLinear.apply(x.to(dtype), base.weight.to(dtype), base.bias, a, b, scale, dropout)
        result = base(x)
        return _LoraUpdate.apply(result, x.to(dtype), a, b, scale, dropout)

    return type(f"Fused{kind.__name__}", (kind,), {"forward": forward})


def _plan(layer: Any, x: Tensor) -> tuple[Tensor, Tensor, float, float, torch.dtype] | None:
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
    share = dropout.p if isinstance(dropout, nn.Dropout) and layer.training else 0.0
    return a.weight, b.weight, layer.scaling[name], share, dtype


class _LoraLinear(torch.autograd.Function):
    """x W' + bias + scale * dropout(x) A' B'; the base's weight is frozen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float, dropout: float) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        out = F.linear(flat, weight, None if bias is None else bias.to(flat.dtype))
        low, mask = _low_rank(flat, a, dropout)
        out.addmm_(low, b.t(), alpha=scale)
        ctx.save_for_backward(flat, mask, low, weight, a, b)
        ctx.scale, ctx.dropout, ctx.shape = scale, dropout, x.shape
        return out.unflatten(0, x.shape[:-1])

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
                grad_x.add_(_masked(grad_low @ a, mask, ctx.dropout))
            grad_x = grad_x.view(ctx.shape)
        return grad_x, None, None, grad_a, grad_b, None, None


class _LoraUpdate(torch.autograd.Function):
    """result + scale * dropout(x) A' B', for a base layer that is its own function (4 and 8 bits)."""

    @staticmethod
    def forward(ctx: Any, result: Tensor, x: Tensor, a: Tensor, b: Tensor, scale: float, dropout: float) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        low, mask = _low_rank(flat, a, dropout)
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
            grad_x = grad_low @ a
            grad_x = (grad_x if mask is None else _masked(grad_x, mask, ctx.dropout)).view(ctx.shape)
        return gradients[0], grad_x, grad_a, grad_b, None, None


def _low_rank(flat: Tensor, a: Tensor, dropout: float) -> tuple[Tensor, Tensor | None]:
    # Of a dropout only the mask is kept: its output is made again from the input, which other layers keep anyway.
    kept, mask = torch.native_dropout(flat, dropout, True) if dropout else (flat, None)
    return kept @ a.t(), mask


def _low_rank_gradients(
    grad: Tensor, flat: Tensor, mask: Tensor | None, low: Tensor, b: Tensor, scale: float, dropout: float
) -> tuple[Tensor, Tensor, Tensor]:
    grad_low = (grad @ b) * scale
    kept = flat if mask is None else _masked(flat, mask, dropout)
    return grad_low, grad_low.t() @ kept, (grad.t() @ low) * scale


def _masked(values: Tensor, mask: Tensor, dropout: float) -> Tensor:
    return torch.ops.aten.native_dropout_backward(values, mask, 1.0 / (1.0 - dropout))


# --------------------------------------------------------------------------------------------------------------- norms


def fuse_norms(llm: nn.Module) -> int:
    """Let norms of Llama's kind (float32 inside, times a weight) run as :func:`torch.nn.functional.rms_norm`, in place; returns how many.

    It rounds to 16 bits once, where transformers does before and after the weight.
    """
    found = 0
    for module in llm.modules():
        if type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon") and hasattr(module, "weight"):
            kind: Any = type(module)
            module.__class__ = _fused_norm_class(kind)
            found += 1
    return found


@functools.cache
def _fused_norm_class(kind: Any) -> type:
    def forward(self: Any, hidden_states: Tensor) -> Tensor:
        if hidden_states.dtype != self.weight.dtype:
            return kind.forward(self, hidden_states)
        with torch.autocast(hidden_states.device.type, enabled=False):  # which would widen its output to float32
            return F.rms_norm(hidden_states, self.weight.shape, self.weight, self.variance_epsilon)

    return type(f"Fused{kind.__name__}", (kind,), {"forward": forward})


# ----------------------------------------------------------------------------------------------------- loss of the head


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
    return _HeadLoss.apply(hidden_NH, weight_VH, label_N, max(1, block_values // len(weight_VH)))


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


# ------------------------------------------------------------------------------------------------------------ compiling


def compile_layers(llm: Any) -> int:
    """Compile each decoder layer at its first use (all share one compilation); returns how many. Not for ZeRO 3."""
    layers = llm.get_decoder().layers
    for layer in layers:
        layer.compile()
    return len(layers)
