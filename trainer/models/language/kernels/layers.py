"""Layers of the decoder in fewer passes over memory: norms as torch's own kernel, layers through ``torch.compile``."""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
            normed: Tensor = kind.forward(self, hidden_states)
            return normed
        with torch.autocast(hidden_states.device.type, enabled=False):  # which would widen its output to float32
            return F.rms_norm(hidden_states, self.weight.shape, self.weight, self.variance_epsilon)

    return type(f"Fused{kind.__name__}", (kind,), {"forward": forward})


def compile_layers(llm: Any) -> int:
    """Compile each decoder layer at its first use (all share one compilation); returns how many. Not for ZeRO 3."""
    layers = llm.get_decoder().layers
    for layer in layers:
        layer.compile()
    return len(layers)
