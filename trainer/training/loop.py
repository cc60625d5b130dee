"""The training loop, and how a run is set up around it.

:func:`run` opens the study, decides between a new run and a resumed one, wraps model and optimiser in a DeepSpeed engine
and hands over to :meth:`Loop.train`, which knows nothing of logging, tracking or when to save: callbacks see the loop.

Optimizer step t takes items ``[t*G, (t+1)*G)`` of the endless stream, G the global batch size; the learning rate, the order,
augmentation and dropout are functions of the step and the seed. So the only state is weights, moments and a few counters.
"""

from __future__ import annotations

import contextlib
import math
import os
import resource
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from data_prep.contract.cli import to_yaml
from data_prep.contract.errors import CommandError
from data_prep.contract.files import write_atomically, write_json
from trainer.callbacks.base import Callback
from trainer.callbacks.checkpoints import Checkpoints
from trainer.callbacks.early_stopping import EarlyStopping
from trainer.callbacks.mlflow import MlflowTracking
from trainer.callbacks.progress import ProgressLine
from trainer.callbacks.tensorboard import TensorBoard
from trainer.distributed import world as worlds
from trainer.distributed.deepspeed_config import build_deepspeed_config, check_parameters
from trainer.distributed.precision import LossScale, check_precision
from trainer.distributed.world import World
from trainer.distributed.zero_init import partitioned
from trainer.training import checkpoint, identity
from trainer.training.optimizer import learning_rate
from trainer.training.run_folder import RunFolder
from trainer.training.state import TrainConfig, TrainState

STOPPED_STATUS = 75
"""Exit status of a run that a signal stopped after saving: not finished, to be resumed (sysexits' EX_TEMPFAIL)."""
_ADVICE = "lower optimizer.lr, or check the data"


class Batches(Protocol):
    """An endless iterator that is closed at the end."""

    def __next__(self) -> Any: ...

    def close(self) -> None: ...


class Task(Protocol):
    """What a loop needs of a task; a task names its losses and scores itself."""

    study: dict[str, str]
    """``fingerprint``, ``split_hash``, ...: identity of the data."""
    num_items: int
    """Items of a data pass."""
    score_name: str | None
    """The validation score that picks the best weights, higher is better; None: nothing is validated."""
    notes: list[tuple[str, dict[str, Any]]]
    """Kind and facts of events to be written at the start; see :class:`trainer.tasks.base.BaseTask`, which has these defaults."""
    started_from: list[dict[str, Any]]
    """Data of the runs whose weights this one began with; the loop keeps it in checkpoints."""
    partitioned_dtype: torch.dtype | None
    """Dtype of a pretrained model that ZeRO 3 cuts up while it is loaded; None: there is none."""
    frozen_elsewhere: bool
    """Frozen parameters can be had from where they came: they go neither into checkpoints nor to ``export``."""

    def check_start(self) -> None:
        """On rank 0, before a new run (not a resumed one) writes anything: refuse what it cannot start from."""
        ...

    def start(self, model: nn.Module) -> None:
        """On all ranks, with a new run's fresh model: bring weights from elsewhere, where the config says so."""
        ...

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Optimiser of the trainable parameters; a group's ``lr_factor`` multiplies the learning rate."""
        ...

    def build_model(self) -> nn.Module:
        """A new model with weights from torch's current seed."""
        ...

    def batches(self, start: int) -> Batches:
        """This rank's host batches of the stream, from item ``start`` on."""
        ...

    def prepare(self, host: Any, step: int) -> Sequence[Any]:
        """Host batch of optimizer step ``step`` (from 0) to ``train.accumulation`` device batches, augmented; equally many on all ranks."""
        ...

    def losses(self, model: Any, batch: Any) -> dict[str, Tensor]:
        """Named losses of one of them, whose mean over ranks and batches is the global one; ``loss`` is what is minimised."""
        ...

    def validate(self, model: Any) -> dict[str, float]:
        """Scores, equal on all ranks; never sees test data."""
        ...

    def export(self, weights: dict[str, Tensor], output: Path, step: int) -> None:
        """Write the model where no launcher is needed to load it."""
        ...


class Loop:
    """One run. Public attributes are for callbacks to read; ``stop_reason`` and ``state`` for them to set."""

    def __init__(
        self, config: Any, task: Task, world: World, device: torch.device, engine: Any, folder: RunFolder, callbacks: Sequence[Callback]
    ) -> None:
        self.config, self.task, self.world, self.device = config, task, world, device
        self.engine, self.folder, self.callbacks = engine, folder, callbacks
        self.train_config: TrainConfig = config.train
        self.state = TrainState()
        self.num_steps = self.train_config.num_steps(task.num_items)
        self.loss_scale = LossScale(engine, self.train_config.precision)
        self.stop_reason = ""
        self.stop_signal = StopSignal(device)
        self.saved_step = -1
        self.last_losses: list[Tensor] = []
        """Of the latest step, by micro-batch, on this rank."""

    @property
    def study(self) -> dict[str, str]:
        """Identity of the data."""
        return self.task.study

    def train(self) -> str:
        """Train to the end; returns why it ended: ``finished``, ``early stopping`` or ``signal``."""
        self._each("on_start")
        self.engine.train()  # what is loaded by from_pretrained comes in eval mode
        clock = Clock()
        with contextlib.closing(self.task.batches(self.state.samples_seen)) as batches:
            while self.state.step < self.num_steps and not self.stop_reason:
                with clock.waiting():
                    host = next(batches)
                losses = self._optimizer_step(self.task.prepare(host, self.state.step))
                clock.samples += self.train_config.global_batch_size
                self._each("on_step")
                if self.train_config.log_items:
                    self._log_items(host)
                if self.state.step % self.train_config.log_every_steps == 0 or self.state.step == self.num_steps:
                    self._log(losses, clock)
                if self.validation_due():
                    self._validate()
                    clock.restart()
                self.folder.heartbeat(self.state.step)
                if self.stop_signal.agreed():
                    self.stop_reason = "signal"
        reason = "finished" if self.state.step >= self.num_steps else self.stop_reason
        self._each("on_end", reason)
        return reason

    def validation_due(self) -> bool:
        """Whether the step just done is followed by a validation."""
        every, step = self.train_config.validate_every_steps, self.state.step
        return self.task.score_name is not None and (step == self.num_steps or (every > 0 and step % every == 0))

    def save(self, *, best: bool = False) -> None:
        """Checkpoint the present step with all ranks (once), and with ``best`` also point to it and export the weights.

        Raises
        ------
        CommandError
            The step's loss or the weights it led to are not finite: earlier checkpoints stay.
        """
        if self.saved_step != self.state.step:
            self._check_finite()
        if best:
            self.export()
        if self.saved_step != self.state.step:
            self.state.loss_scale = self.loss_scale.state_dict()
            keep = self.config.checkpoint.keep_last
            path = checkpoint.save(
                self.engine, self.folder, self.state, self.world, keep_last=keep, best=best, without_frozen=self.task.frozen_elsewhere
            )
            self.saved_step = self.state.step
            self.folder.event("checkpoint", step=self.state.step, best=best)
            self._each("on_checkpoint", path)

    def _check_finite(self) -> None:
        if not self.last_losses:
            return
        loss = torch.stack(self.last_losses).float().mean()
        # A step whose loss is a number may still have led to weights that are none. Under ZeRO 3 a rank looks at its own slices.
        trained = [getattr(p, "ds_tensor", p).detach() for p in self.engine.module.parameters() if p.requires_grad]
        broken = ~torch.stack([weights.isfinite().all() for weights in trained]).all()
        sums = torch.stack([loss, broken.float()])
        dist.all_reduce(sums)
        self._check_loss(float(sums[0]))
        if float(sums[1]):
            raise CommandError(f"the weights after step {self.state.step} are not finite: {_ADVICE}")

    def _check_loss(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise CommandError(f"the loss is {loss} at step {self.state.step}: {_ADVICE}")

    def export(self) -> None:
        """Replace ``export/`` by the present weights."""
        weights = checkpoint.full_weights(self.engine, trainable_only=self.task.frozen_elsewhere)
        if weights is not None:
            new, old = self.folder.path / ".export.new", self.folder.path / ".export.old"
            shutil.rmtree(new, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)
            self.task.export(weights, new, self.state.step)
            if self.folder.export.exists():
                os.replace(self.folder.export, old)
            os.replace(new, self.folder.export)
            shutil.rmtree(old, ignore_errors=True)

    def _optimizer_step(self, batches: Sequence[Any]) -> dict[str, Tensor]:
        lr = learning_rate(self.state.step, self.num_steps, self.config.optimizer)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_factor", 1.0)
        # Dropout's random numbers are a function of seed, step and rank: a resumed run draws the same ones.
        torch.manual_seed((self.train_config.seed * 1_000_003 + self.state.step) * 4099 + self.world.rank)
        parts = []
        for batch in batches:
            losses = self.task.losses(self.engine, batch)
            self.loss_scale.backward(losses["loss"])
            self.loss_scale.step()
            parts.append({name: value.detach() for name, value in losses.items()})
        self.last_losses = [part["loss"] for part in parts]
        self.state.step += 1
        self.state.samples_seen += self.train_config.global_batch_size
        return {name: torch.stack([part[name].float() for part in parts]).mean(dim=0) for name in parts[0]}

    def _log(self, losses: dict[str, Tensor], clock: Clock) -> None:
        values = torch.stack([value.detach().float() for value in losses.values()])
        dist.all_reduce(values)
        metrics = dict(zip(losses, (values / self.world.size).tolist(), strict=True))
        self._check_loss(metrics["loss"])
        metrics["lr"] = self.engine.optimizer.param_groups[0]["lr"]
        metrics |= clock.restart() | {"memory_gib": memory_gib(self.device)}
        self.folder.metrics(self.state.step, metrics)
        self._each("on_metrics", metrics)

    def _log_items(self, host: Any) -> None:
        mine = torch.as_tensor(host.item_B).to(self.device)
        every = mine.new_empty(self.world.size * len(mine))
        dist.all_gather_into_tensor(every, mine)
        self.folder.items(self.state.step, every.tolist())

    def _validate(self) -> None:
        self.engine.eval()
        scores = self.task.validate(self.engine)
        self.engine.train()
        score = scores[str(self.task.score_name)]
        improved = self.state.best_score is None or score > self.state.best_score
        if improved:
            self.state.best_score, self.state.best_step, self.state.validations_since_best = score, self.state.step, 0
        else:
            self.state.validations_since_best += 1
        self.folder.metrics(self.state.step, {f"validation_{name}": value for name, value in scores.items()})
        self._each("on_validation", scores, improved)

    def _each(self, hook: str, *arguments: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, hook)(self, *arguments)


class Clock:
    """Throughput since the last look, and the share of time spent waiting for data."""

    def __init__(self) -> None:
        self.started, self.samples, self.waited = time.perf_counter(), 0, 0.0

    def restart(self) -> dict[str, float]:
        """Numbers since the last restart."""
        now = time.perf_counter()
        seconds = max(now - self.started, 1e-9)
        rates = {"samples_per_second": self.samples / seconds, "data_wait_share": self.waited / seconds}
        self.started, self.samples, self.waited = now, 0, 0.0
        return rates

    def waiting(self) -> Clock:
        """Context whose time counts as waiting."""
        return self

    def __enter__(self) -> None:
        self._entered = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.waited += time.perf_counter() - self._entered


class StopSignal:
    """SIGTERM or SIGINT on any rank, agreed upon by all: they must leave the loop after the same step.

    The answer is that of the reduction begun one step ago, so that no device waits for it.
    """

    def __init__(self, device: torch.device) -> None:
        self.received = False
        self.device = device
        self._pending: tuple[Tensor, Any] | None = None

    def __enter__(self) -> StopSignal:
        self._previous = {s: signal.signal(s, self._receive) for s in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def agreed(self) -> bool:
        """Whether any rank had received a signal one step ago; every rank calls it once a step."""
        before = self._pending
        flag = torch.tensor([int(self.received)], device=self.device, dtype=torch.int32)
        self._pending = (flag, dist.all_reduce(flag, op=dist.ReduceOp.MAX, async_op=True))
        if before is None:
            return False
        before[1].wait()
        return bool(before[0].item())

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = True


def memory_gib(device: torch.device) -> float:
    """Peak memory of this rank: of the GPU where it computes on one, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 2**30


# ------------------------------------------------------------------------------------------------------------- set-up


def run(config: Any) -> int:
    """Train as ``config`` says (a task's config: ``ContrastiveConfig``); exit status 0, or 75 when a signal stopped it."""
    world = worlds.read_world()
    worlds.check_world_size(world, config.train.world_size)
    micro_batch_size = config.train.rank_batch_size(world.size)
    device = worlds.choose_device(config.train.device, world)
    check_precision(config.train.precision, device)
    _settle(config.train)
    worlds.start_distributed(world, device, config.train.timeout_seconds)
    try:
        return _run(config, world, device, micro_batch_size)
    finally:
        worlds.stop_distributed()


def _run(config: Any, world: World, device: torch.device, micro_batch_size: int) -> int:
    task: Task = config.build_task(world, device)
    folder = RunFolder(config.run, rank=world.rank)
    found, universal = checkpoint.on_rank_0(world, lambda: _claim(config, task, folder, world))
    resumed = None if found is None else checkpoint.read_checkpoint(Path(found))

    overrides = {**config.deepspeed_overrides, **({"checkpoint": {"load_universal": True}} if universal else {})}
    deepspeed_config = build_deepspeed_config(
        zero=config.zero,
        world=world,
        micro_batch_size=micro_batch_size,
        accumulation=config.train.accumulation,
        gradient_clipping=config.optimizer.gradient_clipping,
        overrides=overrides,
    )
    import deepspeed

    torch.manual_seed(config.train.seed)
    with partitioned(deepspeed_config, task.partitioned_dtype):
        model = task.build_model()
    if resumed is None:
        task.start(model)
    check_parameters(model)
    engine, *_ = deepspeed.initialize(model=model, optimizer=task.build_optimizer(model), config=deepspeed_config)
    worlds.set_group_timeouts(config.train.timeout_seconds)

    loop = Loop(config, task, world, device, engine, folder, make_callbacks(config))
    if resumed is not None:
        checkpoint.load(engine, resumed, universal, without_frozen=task.frozen_elsewhere)
        dist.barrier()
        if world.rank == 0:
            shutil.rmtree(folder.path / "universal", ignore_errors=True)
        loop.state, loop.saved_step = resumed.state, resumed.state.step
        if loop.state.loss_scale:
            loop.loss_scale.load_state_dict(loop.state.loss_scale)
        task.started_from = loop.state.started_from
    loop.state.started_from = task.started_from
    with loop.stop_signal:
        try:
            reason = loop.train()
        except BaseException as error:
            message = " ".join(f"{type(error).__name__}: {error}".split())
            folder.event("fault", part="training", step=loop.state.step, message=message)
            for callback in loop.callbacks:
                callback.on_fault(loop, message)
            raise
    folder.event("end", reason=reason, step=loop.state.step)
    if reason == "signal":
        return STOPPED_STATUS
    if world.rank == 0:
        facts = {"step": loop.state.step, "samples_seen": loop.state.samples_seen, "reason": reason}
        facts |= {"best_score": loop.state.best_score, "best_step": loop.state.best_step, "score_name": task.score_name}
        write_json(folder.completed, facts | {"tracking_run_id": loop.state.tracking_run_id})
    dist.barrier()
    return 0


def _claim(config: Any, task: Task, folder: RunFolder, world: World) -> tuple[str | None, str | None]:
    """On rank 0: choose the checkpoint, check that it continues this run, write the run's first files."""
    found = checkpoint.find(folder, config.resume)
    this = identity.make_identity(config, task.study)
    universal = None
    if found is None:
        task.check_start()
    else:
        source = found.parents[1]
        identity.check_identity(source / "identity.json", this)
        saved = checkpoint.read_checkpoint(found)
        checkpoint.check_checkpoint(saved, zero_stage=config.zero.stage)
        if saved.zero_stage and saved.world_size != world.size:
            universal = checkpoint.convert_to_universal(saved, folder, config.train.timeout_seconds)
        if source.resolve() == folder.path.resolve():
            folder.point("latest", found)
        elif folder.holds_a_run():
            raise CommandError(f"run: {folder.path} already holds a run; to continue {found} elsewhere choose another folder")
        elif (source / "export").is_dir():
            shutil.copytree(source / "export", folder.export)  # the best so far, should nothing better come
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.checkpoints.mkdir(exist_ok=True)
    folder.completed.unlink(missing_ok=True)
    write_atomically(folder.path / "config.yaml", to_yaml(config).encode())
    write_json(folder.path / "identity.json", this)
    folder.event("start" if found is None else "resume", world_size=world.size, checkpoint=str(found) if found else None)
    for kind, facts in task.notes:
        folder.event(kind, **facts)
    if task.score_name is None and found is None:
        folder.event("note", message="the split has no validation part: the last weights count as the best")
    return (str(found) if found else None), universal


def make_callbacks(config: Any) -> list[Callback]:
    """Callbacks of a run, in the order in which they are called."""
    callbacks: list[Callback] = [ProgressLine()]
    if config.mlflow.enabled:
        callbacks.append(MlflowTracking(config.mlflow))
    if config.tensorboard:
        callbacks.append(TensorBoard())
    if config.train.early_stopping_validations:
        callbacks.append(EarlyStopping(config.train.early_stopping_validations))
    return [Checkpoints(config.checkpoint.every_steps), *callbacks]


def _settle(train: TrainConfig) -> None:
    """Threads and kernels, before anything is computed."""
    threads = train.threads or (1 if train.deterministic else None)
    if threads:
        torch.set_num_threads(threads)
    if train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
