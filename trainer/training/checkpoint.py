"""Checkpoints that are whole or not there: written by all ranks, sealed by rank 0, then pointed to.

``checkpoints/step-NNNNNNNN/`` holds DeepSpeed's files, ``buffers.safetensors``, the export where its step was the best so far and,
written last, the seal (:mod:`trainer.training.seal`), once rank 0 has seen the parts of all ranks. Until then the folder has a name of the
process that writes it, which a process that was taken for dead and wakes up shares with nobody. Only then ``RUN/latest`` moves, by a
rename; DeepSpeed's own ``latest`` is neither written nor read. All ranks see the folder, or those that do not send what they write to rank
0 (:mod:`trainer.training.apart`).

Under ZeRO 0 a checkpoint resumes on any number of ranks. Stages 1 to 3 store one part a rank: for another number they are
converted to DeepSpeed's universal format on the way in, which does not restore buffers (running statistics), hence the
file of our own.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from data_prep.contract.errors import CommandError, UserError
from data_prep.contract.files import copy_durably, fsync, replace_folder, sha256_file
from data_prep.contract.records import SealedFile
from trainer.distributed.at_work import rank_0_at_work
from trainer.distributed.child import environment_of_its_own, run_while_it_works
from trainer.distributed.weights_only import weights_only
from trainer.distributed.world import World
from trainer.training.owner import Owner
from trainer.training.parts import own_parts, written_parts
from trainer.training.run_folder import CHECKPOINT_NAME, RunFolder
from trainer.training.seal import EXPORT, MANIFEST, Checkpoint, Seal, best_of, discard, write_seal
from trainer.training.seal import FORMAT_VERSION as FORMAT_VERSION
from trainer.training.seal import check_checkpoint as check_checkpoint
from trainer.training.seal import check_files as check_files
from trainer.training.seal import check_stage as check_stage
from trainer.training.seal import read_checkpoint as read_checkpoint
from trainer.training.state import TrainState

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_WRITERS = ("inline_container", "PytorchStreamWriter", "unexpected pos", "I/O error", "IoError")
"""What torch and safetensors say when a file cannot be written to its end."""
T = TypeVar("T")


def on_rank_0(world: World, action: Callable[[], T], *, lost_seconds: float | None = None) -> T:
    """Run ``action`` on rank 0 and give its result to all; its failure ends all ranks, and is said once.

    The result must be of plain values: it travels through ``broadcast_object_list``. With ``lost_seconds`` the action may take longer than
    that collective waits, as long as rank 0 is heard of.
    """
    if world.size == 1:
        return action()
    answer: list[Any] = [None, None]
    failure: Exception | None = None
    with contextlib.nullcontext() if lost_seconds is None else rank_0_at_work(world, lost_seconds):
        if world.rank == 0:
            try:
                answer[0] = action()
            except Exception as error:
                failure, answer[1] = error, str(error) or type(error).__name__
    dist.broadcast_object_list(answer, src=0)
    if failure is not None:
        raise failure
    if answer[1] is not None:
        time.sleep(3)  # the launcher ends all ranks when the first one fails: let rank 0 say why before
        raise SystemExit(1)
    given: T = answer[0]
    return given


def save(
    engine: Any,
    folder: RunFolder,
    state: TrainState,
    world: World,
    *,
    keep_last: int,
    export: Callable[[dict[str, Tensor], Path], None] | None = None,
    sealed: bool = False,
    without_frozen: bool = False,
) -> Path:
    """Write a checkpoint with all ranks, seal it, move ``latest``, and delete what need not be kept.

    Parameters
    ----------
    export
        Writes the full weights (see :func:`full_weights`) into a new folder, which becomes a part of the checkpoint: the step is the best
        so far, and ``best`` and ``export/`` follow it. None: it is not.
    sealed
        The step's checkpoint is there already: it is pointed to, and what it lacks of the best is added.
    without_frozen
        Leave out frozen parameters, such as a base model's, which every run loads from where it came.
    """
    folder.guard()
    path = folder.checkpoint(state.step)
    work = path if sealed else of_this_process(path, folder.owner)
    parts: dict[str, SealedFile] = {}
    if not sealed:
        with _only(_kept_names(engine.module), engine.module) if without_frozen else contextlib.nullcontext(), room_for(work):
            engine.save_checkpoint(str(folder.checkpoints), tag=work.name, save_latest=False, exclude_frozen_parameters=without_frozen)
            if folder.apart is not None:
                folder.apart.send(own_parts(work, world), work)
            parts = written_parts(work, world, engine.zero_optimization_stage())
    weights = full_weights(engine, trainable_only=without_frozen) if export is not None else None
    if world.rank == 0:

        def rest() -> None:
            buffers = {name: buffer.detach().cpu().contiguous() for name, buffer in persistent_buffers(engine.module)}
            save_file(buffers, work / "buffers.safetensors")

        commit(
            folder,
            work,
            state,
            Written(
                zero_stage=engine.zero_optimization_stage(), world_size=world.size, trainable=tuple(_trainable(engine.module)), parts=parts
            ),
            rest=None if sealed else rest,
            export=None if export is None or weights is None else lambda output: export(weights, output),
            keep_last=keep_last,
        )
    dist.barrier()
    if folder.apart is not None and folder.apart.first_here and not sealed:
        shutil.rmtree(work, ignore_errors=True)  # rank 0 has it
    return path


def of_this_process(path: Path, owner: Owner | None) -> Path:
    """Where a checkpoint is written until it is whole: no two processes ever share it."""
    return path.with_name(f".{path.name}.{owner.claim.token[:16] if owner else 'own'}.partial")


@dataclass(frozen=True, kw_only=True)
class Written:
    """What a seal says of who wrote a checkpoint."""

    zero_stage: int = 0
    world_size: int
    trainable: tuple[str, ...] = ()
    parts: Mapping[str, SealedFile] = field(default_factory=dict)
    """Files that ranks have written and hashed already, by name."""


def commit(
    folder: RunFolder,
    work: Path,
    state: TrainState,
    written: Written,
    *,
    rest: Callable[[], None] | None,
    export: Callable[[Path], None] | None,
    keep_last: int,
) -> None:
    """On rank 0: make the folder ``work`` a checkpoint and move ``latest``; with an export ``best`` and ``export/`` follow it.

    Parameters
    ----------
    rest
        Writes what of ``work`` is not there yet; None: it is the step's sealed checkpoint, to which only an export may come.
    export
        Writes an export into a new folder; None: the step is not the best so far.
    """
    path = folder.checkpoint(state.step)
    before = read_checkpoint(path) if rest is None else None
    if before is None or (export is not None and not before.exported):
        with room_for(work, keep=rest is None):
            if rest is not None:
                rest()
            if export is not None:
                shutil.rmtree(work / EXPORT, ignore_errors=True)
                export(work / EXPORT)
            # Before the seal: should it be the last that is durable, its step's lines are, and later ones are cut.
            folder.event("checkpoint", step=state.step, best=export is not None)
            folder.sync_lines()
            _seal(work, state, written, before)
        if work != path:
            folder.guard()
            if path.exists():
                discard(path)  # of an earlier version, which was killed while saving
            os.rename(work, path)
        fsync(folder.checkpoints)
    folder.point("latest", path)
    if export is not None:
        folder.point("best", path)
        publish(folder, path)
    prune(folder, keep_last)


def _seal(path: Path, state: TrainState, written: Written, before: Seal | None) -> None:
    files = dict(written.parts)
    for file in sorted(path.rglob("*")):
        name = file.relative_to(path).as_posix()
        if file.is_file() and file != path / MANIFEST and name not in written.parts:
            fsync(file)
            files[name] = SealedFile(bytes=file.stat().st_size, sha256=sha256_file(file))
    seal = Seal(
        zero_stage=written.zero_stage,
        world_size=before.world_size if before else written.world_size,
        state=state,
        trainable=written.trainable,
        files=files,
    )
    write_seal(path, seal)


def publish(folder: RunFolder, path: Path) -> None:
    """Make ``export/`` a copy of the export in a checkpoint: no kill takes the only one away."""
    folder.guard()
    new = folder.path / ".export.new"
    shutil.rmtree(new, ignore_errors=True)
    with room_for(new):
        copy_durably(path / EXPORT, new)
    replace_folder(new, folder.export)


@contextlib.contextmanager
def room_for(path: Path, *, keep: bool = False) -> Iterator[None]:
    """Context that writes the folder ``path``; where there is no room for it, it is taken away and that is said in our words: torch's and
    safetensors' writers tell a line of their own code instead. ``keep``: it was whole before and stays.

    Raises
    ------
    CommandError
        One sentence with the bytes that are free.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        full = isinstance(error, OSError) and error.errno in _FULL
        if not full and not any(words in str(error) for words in _WRITERS):
            raise
        if not keep:
            shutil.rmtree(path, ignore_errors=True)  # not sealed: no use to anyone, and it takes room
        free = shutil.disk_usage(path.parent).free
        raise CommandError(
            f"{path}: no room to write it, {free:,} bytes are free: earlier checkpoints are kept; free some and go on with --resume auto"
        ) from error


def prune(folder: RunFolder, keep_last: int) -> None:
    """Delete all but the newest ``keep_last`` checkpoints up to ``latest``, what ``latest`` and ``best`` point to, and what was the best so
    far at each of these: wound back to one, a run has its best."""
    folder.guard()
    present = sorted(p for p in folder.checkpoints.iterdir() if CHECKPOINT_NAME.match(p.name) and p.is_dir())
    latest = folder.pointed("latest")
    # Steps after `latest` belong to a future that was wound back by --resume PATH.
    past = [p for p in present if latest is None or p.name <= latest.name]
    kept = {*past[-keep_last:], latest, folder.pointed("best")}
    for path in [p for p in kept if p is not None and (p / MANIFEST).is_file()]:
        with contextlib.suppress(UserError):  # a damaged one says no best, and is no reason to end a run
            kept.add(best_of(folder, read_checkpoint(path).state))
    for path in reversed(present):  # a checkpoint before its best, should a kill come in between
        if path not in kept:
            discard(path)


def convert_to_universal(checkpoint: Checkpoint, folder: RunFolder, timeout_seconds: float) -> str:
    """Rewrite a checkpoint in DeepSpeed's universal format under ``RUN/universal`` (rank 0 only); returns its path.

    It may take as long as it does something: it is given up when nothing of it has moved for ``timeout_seconds``.
    """
    output = folder.path / "universal" / checkpoint.path.name
    shutil.rmtree(output.parent, ignore_errors=True)
    output.parent.mkdir(parents=True)
    command = [sys.executable, "-m", "trainer.distributed.weights_only", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state"]
    command += ["--num_extract_workers", "1", "--num_merge_workers", "1"]  # in that very process
    command += ["--input_folder", str(checkpoint.path), "--output_folder", str(output)]
    # A single process of its own: it must not take itself for one of the ranks.
    status, last = run_while_it_works(command, environment_of_its_own(), lambda: _bytes_below(output), stuck_seconds=timeout_seconds)
    if status:
        what = f"it did nothing for {timeout_seconds:g} seconds (train.timeout_seconds)" if status is None else last
        raise CommandError(f"{checkpoint.path}: could not be converted from {checkpoint.world_size} ranks to another number: {what}")
    return str(output)


def _bytes_below(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):  # which passes over a folder that is deleted meanwhile, as rglob does not
        for name in names:
            with contextlib.suppress(OSError):  # renamed or deleted meanwhile
                total += (Path(parent) / name).stat().st_size
    return total


def load(engine: Any, checkpoint: Checkpoint, universal: str | None, *, without_frozen: bool = False) -> None:
    """Restore weights, optimizer and buffers into an engine; a fresh one, made with ``load_universal``, if ``universal`` is given.

    ``without_frozen``: the checkpoint holds trainable parameters only, the engine's frozen ones stay as they are.
    """
    source = Path(universal) if universal else checkpoint.path
    if without_frozen and (missing := sorted({*_trainable(engine.module)} - {*checkpoint.trainable})):
        # Loading without strictness would leave them as they are in silence.
        raise CommandError(f"{checkpoint.path}: has no weights for {len(missing)} parameters that this run trains (first {missing[0]})")
    settings = [{k: v for k, v in group.items() if k != "params"} for group in engine.optimizer.param_groups]
    engine._config.load_universal_checkpoint = universal is not None  # which may have been asked for when the run began
    with weights_only():  # --resume PATH may name a checkpoint of a stranger's
        loaded, _ = engine.load_checkpoint(str(source.parent), tag=source.name, load_module_strict=not without_frozen)
    if loaded is None:
        raise CommandError(f"{source}: DeepSpeed found no checkpoint in it")
    if universal:
        _separate_groups(engine.optimizer, settings)
    saved = load_file(checkpoint.path / "buffers.safetensors")
    for name, buffer in persistent_buffers(engine.module):
        buffer.copy_(saved[name])


def _separate_groups(optimizer: Any, settings: list[dict[str, Any]]) -> None:
    """Undo what ZeRO 3's universal loading does to optimisers with several groups: it gives all groups the first one's weight decay, and
    all states one and the same step tensor, which AdamW then counts up once a state instead of once a step."""
    for group, before in zip(optimizer.param_groups, settings, strict=True):
        group.update(before)
    for state in optimizer.optimizer.state.values():
        if isinstance(state.get("step"), Tensor):
            state["step"] = state["step"].clone()


def full_weights(engine: Any, *, trainable_only: bool = False) -> dict[str, Tensor] | None:
    """All parameters and buffers as float32 on the CPU of rank 0, None on other ranks; a collective under ZeRO 3.

    ``trainable_only`` leaves out frozen parameters.
    """
    if engine.zero_optimization_stage() == 3:
        # In the dtype of the parameters, whatever its name says.
        gathered = engine._zero3_consolidated_16bit_state_dict(exclude_frozen_parameters=trainable_only)
        weights = gathered if dist.get_rank() == 0 else None
    else:
        weights = engine.module.state_dict() if dist.get_rank() == 0 else None
    if weights is None:
        return None
    if trainable_only:
        kept = _kept_names(engine.module)
        weights = {name: value for name, value in weights.items() if name in kept}
    return {k: v.detach().to("cpu", torch.float32 if v.is_floating_point() else v.dtype, copy=True) for k, v in weights.items()}


def _kept_names(module: nn.Module) -> set[str]:
    """Trainable parameters and persistent buffers: what a run that leaves out frozen parameters keeps."""
    return {*_trainable(module)} | {name for name, _ in persistent_buffers(module)}


@contextlib.contextmanager
def _only(names: set[str], module: nn.Module) -> Iterator[None]:
    """Context in which ``module.state_dict()`` has these names only. Quantised layers put scales and tables beside their weights, which
    leaving out frozen parameters by name would not leave out."""

    def drop(_: nn.Module, state: dict[str, Any], *__: Any) -> None:
        for name in [name for name in state if name not in names]:
            del state[name]

    handle = module.register_state_dict_post_hook(drop)  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        handle.remove()


def _trainable(module: nn.Module) -> list[str]:
    return sorted(name for name, parameter in module.named_parameters() if parameter.requires_grad)


def persistent_buffers(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Buffers that a checkpoint keeps, such as running statistics, by name."""
    found = []
    for prefix, part in module.named_modules():
        own = [(name, buffer) for name, buffer in part.named_buffers(recurse=False) if name not in part._non_persistent_buffers_set]
        found += [(f"{prefix}.{name}" if prefix else name, buffer) for name, buffer in own]
    return found
