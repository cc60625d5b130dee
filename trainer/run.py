"""How a run is set up: world, task, engine, callbacks, loop. The only place that knows all of them.

``deepspeed --module trainer contrastive|text|encoding`` call :func:`contrastive`, :func:`text` and :func:`encoding` on every rank. Whatever
ends a run before its first step, on whichever rank, leaves its folder as it was (:mod:`trainer.training.start`): it can be mended and
started again there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from data_prep.contract.cli import to_yaml
from data_prep.contract.errors import CommandError, set_traceback_folder
from data_prep.contract.files import write_atomically, write_json
from data_prep.contract.output import waiting_at_most
from data_prep.contract.records import from_json, to_json
from data_prep.contract.version import code_version
from data_prep.contract.words import listed
from trainer.callbacks.checkpoints import Checkpoints
from trainer.callbacks.early_stopping import EarlyStopping
from trainer.callbacks.mlflow import MlflowTracking
from trainer.callbacks.progress import ProgressLine
from trainer.distributed import world as worlds
from trainer.distributed.agreement import agree
from trainer.distributed.deepspeed_config import build_deepspeed_config, check_parameters
from trainer.distributed.library_log import LibraryLog, collected
from trainer.distributed.precision import check_precision
from trainer.distributed.world import World
from trainer.distributed.zero_init import partitioned
from trainer.tasks.contrastive.config import ContrastiveConfig
from trainer.tasks.encoding.config import EncodingConfig
from trainer.tasks.text.config import TextConfig
from trainer.training import checkpoint, identity, settle
from trainer.training.apart import Apart, ranks_apart
from trainer.training.callback import Callback
from trainer.training.completed import Completed, write_completed
from trainer.training.config import FolderConfig, RunConfig, TrainConfig
from trainer.training.data_pass import DataPass, Summing
from trainer.training.joined import Comparing
from trainer.training.loop import Loop
from trainer.training.owner import SHARED_SECONDS, Claim, Owner, owned
from trainer.training.provenance import facts_of_the_data, facts_of_the_start
from trainer.training.resume import find, newest_whole
from trainer.training.run_folder import RunFolder, step_of
from trainer.training.seal import Checkpoint
from trainer.training.start import STOPPED_STATUS, Start, starting
from trainer.training.state import TrainState
from trainer.training.task import Task, say

_UNREAD_SECONDS = 30.0
"""A rank waits no longer for somebody to read its output: the others wait for it."""
TaskBuilder = Callable[[World, torch.device], Task]
SetUp = Callable[[RunFolder, Start], Loop | DataPass]
Opened = TypeVar("Opened", Task, Summing)


def contrastive(config: ContrastiveConfig) -> int:
    """``trainer contrastive``: exit status 0, or 75 when a signal stopped it."""

    def build(world: World, device: torch.device) -> Task:
        from trainer.tasks.contrastive.task import ContrastiveTask

        return ContrastiveTask(config, world, device)

    return run(config, build)


def text(config: TextConfig) -> int:
    """``trainer text``: exit status 0, or 75 when a signal stopped it."""

    def build(world: World, device: torch.device) -> Task:
        from trainer.tasks.text.task import TextTask  # the libraries of language models: contrastive training starts without them

        return TextTask(config, world, device)

    return run(config, build)


def encoding(config: EncodingConfig) -> int:
    """``trainer encoding``: exit status 0, or 75 when a signal stopped it."""
    world = _read_world(config)

    def set_up(folder: RunFolder, start: Start) -> DataPass:
        from trainer.tasks.encoding.task import EncodingTask

        _check_shared(folder, world)
        task = _opened(config, folder, world, lambda: EncodingTask(config, world), "training samples")
        found = checkpoint.on_rank_0(world, lambda: _choose_pass(config, task, folder, world))
        data_pass = DataPass(config, config.train, task, world, folder, make_callbacks(config))
        if found is not None:
            data_pass.resume(checkpoint.read_checkpoint(Path(found)))
        checkpoint.on_rank_0(world, lambda: _claim(data_pass, config, task, found, start))
        return data_pass

    return _on_all_ranks(config, world, torch.device("cpu"), set_up)


def run(config: RunConfig, build_task: TaskBuilder) -> int:
    """Train the task that ``build_task`` makes on each rank; exit status 0, or 75 when a signal stopped it."""
    world = _read_world(config)
    config.train.rank_batch_size(world.size)
    device = worlds.choose_device(config.train.device, world)
    check_precision(config.train.precision, device)
    _settle(config.train)

    def set_up(folder: RunFolder, start: Start) -> Loop:
        return _set_up(config, build_task, world, device, folder, start)

    return _on_all_ranks(config, world, device, set_up)


def _read_world(config: FolderConfig) -> World:
    set_traceback_folder(None)
    world = worlds.read_world()
    if world.is_main:
        code_version()  # now, not when it is first written down: a commit made meanwhile is not what runs
    worlds.check_world_size(world, config.train.world_size)
    return world


def _on_all_ranks(config: FolderConfig, world: World, device: torch.device, set_up: SetUp) -> int:
    """A run from the meeting of the ranks to its end."""
    say(world, f"starting {config.run} on {world.size} rank{'s' if world.size > 1 else ''} ({device.type})")
    with collected() as said:
        worlds.start_distributed(world, device, config.train.timeout_seconds)
        try:
            return _run(config, set_up, world, device, said)
        finally:
            worlds.stop_distributed()


def _run(config: FolderConfig, set_up: SetUp, world: World, device: torch.device, said: LibraryLog) -> int:
    folder, seconds = RunFolder(config.run, rank=world.rank), config.train.timeout_seconds
    if world.size > 1:
        with worlds.all_or_none(world, seconds, "agreement"):
            agree(world, "start", facts_of_the_start(config, device.type), timeout_seconds=seconds)
    with _owned(folder, world):
        return _train(_start(set_up, world, folder, said, seconds))


@contextlib.contextmanager
def _owned(folder: RunFolder, world: World) -> Iterator[None]:
    """Context in which this run, of all on whatever host, owns its folder: rank 0 takes it, and every rank sees that it did."""
    with contextlib.ExitStack() as stack:

        def take() -> dict[str, Any]:
            folder.refuse_what_is_no_run()
            folder.owner = stack.enter_context(owned(folder.path))
            return to_json(folder.owner.claim)

        claim = checkpoint.on_rank_0(world, take)
        if not world.is_main:
            folder.owner = Owner(folder.path, from_json(Claim, claim, "rank 0", written_by="a training"))
        yield


def _start(set_up: SetUp, world: World, folder: RunFolder, said: LibraryLog, timeout_seconds: float) -> Loop | DataPass:
    loop: Loop | DataPass | None = None
    with starting(folder.path) as start:
        start.owner = folder.owner
        try:
            with worlds.all_or_none(world, timeout_seconds):
                loop = set_up(folder, start)
                loop.start()
            said.open(folder.logs / f"rank-{world.rank}.log")
        except BaseException as error:
            if loop is not None:
                loop.fault(error, started=False)
            raise
    set_traceback_folder(folder.path, world.rank)
    return loop


def _set_up(
    config: RunConfig,
    build_task: TaskBuilder,
    world: World,
    device: torch.device,
    folder: RunFolder,
    start: Start,
) -> Loop:
    if config.run_folder == "local" and world.size > 1:
        folder.apart = ranks_apart(folder.path, folder.owner, world, device)
        if folder.owner is not None:
            folder.owner.elsewhere = folder.apart.here
        folder.apart.clean()
    else:
        _check_shared(folder, world)
    task = _opened(config, folder, world, lambda: build_task(world, device), "training items a data pass")
    lost = config.train.timeout_seconds
    found, universal = checkpoint.on_rank_0(world, lambda: _choose(config, task, folder, world, start), lost_seconds=lost)
    start.scratch = Path(universal).parent if universal else None
    if found is not None and folder.apart is not None:
        found, universal = _brought(folder.apart, found, universal, start)
    resumed = None if found is None else checkpoint.read_checkpoint(Path(found))

    overrides = {**config.deepspeed_overrides, **({"checkpoint": {"load_universal": True}} if universal else {})}
    # Batches that are compared with each other are one to DeepSpeed: a step has one reduction.
    accumulation = 1 if isinstance(task, Comparing) else config.train.forwards(world.size)
    deepspeed_config = build_deepspeed_config(
        zero=config.zero,
        world=world,
        micro_batch_size=config.train.global_batch_size // world.size // accumulation,
        accumulation=accumulation,
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
    with worlds.new_groups_wait(config.train.timeout_seconds):
        engine, *_ = deepspeed.initialize(model=model, optimizer=task.build_optimizer(model), config=deepspeed_config)
    worlds.set_group_timeouts(config.train.timeout_seconds)

    loop = Loop(config, task, world, device, engine, folder, make_callbacks(config))
    if resumed is not None:
        checkpoint.load(engine, resumed, universal, without_frozen=task.frozen_elsewhere)
        dist.barrier()
        if world.rank == 0:
            shutil.rmtree(folder.path / "universal", ignore_errors=True)
        if folder.apart is not None:
            folder.apart.forget()
        loop.state, loop.saved_step = resumed.state, resumed.state.step
        if loop.state.loss_scale:
            loop.loss_scale.load_state_dict(loop.state.loss_scale)
        task.started_from = loop.state.started_from
        loop.check_finite(whose=str(resumed.path))
        if checkpoint.on_rank_0(world, lambda: settle.best_is_lost(RunFolder(resumed.path.parents[1]), resumed.state)):
            say(world, f"the weights of the best step so far ({loop.state.best_step}) are gone: the best starts anew")
            task.notes.append(("note", {"message": f"the weights of the best step so far ({loop.state.best_step}) are gone"}))
            settle.forget_best(loop.state)
    loop.state.started_from = task.started_from
    checkpoint.on_rank_0(world, lambda: _claim(loop, config, task, found, start))
    return loop


def _opened(config: FolderConfig, folder: RunFolder, world: World, build: Callable[[], Opened], what: str) -> Opened:
    """The task, on all ranks of the same data; ``what``: of which it has how many."""
    checkpoint.on_rank_0(world, lambda: str(find(folder, config.resume)))  # refused here, before the study is opened
    task = build()
    facts = facts_of_the_data(identity.make_identity(config, task.study), task.num_items)
    agree(world, "data", facts, timeout_seconds=config.train.timeout_seconds)
    say(world, f"study opened: {task.num_items} {what}")
    return task


def _brought(apart: Apart, found: str, universal: str | None, start: Start) -> tuple[str, str | None]:
    """Where this rank finds the checkpoint that is continued, and its universal form, once other hosts have them."""
    if apart.here:
        start.scratch = apart.scratch
    here = str(apart.bring(Path(found), Path(found).name))
    return here, str(apart.bring(Path(universal), f"universal/{Path(universal).name}")) if universal else None


def _check_shared(folder: RunFolder, world: World) -> None:
    """Refuse a folder that is another one on some host: its checkpoints would lack the parts of those ranks."""
    here = folder.owner is not None and folder.owner.sees_itself(wait_seconds=SHARED_SECONDS)
    seen: list[Any] = [None] * world.size
    dist.all_gather_object(seen, (socket.gethostname(), here))
    if blind := [f"{host} (rank {rank})" for rank, (host, found) in enumerate(seen) if not found]:
        raise CommandError(
            f"run: {folder.path} on {listed(blind, 4)} is not the folder that {seen[0][0]} (rank 0) writes: expected one for all hosts"
        )


def _train(loop: Loop | DataPass) -> int:
    folder = loop.folder
    with loop.stop_signal, waiting_at_most(min(_UNREAD_SECONDS, loop.config.train.timeout_seconds / 4)):
        try:
            checkpoint.on_rank_0(loop.world, lambda: _begin(folder, loop.state))
            reason = loop.train()
        except BaseException as error:
            loop.fault(error)
            raise
    state = loop.state
    folder.event("end", reason=reason, step=state.step)
    if reason == "signal":
        return STOPPED_STATUS
    if loop.world.rank == 0:
        folder.guard()
        write_completed(
            folder.path,
            Completed(
                step=state.step,
                samples_seen=state.samples_seen,
                reason=reason,
                best_score=state.best_score,
                best_step=state.best_step,
                score_name=loop.score_name,
                tracking_run_id=state.tracking_run_id,
            ),
        )
        folder.seal()
    dist.barrier()
    return 0


def _begin(folder: RunFolder, state: TrainState) -> None:
    if folder.owner is not None:
        folder.owner.begin()
    settle.settle(folder, state)


def make_callbacks(config: FolderConfig) -> list[Callback]:
    """Callbacks of a run, in the order in which they are called: the run's own, then those that its config names."""
    callbacks: list[Callback] = [ProgressLine()]
    if config.mlflow.enabled:
        callbacks.append(MlflowTracking(config.mlflow))
    if isinstance(config, RunConfig) and config.train.early_stopping_validations:
        callbacks.append(EarlyStopping(config.train.early_stopping_validations))
    return [Checkpoints(config.checkpoint.every_steps), *callbacks, *(named.build() for named in config.callbacks)]


def _choose(config: RunConfig, task: Task, folder: RunFolder, world: World, start: Start) -> tuple[str | None, str | None]:
    """On rank 0: the checkpoint that is continued, if any, and its universal form where the world has another size. Refuses what the
    run cannot start from; writes nothing of the run."""
    saved = _continued(config, task, folder, world)
    if saved is None:
        task.check_start()
        return None, None
    num_steps = config.train.num_steps(task.num_items)
    if saved.state.step > num_steps:
        field = "steps" if config.train.steps is not None else "data_passes"
        raise CommandError(
            f"train.{field}: a run of {num_steps} steps, but {saved.path} was saved after step {saved.state.step}: ask for "
            "at least as many, or resume an earlier checkpoint by its path"
        )
    _check_whole(saved, config, zero_stage=config.zero.stage)
    universal = None
    if saved.zero_stage and saved.world_size != world.size:
        start.before_writing()
        universal = checkpoint.convert_to_universal(saved, folder, config.train.timeout_seconds)
    return str(saved.path), universal


def _choose_pass(config: FolderConfig, task: Summing, folder: RunFolder, world: World) -> str | None:
    """On rank 0: the checkpoint of a pass that is continued, if any, of whatever number of ranks."""
    saved = _continued(config, task, folder, world)
    if saved is None:
        return None
    _check_whole(saved, config, zero_stage=0)
    return str(saved.path)


def _continued(config: FolderConfig, task: Task | Summing, folder: RunFolder, world: World) -> Checkpoint | None:
    """On rank 0: the checkpoint of this experiment from which the run is to go on; None: a new run."""
    found = find(folder, config.resume)
    if found is None:
        return None
    if config.resume == "auto":
        found, damaged = newest_whole(folder, found)
        for fault in damaged:
            say(world, f"passed over, as it is not what was saved: {fault}")
            task.notes.append(("note", {"message": f"resumed from {found.name}: {fault}"}))
    source = found.parents[1]
    identity.check_identity(source / "identity.json", identity.make_identity(config, task.study))
    if source.resolve() != folder.path.resolve() and folder.holds_a_run():
        raise CommandError(f"run: {folder.path} already holds a run; to continue {found} elsewhere choose another folder")
    return checkpoint.read_checkpoint(found)


def _check_whole(saved: Checkpoint, config: FolderConfig, *, zero_stage: int) -> None:
    if config.resume == "auto":  # its files were looked at when it was chosen
        checkpoint.check_stage(saved, zero_stage=zero_stage)
    else:
        checkpoint.check_checkpoint(saved, zero_stage=zero_stage)


def _claim(loop: Loop | DataPass, config: FolderConfig, task: Task | Summing, found: str | None, start: Start) -> None:
    """On rank 0: write the run's first files, each of which leaves a run that goes on from one checkpoint, should it be the last."""
    folder, state = loop.folder, loop.state
    start.before_writing()
    folder.checkpoints.mkdir(parents=True, exist_ok=True)
    source = None if found is None else RunFolder(Path(found).parents[1])
    elsewhere = source is not None and source.path.resolve() != folder.path.resolve()
    folder.completed.unlink(missing_ok=True)
    folder.unseal()
    latest = folder.pointed("latest")
    wound_back_from = step_of(latest) if latest is not None and step_of(latest) > state.step else None
    if found is None:
        (folder.path / "latest").unlink(missing_ok=True)  # of a start that was killed before there was a run
        folder.event("start", world_size=loop.world.size, checkpoint=None, code=code_version())
    else:
        facts = {"checkpoint": found, "elsewhere": elsewhere, "resumed_at": state.step, "wound_back_from": wound_back_from}
        facts["code"] = code_version()
        folder.event("resume", world_size=loop.world.size, **facts)
    if source is not None and found is not None:
        if elsewhere:
            settle.adopt(folder, source, Path(found), state)
        folder.point("latest", Path(found))
    write_atomically(folder.path / "config.yaml", to_yaml(config).encode())
    write_json(folder.path / "identity.json", identity.make_identity(config, task.study))
    folder.seal()
    for kind, facts in task.notes:
        folder.event(kind, **facts)
    if task.score_name is None and found is None:
        folder.event("note", message="the split has no validation part: the last weights count as the best")
    state.tracking_run_id = settle.tracking_run(folder, state, num_steps=loop.num_steps, elsewhere=elsewhere)


def _settle(train: TrainConfig) -> None:
    """Threads and kernels, before anything is computed."""
    threads = train.threads or (1 if train.deterministic else None)
    if threads:
        torch.set_num_threads(threads)
    if train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
