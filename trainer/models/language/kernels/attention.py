"""Attention for rows of several sequences: torch's variable-length kernel, known to transformers as one of its own.

transformers would give torch's ``sdpa`` a dense block mask for such rows, which rules its fast kernels out.

M: rows, L: columns, Q: attention heads, T: tokens of all rows, D: head width.
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
_LONGEST_MULTIPLE = 128


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
    return out_TQD.reshape(rows, columns, *out_TQD.shape[1:]), None


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
