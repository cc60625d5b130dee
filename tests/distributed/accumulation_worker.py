"""Rank of the accumulation test: ``python -m tests.distributed.accumulation_worker OUTPUT.json`` under the deepspeed launcher.

As :mod:`tests.distributed.exactness_worker`, dropout and batch normalisation included; but each rank's slice comes in several forwards.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from data_prep.contract.cli import leave
from tests.distributed.exactness_worker import (
    ENCODERS,
    LEARNING_RATE,
    LOSSES,
    Pairs,
    alone,
    full_weights,
    make_batch,
    mean_over_ranks,
    relative,
    slice_of,
    start_engine,
)
from trainer.distributed import collectives
from trainer.distributed.precision import LossScale
from trainer.distributed.world import World, choose_device, read_world, start_distributed, stop_distributed
from trainer.models.contrastive import ContrastiveOutput, joined
from trainer.tasks.contrastive.objective import contrastive_terms
from trainer.training.joined import JoinedStep

CPU = torch.device("cpu")
CASES = [
    *((stage, accumulation, "tsconv", "fp32") for stage in (0, 1, 2, 3) for accumulation in (2, 4)),
    *((stage, 2, "cnn_transformer", "fp32") for stage in (1, 3)),
    *((stage, 2, "tsconv", "fp16") for stage in (0, 2)),
]
"""ZeRO stage, accumulation, encoder, loss scale (in float32). Without accumulation: :mod:`tests.distributed.exactness_worker`."""


class Rows(nn.Module):
    """The model of :class:`Pairs` without its loss."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.model = Pairs(name).model

    def forward(self, batch: dict[str, Tensor]) -> ContrastiveOutput:
        """Both sides of a batch."""
        out: ContrastiveOutput = self.model(batch["eeg"], batch["subject"], batch["target"], batch["key"])
        return out


class Contrast:
    """The contrastive task's two halves."""

    def __init__(self, name: str) -> None:
        self.loss = LOSSES[name]

    def embed(self, model: Any, batch: dict[str, Tensor]) -> ContrastiveOutput:
        """Through whatever wraps the module."""
        out: ContrastiveOutput = model(batch)
        return out

    def compare(self, outputs: list[ContrastiveOutput], batches: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Losses of this rank's rows."""
        columns = [torch.cat([batch[name] for batch in batches]) for name in ("stimulus", "concept")]
        collected = {"gather_rows": collectives.gather_rows, "gather_ids": collectives.gather_ids, "rank": collectives.this_rank()}
        return contrastive_terms(joined(outputs), *columns, self.loss, **collected)  # type: ignore[arg-type]


def cut(batch: dict[str, Tensor], parts: int) -> list[dict[str, Tensor]]:
    """The rows in so many batches."""
    return [{name: value.chunk(parts)[part] for name, value in batch.items()} for part in range(parts)]


def together(name: str, stage: int, accumulation: int, world: World, reference: dict[str, Any], precision: str) -> dict[str, float]:
    """Largest relative errors of two steps against the single process."""
    engine = start_engine(Rows(name), stage, world)
    scale = LossScale(engine, precision)  # type: ignore[arg-type]
    step = JoinedStep(engine, Contrast(name), scale, CPU)
    loss = step.backward(cut(slice_of(make_batch(0), world), accumulation))["loss"]
    stepped = scale.step()
    weights = full_weights(engine)
    statistics = {key: value.clone() for key, value in engine.module.named_buffers() if "running" in key}
    gathered = [collectives.gather_ids(value[None]) for value in statistics.values()]
    next_loss = step.backward(cut(slice_of(make_batch(1), world), accumulation))["loss"]
    before = dict(Rows(name).named_parameters())
    moved = {key: (before[key].detach() - weights[key]) / LEARNING_RATE for key in weights}  # one step of plain SGD
    wanted = reference["gradients"]
    length = torch.stack([gradient.norm() for gradient in wanted.values()]).norm()
    return {
        "stepped": float(stepped),
        "loss": relative(mean_over_ranks(loss, world), reference["loss"]),
        "next_loss": relative(mean_over_ranks(next_loss, world), reference["next_loss"]),
        "gradient": max(float((moved[key] - gradient).norm() / length) for key, gradient in wanted.items()),
        "weight": max(relative(weights[key], value) for key, value in reference["weights"].items()),
        "running_statistics": max(relative(statistics[key], value) for key, value in reference["statistics"].items()),
        "running_statistics_between_ranks": max(float((ranks - ranks[:1]).abs().max()) for ranks in gathered),
        "num_gradients": len(wanted),
    }


def main(output: str) -> None:
    """Write ``{"stage, accumulation, encoder, precision": errors}``."""
    torch.set_num_threads(1)
    world = read_world()
    references = {name: alone(name) for name in ENCODERS}
    start_distributed(world, choose_device("cpu", world), 60)
    results: dict[str, Any] = {}
    for stage, accumulation, name, precision in CASES:
        case = ", ".join(map(str, (stage, accumulation, name, precision)))
        results[case] = together(name, stage, accumulation, world, references[name], precision)
    if world.is_main:
        Path(output).write_text(json.dumps({"world_size": world.size, "errors": results}))
    stop_distributed()


if __name__ == "__main__":
    main(next(argument for argument in sys.argv[1:] if not argument.startswith("--local_rank")))
    leave(0)
