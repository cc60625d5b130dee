"""What the base's head makes of the decoder's output: how likely each token that is to be said was.

N: supervised tokens, H: hidden size, V: vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.models.language import kernels


def score_tokens(llm: Any, hidden_NH: Tensor, label_N: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy (N,) in float32, and (N,) bool: the label was the likeliest token; ``llm`` is a model of transformers."""
    head = llm.get_output_embeddings()
    settings = llm.config.get_text_config()
    factor, cap = _logit_factor(settings), getattr(settings, "final_logit_softcapping", None)  # Gemma 2
    hidden_NH = hidden_NH if factor == 1 else hidden_NH * factor
    if cap is None and kernels.has_plain_head(head):
        return kernels.supervised_loss(hidden_NH, head.weight, label_N)
    logits_NV = head(hidden_NH).float()
    logits_NV = logits_NV if cap is None else torch.tanh(logits_NV / cap) * cap
    return F.cross_entropy(logits_NV, label_N, reduction="none"), logits_NV.detach().argmax(dim=1) == label_N


def _logit_factor(config: Any) -> float:
    """What a model multiplies its logits with after the head (before a cap), which is linear: 1 for nearly all."""
    kind = config.model_type
    if kind.startswith("cohere"):
        return float(config.logit_scale)
    if kind.startswith("hyperclovax"):
        return float(config.logits_scaling)
    if kind.startswith("granite") or kind == "minicpm3":
        return 1.0 / float(config.logits_scaling)
    return float(getattr(config, "lm_head_multiplier", 1.0))  # Falcon H1
