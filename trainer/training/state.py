"""What a run is asked to do (:class:`TrainConfig`) and where it is (:class:`TrainState`)."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from data_prep.contract.errors import CommandError


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Length, batch, device and reproducibility of a run."""

    steps: int | None = None
    """Optimizer steps in all; give this or ``data_passes``."""
    data_passes: float | None = None
    """Length as a number of passes over the training items, rounded up to whole steps; give this or ``steps``."""
    global_batch_size: int = 128
    """Items an optimizer step sees, over all ranks: the number of candidates each contrastive row is compared with."""
    micro_batch_size: int | None = None
    """Items of one rank's forward; null: ``global_batch_size / world size / accumulation``. Any other value is refused."""
    accumulation: int = 1
    """Forwards an optimizer step. Exact for text, whose loss is a mean over tokens; above 1 is refused by the contrastive command, since
    summing contrastive gradients of parts is not the whole's gradient."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """``fp32``; ``bf16``: float32 weights under bfloat16 autocast; ``fp16``: half precision with loss scaling, CUDA only."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """``auto``: CUDA where there is one for every local rank, else the CPU. ``mps`` trains in a single process only."""
    world_size: int | None = None
    """Number of ranks the run is meant for; started on another number, it ends with an error. null: any."""
    seed: int = 0
    """Seed of initial weights, order, augmentation and dropout."""
    deterministic: bool = False
    """Deterministic kernels and one CPU thread a rank: the same config on the same number of ranks of the same machine and software
    then gives bit-identical weights and metrics, resumed or not; other topologies agree to rounding only."""
    threads: int | None = None
    """CPU threads of a rank; null: what ``OMP_NUM_THREADS`` or torch say (1 when ``deterministic``)."""
    validate_every_steps: int = 100
    """Steps between validations; the last step is always validated. 0: only the last."""
    validation_batch_size: int = 256
    """Items of one rank's validation forward."""
    early_stopping_validations: int = 0
    """Stop after this many validations in a row without a better score; 0: never."""
    log_every_steps: int = 10
    """Steps between lines of ``metrics.jsonl`` and of the tracker."""
    log_items: bool = False
    """Write the item numbers of every step to ``items.jsonl``: for tests of order and resume; large on long runs."""
    timeout_seconds: float = 600.0
    """Longest wait for another rank before a collective operation fails."""

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.data_passes is None):
            raise ValueError(f"train.steps is {self.steps} and train.data_passes {self.data_passes}: expected one of them, the other null")
        for name in ("steps", "data_passes", "micro_batch_size", "world_size", "threads"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"train.{name}: {value}, expected a positive number or null")
        for name in ("global_batch_size", "validation_batch_size", "log_every_steps", "timeout_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"train.{name}: {getattr(self, name)}, expected a positive number")
        for name in ("validate_every_steps", "early_stopping_validations", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"train.{name}: {getattr(self, name)}, expected 0 or more")
        if self.accumulation < 1:
            raise ValueError(f"train.accumulation: {self.accumulation}, expected at least 1")

    def rank_batch_size(self, world_size: int) -> int:
        """Items of one rank's forward; refuses a world size, accumulation or micro-batch that does not divide the global batch."""
        if self.global_batch_size % world_size:
            raise CommandError(f"train.global_batch_size: {self.global_batch_size} is not divisible by the {world_size} ranks")
        share = self.global_batch_size // world_size
        if share % self.accumulation:
            raise CommandError(f"train.accumulation: {self.accumulation} does not divide the {share} items of a rank's share")
        size = share // self.accumulation
        if self.micro_batch_size not in (None, size):
            times = f"{self.micro_batch_size} x {world_size} ranks" + (f" x {self.accumulation}" if self.accumulation > 1 else "")
            raise CommandError(
                f"train.micro_batch_size: {times} is not train.global_batch_size {self.global_batch_size}; expected {size} or null"
            )
        return size

    def num_steps(self, num_items: int) -> int:
        """Optimizer steps of the whole run."""
        if self.steps is not None:
            return self.steps
        assert self.data_passes is not None
        return math.ceil(self.data_passes * num_items / self.global_batch_size)


@dataclass(kw_only=True)
class TrainState:
    """Counters that a checkpoint keeps; everything else of a run follows from these, the weights and the config."""

    step: int = 0
    """Optimizer steps done."""
    samples_seen: int = 0
    """Items of the stream consumed: the cursor. Items of steps skipped for overflow count."""
    best_score: float | None = None
    """Best validation score so far; None before the first."""
    best_step: int = 0
    """Step of the best score."""
    validations_since_best: int = 0
    """For early stopping."""
    loss_scale: dict[str, float] = field(default_factory=dict)
    """State of the fp16 loss scale."""
    tracking_run_id: str = ""
    """MLflow's run, continued on resume."""
    started_from: list[dict[str, Any]] = field(default_factory=list)
    """Data of the runs whose weights this one began with; see :class:`trainer.tasks.base.BaseTask`."""

    def plain(self) -> dict[str, Any]:
        """As JSON-able values."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> TrainState:
        """Inverse of :meth:`plain`; fields of newer versions are ignored."""
        names = {f.name for f in fields(cls)}
        return cls(**{k: v for k, v in plain.items() if k in names})
