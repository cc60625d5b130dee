"""What a step that came to nothing leaves behind, and whether what a run would keep are numbers."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainer.distributed.collectives import num_ranks
from trainer.training.checkpoint import persistent_buffers


class Buffers:
    """Persistent buffers of a module (running statistics) as they were before a step, so that a skipped one leaves no trace in them."""

    def __init__(self, module: nn.Module) -> None:
        # By owner and name: a module may put a new tensor in the place of the old one. Found once, since base models have many modules.
        owners = [(name.rpartition("."), buffer) for name, buffer in persistent_buffers(module)]
        self._places = [(module.get_submodule(owner), name) for (owner, _, name), _ in owners]
        self._kept = [buffer.detach().clone() for _, buffer in owners]

    @torch.no_grad()
    def keep(self) -> None:
        """Remember them as they are now, without waiting for the device."""
        for kept, live in zip(self._kept, self._live(), strict=True):
            kept.copy_(live)

    @torch.no_grad()
    def restore(self) -> None:
        """Bring back what :meth:`keep` has seen."""
        for kept, live in zip(self._kept, self._live(), strict=True):
            live.copy_(kept)

    def _live(self) -> list[Tensor]:
        return [part.get_buffer(name) for part, name in self._places]


def not_finite(engine: Any) -> str:
    """Name of the first trained parameter or persistent buffer that is not finite on any rank; empty: all are. A collective."""
    # Under ZeRO 3 a rank looks at its own slices.
    named = [(name, getattr(p, "ds_tensor", p).detach()) for name, p in engine.module.named_parameters() if p.requires_grad]
    named += [(name, buffer.detach()) for name, buffer in persistent_buffers(engine.module) if buffer.is_floating_point()]
    if not named:
        return ""
    broken = torch.stack([~values.isfinite().all() for _, values in named]).float()
    if num_ranks() > 1:
        dist.all_reduce(broken)
    first = int(broken.argmax())
    return named[first][0] if float(broken[first]) else ""


def first_said(sentence: str) -> str:
    """The sentence of the first rank that has one; empty: none has. A collective, for rare occasions: it waits for the device."""
    if num_ranks() == 1:
        return sentence
    said: list[str] = [""] * num_ranks()
    dist.all_gather_object(said, sentence)
    return next((each for each in said if each), "")


def all_ranks_finite(values: list[Tensor]) -> bool:
    """Whether these numbers are finite on all ranks. A collective; it waits for the device."""
    total = torch.stack([value.detach().float() for value in values]).sum()
    if num_ranks() > 1:
        dist.all_reduce(total)
    return math.isfinite(float(total))
