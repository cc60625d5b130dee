"""float32, bf16 and fp16: autocast for the forward pass, and the loss scale that fp16 needs, for every ZeRO stage."""

from __future__ import annotations

import contextlib
from typing import Any, Literal

import torch
from torch import Tensor

from data_prep.contract.errors import UserError

Precision = Literal["fp32", "bf16", "fp16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

FIRST_SCALE = 2.0**16
GROWTH_STEPS = 2000
"""Steps without overflow after which the scale doubles (torch's GradScaler uses the same numbers)."""


def check_precision(precision: Precision, device: torch.device) -> None:
    """Raise ValueError, in a sentence, where the device cannot train in this precision."""
    if precision not in DTYPES:
        raise UserError(f"train.precision: {precision!r}, expected fp32, bf16 or fp16")
    if precision == "fp16" and device.type == "cpu":
        raise UserError("train.precision: fp16 is not supported on the CPU; use bf16 or fp32")
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        name = torch.cuda.get_device_name(device)
        raise UserError(f"train.precision: bf16 is not supported by {name}; use fp16 or fp32")


def autocast(precision: Precision, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Autocast for use inside the module that DeepSpeed wraps: one around the engine is switched off by it on CUDA (only)."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=DTYPES[precision])


class LossScale:
    """Backward and step of a DeepSpeed engine, with a dynamic loss scale if the precision is fp16 (else it is 1 and fixed).

    All ranks decide alike whether a step overflowed, since they look at the global gradient norm (ZeRO 1-3) or at
    gradients already averaged over ranks (ZeRO 0); an overflowing step changes no weight and halves the scale. Under ZeRO 0 on CUDA
    only fp16 looks: the others would wait for the device at every step for it.

    Parameters
    ----------
    engine
        What ``deepspeed.initialize`` returned.
    precision
        Only ``fp16`` scales.
    """

    def __init__(self, engine: Any, precision: Precision) -> None:
        self.engine = engine
        self.active = precision == "fp16"
        self.scale = FIRST_SCALE if self.active else 1.0
        self.good_steps = 0
        self.lowered = False
        """Whether the latest step overflowed and lowered the scale."""

    def backward(self, loss: Tensor) -> None:
        """Gradients of ``loss`` (a scalar), scaled, averaged over ranks."""
        if not self.active:
            self.engine.backward(loss)
        elif self.engine.zero_optimization():
            # The ZeRO optimizer multiplies the loss by it, and divides it out of norm, clipping and step.
            self.engine.optimizer.override_loss_scale(self.scale)
            self.engine.backward(loss)
        else:
            self.engine.backward(loss * self.scale)

    def step(self) -> bool:
        """Optimizer step, after the last of the accumulated backwards; False if gradients were not finite and nothing was changed."""
        if not self.engine.is_gradient_accumulation_boundary():
            self.engine.step()  # counts
            return True
        partitioned = self.engine.zero_optimization()
        finite = True
        if not partitioned and (self.active or next(self.engine.module.parameters()).device.type != "cuda"):
            finite = self._unscale()
        if finite:
            self.engine.step()
        else:
            self.engine.micro_steps += 1  # which parts a step from the next
        if partitioned:
            finite = not self.engine.optimizer.overflow
        if self.active:
            self._update(finite)
        return finite

    def _unscale(self) -> bool:
        gradients = [p.grad for p in self.engine.module.parameters() if p.grad is not None]
        norms = torch.stack(torch._foreach_norm(gradients)) if gradients else torch.zeros(1)
        if bool(torch.isfinite(norms).all()):
            if self.active:
                torch._foreach_mul_(gradients, 1.0 / self.scale)
            return True
        self.engine.zero_grad()
        return False

    def _update(self, finite: bool) -> None:
        self.good_steps = self.good_steps + 1 if finite else 0
        self.lowered = not finite and self.scale > 1
        if not finite:
            self.scale = max(self.scale / 2, 1.0)
        elif self.good_steps >= GROWTH_STEPS:
            self.scale, self.good_steps = self.scale * 2, 0

    def state_dict(self) -> dict[str, float]:
        """For the checkpoint."""
        return {"scale": self.scale, "good_steps": self.good_steps}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Continue from :meth:`state_dict`; a run without loss scaling ignores it."""
        if self.active:
            self.scale, self.good_steps = float(state["scale"]), int(state["good_steps"])
