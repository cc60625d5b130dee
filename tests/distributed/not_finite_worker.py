"""Rank of :mod:`tests.distributed.test_not_finite`: ``python -m tests.distributed.not_finite_worker OUTPUT.json`` under the launcher."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from data_prep.contract.cli import leave
from trainer.distributed import collectives
from trainer.distributed.bounds import bounded_exp, clamp_parameter
from trainer.distributed.deepspeed_config import ZeroConfig, build_deepspeed_config
from trainer.distributed.precision import LossScale
from trainer.distributed.world import World, choose_device, read_world, set_group_timeouts, start_distributed, stop_distributed

LIMIT = 15.0


class Scaled(nn.Module):
    """A matrix, and a scale that began far beyond its limit."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(7, 5)
        self.log_scale = nn.Parameter(torch.tensor([math.log(38.0)]))

    def forward(self, x: Tensor) -> Tensor:
        """Smaller where the scale is smaller."""
        return bounded_exp(self.log_scale, LIMIT).sum() * (1 + self.linear(x).square().mean())


def try_stage(stage: int, world: World) -> dict[str, Any]:
    """Three steps, in the second of which one rank alone has no numbers."""
    import deepspeed
    from deepspeed.utils import safe_get_full_fp32_param

    module = Scaled()
    config = build_deepspeed_config(zero=ZeroConfig(stage=stage), world=world, micro_batch_size=4)  # type: ignore[arg-type]
    engine, *_ = deepspeed.initialize(model=module, optimizer=torch.optim.AdamW(module.parameters(), lr=0.01), config=config)
    set_group_timeouts(60)
    scaler, applied, scales, weights = LossScale(engine, "fp32"), [], [], []
    for number in range(3):
        bad = number == 1 and world.rank == 1
        scaler.backward(engine(torch.ones(4, 7) * (math.nan if bad else 1.0)))
        applied.append(everywhere(float(scaler.step())))
        clamp_parameter(module.log_scale, math.log(LIMIT))
        with deepspeed.zero.GatheredParameters([*module.parameters()], enabled=stage == 3):
            scales.append(everywhere(float(bounded_exp(module.log_scale, LIMIT).detach())))
            weights.append(torch.cat([p.detach().flatten().clone() for p in module.parameters()]))
            log_scale = float(module.log_scale.detach())
    master = float(safe_get_full_fp32_param(module.log_scale)) if stage else log_scale
    return {
        "applied": [[bool(each) for each in ranks] for ranks in applied],
        "unchanged": bool(torch.equal(weights[0], weights[1])),
        "scales": scales,
        "log_scale": log_scale,
        "master": master,
    }


def everywhere(value: float) -> list[float]:
    """A number of every rank."""
    return collectives.gather_ids(torch.tensor([value])).tolist()


def main(output: Path) -> None:
    """Try every stage; rank 0 writes."""
    world = read_world()
    start_distributed(world, choose_device("cpu", world), 60)
    found = {str(stage): try_stage(stage, world) for stage in range(4)}
    if world.is_main:
        output.write_text(json.dumps(found))
    dist.barrier()
    stop_distributed()


if __name__ == "__main__":
    main(Path(sys.argv[-1]))
    leave(0)
