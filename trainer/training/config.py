"""What a run is asked to do: the fields that the configs of all tasks share."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from data_prep.contract.errors import CommandError
from data_prep.contract.seed import check_seed
from data_prep.contract.words import short
from trainer.data.config import DataConfig
from trainer.distributed.deepspeed_config import ZeroConfig
from trainer.training.callback import CallbackConfig
from trainer.training.optimizer import OptimizerConfig
from trainer.training.run_folder import MAX_STEP
from trainer.training.tracking import MlflowConfig

_MOST_ITEMS = 1 << 20
"""Each item of a global batch is compared with all of them."""
_LONGEST_SECONDS = 1_000_000_000
"""What clocks of the libraries can hold."""


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
    """Items of one rank's forward; null: ``global_batch_size / world size / accumulation``. Given alone, ``accumulation`` follows from it:
    on half as many ranks, twice as many forwards of the same size make the same global batch."""
    accumulation: int | None = None
    """Forwards of a rank an optimizer step; null: as many as ``micro_batch_size`` says, 1 without it. Loss and gradient are those of one
    forward of the whole batch: ``text`` sums a mean over tokens; ``contrastive`` compares all rows with each other, for which each is
    embedded twice, and with ``model.norm: batch`` twice more for every normalisation (``group`` and ``layer`` need no such pass)."""
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
    then gives bit-identical weights and metrics, resumed or not; other topologies agree to rounding only, and where a module of one's own
    draws from torch's stream (``torch.nn.Dropout``), which a run says after its first step, not at all."""
    threads: int | None = None
    """CPU threads of a rank; null: what ``OMP_NUM_THREADS`` or torch say (1 when ``deterministic``)."""
    validate_every_steps: int = 100
    """Steps between validations; the last step is always validated. 0: only the last."""
    validation_batch_size: int = 256
    """Items of one rank's validation forward."""
    early_stopping_validations: int = 0
    """Stop after this many validations in a row without a better score; 0: never."""
    max_skipped_steps: int = 10
    """Optimizer steps of the whole run, or since its latest rollback, that may be skipped because gradients were not finite; one more is a
    rollback. Such a step changes neither weights nor running statistics, and is counted (``skipped_steps``) and said. Steps that only lower
    the fp16 loss scale do not count; inputs that are not finite end a run at once."""
    max_rollbacks: int = 1
    """How often a run that skipped too many steps goes back to its last whole checkpoint, and on with the items that come next. Then, or
    without a checkpoint, it ends with ``reports/not-finite.json``."""
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
        for name in ("validate_every_steps", "early_stopping_validations", "max_skipped_steps", "max_rollbacks"):
            if getattr(self, name) < 0:
                raise ValueError(f"train.{name}: {getattr(self, name)}, expected 0 or more")
        if self.early_stopping_validations and not self.validate_every_steps:
            raise ValueError(
                f"train.early_stopping_validations: {self.early_stopping_validations} with validate_every_steps 0, by which the last step "
                "alone is validated: expected 0, or steps between validations"
            )
        if self.steps is not None and self.steps > MAX_STEP:
            raise ValueError(f"train.steps: {short(self.steps)}, expected at most {MAX_STEP:,}, of which checkpoints have names")
        for name, most in (("global_batch_size", _MOST_ITEMS), ("timeout_seconds", _LONGEST_SECONDS)):
            if getattr(self, name) > most:
                raise ValueError(f"train.{name}: {short(getattr(self, name))}, expected at most {most:,}")
        check_seed(self.seed, "train.seed")
        if self.accumulation is not None and self.accumulation < 1:
            raise ValueError(f"train.accumulation: {self.accumulation}, expected at least 1 or null")

    def rank_batch_size(self, world_size: int) -> int:
        """Items of one rank's forward; refuses a world size, accumulation or micro-batch that does not divide the global batch."""
        if self.global_batch_size % world_size:
            raise CommandError(f"train.global_batch_size: {self.global_batch_size} is not divisible by the {world_size} ranks")
        share = self.global_batch_size // world_size
        micro, accumulation = self.micro_batch_size, self.accumulation
        if accumulation is None:
            if micro is not None and share % micro:
                raise CommandError(
                    f"train.micro_batch_size: {micro} x {world_size} ranks does not divide train.global_batch_size "
                    f"{self.global_batch_size}; expected a divisor of {share} or null"
                )
            return micro or share
        if share % accumulation:
            raise CommandError(f"train.accumulation: {accumulation} does not divide the {share} items of a rank's share")
        size = share // accumulation
        if micro not in (None, size):
            times = f"{micro} x {world_size} ranks" + (f" x {accumulation}" if accumulation > 1 else "")
            raise CommandError(
                f"train.micro_batch_size: {times} is not train.global_batch_size {self.global_batch_size}; expected {size} or null"
            )
        return size

    def forwards(self, world_size: int) -> int:
        """Forwards of a rank an optimizer step; refuses what :meth:`rank_batch_size` refuses."""
        return self.global_batch_size // world_size // self.rank_batch_size(world_size)

    def num_steps(self, num_items: int) -> int:
        """Optimizer steps of the whole run."""
        if self.steps is not None:
            return self.steps
        assert self.data_passes is not None
        steps = self.data_passes * num_items / self.global_batch_size
        if not steps <= MAX_STEP:
            raise CommandError(
                f"train.data_passes: {self.data_passes:g} over {num_items} items are {steps:.3g} steps, expected at most {MAX_STEP:,}"
            )
        return math.ceil(steps)


@dataclass(frozen=True, kw_only=True)
class PassConfig:
    """How one pass over the training samples is cut into steps, and who waits how long. None of it changes what comes out."""

    global_batch_size: int = 2048
    """Samples a step, over all ranks, at most: after each the run may stop or save."""
    world_size: int | None = None
    """Number of ranks the run is meant for; started on another number, it ends with an error. null: any."""
    log_every_steps: int = 1
    """Steps between lines of ``metrics.jsonl`` and of the tracker."""
    timeout_seconds: float = 600.0
    """Longest wait for another rank before a collective operation fails."""

    def __post_init__(self) -> None:
        for name in ("global_batch_size", "log_every_steps", "timeout_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"train.{name}: {getattr(self, name)}, expected a positive number")
        if self.world_size is not None and self.world_size < 1:
            raise ValueError(f"train.world_size: {self.world_size}, expected a positive number or null")
        if self.timeout_seconds > _LONGEST_SECONDS:
            raise ValueError(f"train.timeout_seconds: {short(self.timeout_seconds)}, expected at most {_LONGEST_SECONDS:,}")


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When to save and what to keep."""

    every_steps: int = 500
    """Steps between checkpoints; a new best score, a signal and the end save as well. 0: only those."""
    every_minutes: float = 0.0
    """Minutes of training between checkpoints, besides ``every_steps``: what a lost host costs at most. 0: none by the clock."""
    keep_last: int = 2
    """Newest checkpoints to keep; the best one is kept besides."""

    def __post_init__(self) -> None:
        if self.every_steps < 0:
            raise ValueError(f"checkpoint.every_steps: {self.every_steps}, expected 0 or more")
        if not 0 <= self.every_minutes < math.inf:
            raise ValueError(f"checkpoint.every_minutes: {self.every_minutes}, expected 0 or more")
        if self.keep_last < 1:
            raise ValueError(f"checkpoint.keep_last: {self.keep_last}, expected at least 1")


@dataclass(frozen=True, kw_only=True)
class FolderConfig:
    """Base of the configs of all commands that fill a run folder, whether they train by steps or sum in one pass."""

    run: str
    """Run folder, made if missing; one that holds a run needs ``resume``."""
    data: DataConfig
    """Study, split, embedding and selection."""
    train: TrainConfig | PassConfig
    """How long, on how many ranks."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """When to save, what to keep."""
    resume: str = ""
    """Empty: a new run; ``latest``: continue the run folder's last checkpoint; ``best``: that of the best validation, where what came after
    is wound back; ``auto``: the newest checkpoint that is whole, or a new run where there is none; otherwise the path of a checkpoint or of
    another run folder."""
    callbacks: list[CallbackConfig] = field(default_factory=list)
    """What else watches the run: ``[{class_path: TensorBoard}]``, or the import path of a class of yours with its ``init_args``."""
    mlflow: MlflowConfig = field(default_factory=MlflowConfig)
    """Tracking."""

    identity_fields: ClassVar[tuple[str, ...]] = ("data",)
    """Fields that belong whole to what makes two runs the same experiment; see :mod:`trainer.training.identity`."""
    train_identity_fields: ClassVar[tuple[str, ...]] = ("global_batch_size", "seed")
    """Of ``train``, those that do."""


@dataclass(frozen=True, kw_only=True)
class RunConfig(FolderConfig):
    """Base of the configs of tasks that are trained by steps."""

    run_folder: Literal["shared", "local"] = "shared"
    """``shared``: all hosts see the run folder. ``local``: rank 0's host alone has it, and other hosts send it their parts of checkpoints:
    for hosts without a file system in common. With that host the run is lost, with any other host nothing."""
    train: TrainConfig
    """Length, batch, device, validation, reproducibility."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """AdamW and its schedule."""
    zero: ZeroConfig = field(default_factory=ZeroConfig)
    """DeepSpeed ZeRO."""
    deepspeed_overrides: dict[str, Any] = field(default_factory=dict)
    """Further keys of DeepSpeed's own config, for experts; keys that fields above decide are refused."""
    init_from: str = ""
    """An earlier run or export whose weights a new run begins with; a resumed run has its checkpoint's and does not look here. Empty:
    none."""

    identity_fields: ClassVar[tuple[str, ...]] = ("data", "optimizer")
