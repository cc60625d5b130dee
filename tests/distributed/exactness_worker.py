"""Rank of the exactness test: ``python -m tests.distributed.exactness_worker OUTPUT.json`` under the deepspeed launcher.

Dropout is on. Before connecting, each rank computes loss, gradients, one SGD step and running statistics on the joined batch, alone.
Then the ranks do the same together on their slices, under every ZeRO stage, and rank 0 writes the errors.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from data_prep.contract.cli import leave
from trainer import losses
from trainer.data import random
from trainer.distributed import collectives
from trainer.distributed.deepspeed_config import ZeroConfig, build_deepspeed_config, check_parameters
from trainer.distributed.precision import LossScale, Precision, autocast
from trainer.distributed.world import World, choose_device, read_world, set_group_timeouts, start_distributed, stop_distributed
from trainer.models.contrastive import ContrastiveModelConfig
from trainer.models.encoders import CnnTransformer, EncoderConfig, TSConv
from trainer.tasks.contrastive.objective import contrastive_terms

ROWS, N_CHANS, N_TIMES, EMBEDDING_DIM = 24, 17, 100, 48
LEARNING_RATE = 0.05
ENCODERS: dict[str, EncoderConfig] = {
    "tsconv": TSConv(dropout=0.5, num_filters=16),
    "cnn_transformer": CnnTransformer(
        dropout=0.2, d_model=32, num_layers=2, num_heads=4, feedforward=64, embedding_dim=24, conv_widths=[16, 24, 24], pooling="cls"
    ),
}
LOSSES = {
    "tsconv": losses.LossConfig(positives="stimulus"),
    "cnn_transformer": losses.LossConfig(positives="concept", mse_weight=0.3, cosine_weight=0.2, cross_entropy_weight=0.5),
}


class Pairs(nn.Module):
    """Model and loss in one module, as a training task wraps them for DeepSpeed."""

    def __init__(self, name: str) -> None:
        super().__init__()
        torch.manual_seed(7)
        config = ContrastiveModelConfig(
            encoder=ENCODERS[name],
            eeg_head_dropout=0.4,
            image_head="mlp",
            image_head_hidden=40,
            image_head_dropout=0.3,
            proj_dim=32,
            subject_layer="linear",
        )
        self.loss = LOSSES[name]
        self.model = config.build(
            n_chans=N_CHANS, n_times=N_TIMES, sfreq=100.0, num_subjects=3, embedding_dim=EMBEDDING_DIM, num_concepts=6, loss=self.loss
        )

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Scalar loss of this rank's rows."""
        output = self.model(batch["eeg"], batch["subject"], batch["target"], batch["key"])
        return contrastive_terms(
            output,
            batch["stimulus"],
            batch["concept"],
            self.loss,
            gather_rows=collectives.gather_rows,
            gather_ids=collectives.gather_ids,
            rank=collectives.this_rank(),
        )["loss"]


def make_batch(seed: int) -> dict[str, Tensor]:
    """The joined batch; stimuli repeat inside a rank's slice and across slices."""
    generator = torch.Generator().manual_seed(seed)
    stimulus = torch.randint(0, ROWS // 2, (ROWS,), generator=generator)
    stimulus[ROWS // 2 :][:3] = stimulus[:3]
    return {
        "eeg": torch.randn(ROWS, N_CHANS, N_TIMES, generator=generator) + 0.5,
        "subject": torch.randint(-1, 3, (ROWS,), generator=generator),
        "target": torch.randn(ROWS, EMBEDDING_DIM, generator=generator)[stimulus],
        "stimulus": stimulus,
        "concept": stimulus // 2,
        "key": random.hash_torch(seed, torch.arange(ROWS)),
    }


def slice_of(batch: dict[str, Tensor], world: World) -> dict[str, Tensor]:
    """This rank's rows."""
    return {name: value[world.rows(ROWS)] for name, value in batch.items()}


def relative(found: Tensor, wanted: Tensor) -> float:
    """Norm of the difference over the norm of what is wanted."""
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


def alone(name: str) -> dict[str, Any]:
    """What one process gets on the joined batches: two losses with an SGD step between, gradients, weights, statistics."""
    module = Pairs(name)
    loss = module(make_batch(0))
    loss.backward()
    gradients = {key: parameter.grad.clone() for key, parameter in module.named_parameters() if parameter.grad is not None}
    torch.optim.SGD(module.parameters(), lr=LEARNING_RATE).step()
    statistics = {key: value.clone() for key, value in module.named_buffers() if "running" in key}
    weights = {key: parameter.detach().clone() for key, parameter in module.named_parameters()}
    next_loss = module(make_batch(1)).detach()
    return {"loss": loss.detach(), "gradients": gradients, "weights": weights, "statistics": statistics, "next_loss": next_loss}


def start_engine(module: nn.Module, stage: int, world: World, *, clipping: float = 0.0) -> Any:
    """A DeepSpeed engine with plain SGD."""
    import deepspeed

    check_parameters(module)
    config = build_deepspeed_config(
        zero=ZeroConfig(stage=stage),  # type: ignore[arg-type]
        world=world, micro_batch_size=ROWS // world.size, gradient_clipping=clipping,
        overrides={"zero_optimization.stage3_param_persistence_threshold": "0"} if stage == 3 else {},
    )  # fmt: skip
    optimizer = torch.optim.SGD(module.parameters(), lr=LEARNING_RATE)
    engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=config)
    set_group_timeouts(60)
    return engine


def full_weights(engine: Any) -> dict[str, Tensor]:
    """Whole parameters, also of ZeRO-3."""
    import deepspeed

    weights = {}
    for key, parameter in engine.module.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
            weights[key] = parameter.detach().clone()
    return weights


def together(name: str, stage: int, world: World, reference: dict[str, Any]) -> dict[str, float]:
    """Largest relative errors of the ranks' common step against the single process."""
    from deepspeed.utils import safe_get_full_grad

    engine = start_engine(Pairs(name), stage, world)
    loss = engine(slice_of(make_batch(0), world))
    engine.backward(loss)
    gradients = {key: safe_get_full_grad(parameter) for key, parameter in engine.module.named_parameters()}
    engine.step()
    weights = full_weights(engine)
    statistics = {key: value.clone() for key, value in engine.module.named_buffers() if "running" in key}
    gathered = [collectives.gather_ids(value[None]) for value in statistics.values()]
    next_loss = engine(slice_of(make_batch(1), world))
    assert gradients.keys() == reference["gradients"].keys()
    assert all(gradient is not None for gradient in gradients.values())
    return {
        "loss": relative(mean_over_ranks(loss, world), reference["loss"]),
        "next_loss": relative(mean_over_ranks(next_loss, world), reference["next_loss"]),
        "gradient": max(relative(gradients[key], wanted) for key, wanted in reference["gradients"].items()),
        "weight": max(relative(weights[key], wanted) for key, wanted in reference["weights"].items()),
        "running_statistics": max(relative(statistics[key], wanted) for key, wanted in reference["statistics"].items()),
        "running_statistics_between_ranks": max(float((ranks - ranks[:1]).abs().max()) for ranks in gathered),
        "num_gradients": len(gradients),
    }


def mean_over_ranks(loss: Tensor, world: World) -> Tensor:
    """The global loss."""
    return collectives.sum_across(loss.detach().reshape(1)) / world.size


def forbidden_negatives(world: World) -> int:
    """Pairs of rows of the same stimulus that push each other apart: gradients of each row's loss on the gathered columns."""
    batch = slice_of(make_batch(0), world)
    generator = torch.Generator().manual_seed(world.rank)
    eeg, image = (nn.functional.normalize(torch.randn(len(batch["eeg"]), 8, generator=generator), dim=1) for _ in range(2))
    columns = losses.gather_columns(
        eeg, image, batch["stimulus"], gather_rows=collectives.gather_rows, gather_ids=collectives.gather_ids, rank=world.rank
    )
    assert columns.ids_G is not None
    found, same = 0, 0
    for row in range(len(eeg)):
        eeg_GE, image_GE = columns.eeg_GE.clone().requires_grad_(), columns.image_GE.clone().requires_grad_()
        mine = columns._replace(eeg_GE=eeg_GE, image_GE=image_GE, offset=columns.offset + row)
        one = slice(row, row + 1)
        losses.info_nce(eeg[one], image[one], mine, torch.tensor([5.0]), batch["stimulus"][one]).backward()
        duplicates = columns.ids_G.eq(batch["stimulus"][row])
        duplicates[columns.offset + row] = False
        same += int(duplicates.sum())
        assert eeg_GE.grad is not None
        assert image_GE.grad is not None
        found += int(((eeg_GE.grad != 0) | (image_GE.grad != 0)).any(1)[duplicates].sum())
    assert same > 0, "the batch has no repeated stimulus: nothing was tested"
    return int(collectives.sum_across(torch.tensor([float(found)])))


def loss_scale(stage: int, world: World, reference: dict[str, Any]) -> dict[str, float]:
    """The fp16 loss scale in float32: an overflowing step changes nothing, a good one is a clipped, unscaled step."""
    clipping = 0.01
    engine = start_engine(Pairs("tsconv"), stage, world, clipping=clipping)
    scaler = LossScale(engine, "fp16")
    before = full_weights(engine)
    # Only rank 0 overflows: the ranks must decide alike all the same.
    scaler.backward(engine(slice_of(make_batch(0), world)) * (float("inf") if world.is_main else 1.0))
    skipped, scale = not scaler.step(), scaler.scale
    unchanged = max(float((after - before[key]).abs().max()) for key, after in full_weights(engine).items())
    scaler.backward(engine(slice_of(make_batch(0), world)))
    stepped = scaler.step()
    after = full_weights(engine)
    norm = torch.stack([gradient.norm() for gradient in reference["gradients"].values()]).norm()
    wanted = {key: before[key] - LEARNING_RATE * clipping / norm * gradient for key, gradient in reference["gradients"].items()}
    # Both moves are differences of rounded weights, so that the rounding of a weight does not count as an error of its step.
    moved, wanted_move = (torch.cat([(weights[key] - before[key]).flatten() for key in before]) for weights in (after, wanted))
    scales = collectives.gather_ids(torch.tensor([scaler.scale]))
    return {
        "unchanged": unchanged,
        "skipped_then_stepped": float(skipped and stepped),
        "halved": scale,
        "scale_between_ranks": float((scales - scales[0]).abs().max()),
        "clipped_step": relative(moved, wanted_move),
    }


class Autocast(nn.Module):
    """Enters autocast inside its forward, as a training task must."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor, precision: Precision) -> Tensor:
        """Output of the layer."""
        with autocast(precision, x.device):
            return self.linear(x)


def autocast_dtypes(world: World) -> dict[str, str]:
    """Dtypes that come out of an engine's module with autocast inside it and without."""
    engine = start_engine(Autocast(), 2, world)
    x = torch.randn(2, 4)
    inside, without = engine(x, "bf16"), engine(x, "fp32")
    return {"inside": str(inside.dtype), "without": str(without.dtype)}


def main(output: str) -> None:
    """Write ``{stage: {encoder: errors}, "loss_scale": {stage: ...}, "forbidden_negatives": n, "world_size": n}``."""
    torch.set_num_threads(1)
    world = read_world()
    references = {name: alone(name) for name in ENCODERS}
    start_distributed(world, choose_device("cpu", world), 60)
    collectives.check_equal_rows(ROWS // world.size, torch.device("cpu"))
    results: dict[str, Any] = {"world_size": collectives.num_ranks()}
    for stage in (0, 1, 2, 3):
        results[str(stage)] = {name: together(name, stage, world, references[name]) for name in ENCODERS}
    results["loss_scale"] = {str(stage): loss_scale(stage, world, references["tsconv"]) for stage in (0, 1, 2, 3)}
    results["autocast"] = autocast_dtypes(world)
    results["forbidden_negatives"] = forbidden_negatives(world)
    if world.is_main:
        Path(output).write_text(json.dumps(results))
    stop_distributed()


if __name__ == "__main__":
    main(next(argument for argument in sys.argv[1:] if not argument.startswith("--local_rank")))
    leave(0)
