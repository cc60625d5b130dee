"""Optimiser settings and the learning rate as a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW with linear warm-up and cosine decay, both counted in optimizer steps."""

    lr: float = 3e-4
    """Learning rate at the end of the warm-up."""
    weight_decay: float = 0.05
    """Decoupled weight decay of matrices and kernels; 1-d parameters (biases, norms, temperature) are never decayed."""
    beta1: float = 0.9
    """Decay of the gradient's running mean."""
    beta2: float = 0.98
    """Decay of the squared gradient's running mean."""
    eps: float = 1e-8
    """Added to the denominator of the update."""
    warmup_fraction: float = 0.05
    """Share of all steps over which the learning rate rises linearly from 0; 0 starts at ``lr``."""
    final_lr_fraction: float = 0.0
    """Share of ``lr`` that the cosine ends at; 1 keeps it constant after the warm-up."""
    gradient_clipping: float = 1.0
    """Largest global gradient norm; larger gradients are scaled down to it; 0 is off."""

    def __post_init__(self) -> None:
        for name in ("lr", "eps"):
            if not getattr(self, name) > 0:
                raise ValueError(f"optimizer.{name}: {getattr(self, name)}, expected a positive number")
        for name in ("weight_decay", "gradient_clipping"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"optimizer.{name}: {getattr(self, name)}, expected 0 or more")
        for name in ("beta1", "beta2", "warmup_fraction"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"optimizer.{name}: {getattr(self, name)}, expected at least 0 and below 1")
        if not 0 <= self.final_lr_fraction <= 1:
            raise ValueError(f"optimizer.final_lr_fraction: {self.final_lr_fraction}, expected 0 to 1")

    def build(self, model: nn.Module, lr_factors: Mapping[str, float] | None = None) -> torch.optim.AdamW:
        """AdamW over the trainable parameters of ``model``, in two groups, and two more for every entry of ``lr_factors``: parameters
        whose name begins with its key learn at the rate times its value."""
        groups: list[dict[str, Any]] = []
        rest = list(model.named_parameters())
        for prefix, factor in (lr_factors or {}).items():
            own = [(name, parameter) for name, parameter in rest if name.startswith(prefix)]
            rest = [(name, parameter) for name, parameter in rest if not name.startswith(prefix)]
            groups += [group | {"lr_factor": factor} for group in parameter_groups(own, self.weight_decay)]
        groups = [group | {"lr_factor": 1.0} for group in parameter_groups(rest, self.weight_decay)] + groups
        return torch.optim.AdamW(groups, lr=self.lr, betas=(self.beta1, self.beta2), eps=self.eps)


def learning_rate(step: int, num_steps: int, config: OptimizerConfig) -> float:
    """Learning rate of optimizer step ``step`` (from 0) of ``num_steps``.

    Rises linearly over ``round(warmup_fraction * num_steps)`` steps, the last of which has ``lr``, then falls along half
    a cosine that would reach ``final_lr_fraction * lr`` one step after the last, so that no step is without effect. A
    run's length is its only state, so a resumed run needs none.
    """
    warmup_steps = round(config.warmup_fraction * num_steps)
    if step < warmup_steps:
        return config.lr * (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, num_steps - warmup_steps))
    floor = config.final_lr_fraction
    return config.lr * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))


def parameter_groups(named_parameters: Iterable[tuple[str, nn.Parameter]], weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: tensors of two and more dimensions with ``weight_decay``, the rest (``logit_scale`` too) without.

    An empty group is left out: DeepSpeed flattens groups and cannot flatten nothing.
    """
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for _, parameter in named_parameters:
        if parameter.requires_grad:
            (decayed if parameter.ndim >= 2 else plain).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
