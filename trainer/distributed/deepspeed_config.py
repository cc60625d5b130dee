"""The DeepSpeed config as a pure function of ours: nobody writes that JSON by hand.

Precision. Weights, gradients and optimizer states are float32. ``bf16`` and ``fp16`` are torch.autocast *inside the
wrapped module's forward* (:func:`trainer.distributed.precision.autocast`): On CUDA DeepSpeed's engine switches
off an autocast that is put around it, and its own ``torch_autocast`` section would also send gradients in 16 bits. For ``fp16`` that
section makes a GradScaler, which is right under ZeRO 0 only: under ZeRO 1-3 it clips the still scaled gradient, never
lowers its scale (an overflow returns before ``update``), and steps it once a parameter group. So the loss is scaled by
:class:`trainer.distributed.precision.LossScale`, the same way for every stage.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import yaml
from torch import nn

from data_prep.contract.errors import UserError
from trainer.distributed.world import World

ZERO_STAGES = (0, 1, 2, 3)
OWNED = {
    "train_batch_size": "train.global_batch_size",
    "train_micro_batch_size_per_gpu": "train.micro_batch_size",
    "gradient_accumulation_steps": "train.accumulation",
    "managed_gradient_accumulation": "train.accumulation",
    "gradient_clipping": "optimizer.gradient_clipping",
    "optimizer": "optimizer",
    "scheduler": "optimizer",
    "bf16": "train.precision",
    "fp16": "train.precision",
    "torch_autocast": "train.precision",
    "zero_optimization.stage": "zero.stage",
}
"""Keys of the DeepSpeed config that the trainer's own fields decide, and which field to set instead."""


@dataclass(frozen=True, kw_only=True)
class ZeroConfig:
    """What DeepSpeed's ZeRO partitions over ranks."""

    stage: Literal[0, 1, 2, 3] = 1
    """0 nothing (resumes at any world size directly), 1 optimizer states, 2 also gradients, 3 also parameters."""
    overlap_comm: bool = False
    """Reduce gradients while the backward pass still runs; faster on several GPUs, of no use on the CPU."""
    bucket_elements: int = 20_000_000
    """Elements reduced or gathered at a time in stages 1 to 3; a float32 buffer of that size is kept."""
    offload_optimizer: bool = False
    """Keep optimizer states in host memory (stages 1 to 3)."""
    offload_parameters: bool = False
    """Keep each rank's share of the parameters in host memory (stage 3): for a base that all devices together do not hold. Slow."""

    def __post_init__(self) -> None:
        if self.stage not in ZERO_STAGES:
            raise ValueError(f"zero.stage: {self.stage!r}, expected 0, 1, 2 or 3")
        if self.bucket_elements < 1:
            raise ValueError(f"zero.bucket_elements: {self.bucket_elements}, expected at least 1")
        if self.offload_optimizer and self.stage == 0:
            raise ValueError("zero.offload_optimizer: true with zero.stage 0, expected stage 1, 2 or 3")
        if self.offload_parameters and self.stage != 3:
            raise ValueError(f"zero.offload_parameters: true with zero.stage {self.stage}, expected stage 3")


def build_deepspeed_config(
    *,
    zero: ZeroConfig,
    world: World,
    micro_batch_size: int,
    accumulation: int = 1,
    gradient_clipping: float = 0.0,
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The dict for ``deepspeed.initialize(config=...)``.

    Parameters
    ----------
    zero
        Partitioning.
    world
        Its size gives ``train_batch_size``.
    micro_batch_size
        Rows of one rank's forward.
    accumulation
        Forwards a rank and optimizer step; DeepSpeed averages their gradients.
    gradient_clipping
        Largest global gradient norm; 0 is off. Always written: DeepSpeed's own default is 1.0.
    overrides
        An expert's extra keys, merged deep; strings are read as YAML scalars, since the command line yields ``'3'``.
        Keys may be nested mappings or dotted (``zero_optimization.round_robin_gradients``).

    Raises
    ------
    ValueError
        An override of a key that the trainer decides itself, named together with the field to set instead.
    """
    if micro_batch_size < 1:
        raise UserError(f"train.micro_batch_size: {micro_batch_size}, expected at least 1")
    if not gradient_clipping >= 0:
        raise UserError(f"optimizer.gradient_clipping: {gradient_clipping}, expected 0 (off) or a positive norm")
    config: dict[str, Any] = {
        "train_batch_size": micro_batch_size * accumulation * world.size,
        "train_micro_batch_size_per_gpu": micro_batch_size,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": float(gradient_clipping),
        "steps_per_print": 2**31 - 1,  # the trainer prints its own progress
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {"stage": zero.stage},
    }
    if zero.stage:
        config["zero_optimization"].update(
            overlap_comm=zero.overlap_comm,
            reduce_bucket_size=zero.bucket_elements,
            allgather_bucket_size=zero.bucket_elements,
        )
    if zero.offload_optimizer:
        config["zero_optimization"]["offload_optimizer"] = {"device": "cpu"}
    if zero.offload_parameters:
        config["zero_optimization"]["offload_param"] = {"device": "cpu"}
    extra = _nested(overrides or {})
    for dotted, ours in OWNED.items():
        if _contains(extra, dotted.split(".")):
            raise UserError(f"deepspeed_overrides.{dotted}: decided by {ours}; set that field instead")
    return _merge(config, extra)


def check_parameters(module: nn.Module) -> None:
    """Refuse what crashes ``deepspeed.initialize``: parameters without dimensions, and models without parameters to train."""
    scalars = [name for name, parameter in module.named_parameters() if parameter.ndim == 0]
    if scalars:
        raise UserError(f"parameter {scalars[0]!r} has shape (), which DeepSpeed cannot partition: give it shape (1,)")
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise UserError("the model has no parameters to train")


def _nested(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as nested dicts, string leaves as the YAML scalars they spell."""
    nested: dict[str, Any] = {}
    for key, value in overrides.items():
        *parents, last = str(key).split(".")
        for parent in reversed([*parents, last]):
            value = {parent: _scalars(value)}
        nested = _merge(nested, value)
    return nested


def _scalars(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _nested(value)
    if isinstance(value, (list, tuple)):
        return [_scalars(item) for item in value]
    if isinstance(value, str):
        try:
            value = yaml.safe_load(value)
            number = float(value) if isinstance(value, str) else math.nan  # YAML 1.1 takes 5e8 for a word
        except (yaml.YAMLError, ValueError):
            return value
        if math.isfinite(number):
            return int(number) if number.is_integer() else number
    return value


def _merge(base: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    merged = copy.deepcopy(dict(base))
    for key, value in extra.items():
        both = isinstance(merged.get(key), Mapping) and isinstance(value, Mapping)
        merged[key] = _merge(merged[key], value) if both else copy.deepcopy(value)
    return merged


def _contains(tree: Any, path: list[str]) -> bool:
    for key in path:
        if not isinstance(tree, Mapping) or key not in tree:
            return False
        tree = tree[key]
    return True
