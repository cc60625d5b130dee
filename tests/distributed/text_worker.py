"""Rank of the text tests: ``python -m tests.distributed.text_worker PHASE HOME`` under the deepspeed launcher.

``begin``: what one process computes alone against the ranks together under every ZeRO stage, cut and packed in several ways;
quantised bases under ZeRO 2 and 3; a whole run; then runs that die, the last of them by SIGKILL. ``finish``: those runs to
their end. Results are in HOME/results.json.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from data_prep.contract.cli import from_plain, leave
from trainer.distributed import collectives
from trainer.distributed.deepspeed_config import build_deepspeed_config
from trainer.distributed.world import World, read_world, set_group_timeouts, start_distributed, stop_distributed
from trainer.distributed.zero_init import gathered, partitioned
from trainer.models.language.adapter import part_of
from trainer.models.language.decoding import DecodingConfig
from trainer.run import text as train_text
from trainer.tasks.text.config import TextConfig
from trainer.tasks.text.task import TextTask
from trainer.training import checkpoint

STAGES = (0, 1, 2, 3)
PLAIN: dict[str, Any] = {"tune_encoder": True}
OTHER: dict[str, Any] = PLAIN | {"adapter__kind": "dora", "prefix__kind": "resampler", "prefix__heads": 4, "prefix__features": "tokens"}
CUTS: dict[str, tuple[dict[str, Any], int, int, int | None]] = {
    "0": (PLAIN, 0, 1, None),
    "1, accumulated": (PLAIN, 1, 2, None),
    "2, accumulated, packed": (PLAIN, 2, 2, 48),
    "3, packed": (PLAIN, 3, 1, 48),
    "3, accumulated": (PLAIN, 3, 2, None),
    "2, DoRA and resampler": (OTHER, 2, 1, 48),
    "3, DoRA and resampler": (OTHER, 3, 2, None),
}
"""Model, ZeRO stage, accumulation and length of packed rows."""
QUANTISED_STEPS = 10
DECODINGS = {"greedy": DecodingConfig(max_new_tokens=12), "sample": DecodingConfig(method="sample", max_new_tokens=12)}
CPU = torch.device("cpu")


def read_config(home: Path, **changes: Any) -> TextConfig:
    """``home/config.yaml`` with changes: nested fields as ``a__b``."""
    plain = copy.deepcopy(yaml.safe_load((home / "config.yaml").read_text()))
    for name, value in changes.items():
        *parents, last = name.split("__")
        part = plain
        for parent in parents:
            part = part.setdefault(parent, {})
        part[last] = value
    if plain.get("zero", {}).get("stage") == 3:
        # These weights are so small that DeepSpeed would leave them whole.
        plain["deepspeed_overrides"] = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}
    return from_plain(TextConfig, plain)


def dying_config(home: Path, stage: int) -> TextConfig:
    """Of the run that dies under a ZeRO stage; its encoder is tuned, so that there are several groups of parameters."""
    return read_config(home, run=str(home / f"dying-{stage}"), tune_encoder=True, zero__stage=stage)


class Died(Exception):
    """Stands for a crash."""


def run_until(config: TextConfig, step: int, die: Callable[[], None]) -> None:
    """Train, and die when step ``step`` (from 0) is prepared."""
    prepare = TextTask.prepare

    def dying(self: TextTask, host: Any, at: int) -> Any:
        if at == step:
            die()
        return prepare(self, host, at)

    TextTask.prepare = dying  # type: ignore[method-assign]
    try:
        train_text(config)
    except Died:
        return
    finally:
        TextTask.prepare = prepare  # type: ignore[method-assign]
    raise AssertionError("it did not die")


def crash() -> None:
    """End the run as an error would."""
    raise Died


def next_port() -> None:
    """Let the ranks meet anew: at the last run's port one of them might still find the other's old store.

    The ports just above are those that tests beside this one are given (``launcher.free_port``).
    """
    os.environ["MASTER_PORT"] = str(int(os.environ["MASTER_PORT"]) + 500)


def kill() -> None:
    """End the process as the kernel would."""
    os.kill(os.getpid(), signal.SIGKILL)


# -------------------------------------------------------------------------------------------------------- exactness


def alone(config: TextConfig) -> dict[str, Any]:
    """Losses and gradients, by part, of two steps in a single process, padded and in one piece."""
    task = TextTask(config, World(), CPU)
    torch.manual_seed(config.train.seed)
    model = task.build_model().train()
    optimizer = task.build_optimizer(model)
    found: dict[str, Any] = {"losses": [], "gradients": []}
    with task.batches(0) as batches:
        for step in range(2):
            (batch,) = task.prepare(next(batches), step)
            loss = task.losses(model, batch)["loss"]
            loss.backward()
            found["losses"].append(float(loss))
            found["gradients"].append(by_part({name: p.grad for name, p in model.named_parameters() if p.grad is not None}))
            for group in optimizer.param_groups:
                group["lr"] = config.optimizer.lr * group["lr_factor"]
            optimizer.step()
            optimizer.zero_grad()
    return found


def by_part(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Joined values of each part: encoder, projector, adapter."""
    parts: dict[str, list[Tensor]] = {}
    for name in sorted(values):
        parts.setdefault(part_of(name), []).append(values[name].detach().float().flatten().clone())
    return {part: torch.cat(pieces) for part, pieces in parts.items()}


def start_engine(task: TextTask, config: TextConfig, world: World) -> Any:
    """What the loop builds."""
    import deepspeed

    settings = build_deepspeed_config(
        zero=config.zero,
        world=world,
        micro_batch_size=config.train.rank_batch_size(world.size),
        accumulation=config.train.forwards(world.size),
        overrides=config.deepspeed_overrides,
    )
    torch.manual_seed(config.train.seed)
    with partitioned(settings, task.partitioned_dtype):
        model = task.build_model()
    engine, *_ = deepspeed.initialize(model=model, optimizer=task.build_optimizer(model), config=settings)
    set_group_timeouts(60)
    engine.train()
    return engine


def weights_of(engine: Any, *, trained: bool) -> dict[str, Tensor]:
    """Whole trained or frozen parameters, also of ZeRO 3."""
    found = {}
    for name, parameter in engine.module.named_parameters():
        if parameter.requires_grad == trained:
            with gathered([parameter]):
                found[name] = parameter.detach().clone()
    return found


def digest(values: dict[str, Tensor]) -> str:
    """Hash of the very bits."""
    hashed = hashlib.sha256()
    for name in sorted(values):
        hashed.update(name.encode() + values[name].contiguous().view(torch.uint8).numpy().tobytes())
    return hashed.hexdigest()


def relative(found: Tensor, wanted: Tensor) -> float:
    """Norm of the difference over that of what is wanted, or of the difference where nothing is."""
    return float((found.double() - wanted.double()).norm() / (wanted.double().norm() or 1.0))


def steps(engine: Any, task: TextTask, config: TextConfig, count: int, look: Callable[[], None] | None = None) -> list[float]:
    """Optimizer steps at a constant rate; ``look`` is called before each one's update."""
    losses = []
    for group in engine.optimizer.param_groups:
        group["lr"] = config.optimizer.lr * group.get("lr_factor", 1.0)
    with task.batches(0) as batches:
        for step in range(count):
            parts = task.prepare(next(batches), step)
            total = torch.zeros(1)
            for number, batch in enumerate(parts):
                loss = task.losses(engine, batch)["loss"]
                total += loss.detach() / len(parts)
                engine.backward(loss)
                if look is not None and number == len(parts) - 1:
                    look()
                engine.step()
            losses.append(float(collectives.sum_across(total)) / task.world.size)
    return losses


def together(config: TextConfig, world: World, reference: dict[str, Any]) -> dict[str, Any]:
    """Errors of the ranks' two common steps against the single process, and what changed."""
    from deepspeed.utils import safe_get_full_grad

    task = TextTask(config, world, CPU)
    engine = start_engine(task, config, world)
    frozen, before = digest(weights_of(engine, trained=False)), by_part(weights_of(engine, trained=True))
    held = max(int(getattr(p, "ds_tensor", p).numel()) for name, p in engine.module.named_parameters() if "embed_tokens" in name)
    gradients: list[dict[str, Tensor]] = []

    def look() -> None:
        trained = {name: p for name, p in engine.module.named_parameters() if p.requires_grad}
        gradients.append(by_part({name: safe_get_full_grad(parameter) for name, parameter in trained.items()}))

    losses = steps(engine, task, config, 2, look)
    after = by_part(weights_of(engine, trained=True))
    return {
        "loss": max(abs(found - wanted) / wanted for found, wanted in zip(losses, reference["losses"], strict=True)),
        "gradient": {
            part: max(relative(found[part], wanted[part]) for found, wanted in zip(gradients, reference["gradients"], strict=True))
            for part in reference["gradients"][0]
        },
        "changed": {part: float((after[part] - before[part]).norm()) for part in before},
        "frozen_unchanged": digest(weights_of(engine, trained=False)) == frozen,
        "embedding_elements_held": held,
        "dtypes": sorted({str(value.dtype) for value in weights_of(engine, trained=True).values()}),
    }


def quantised(home: Path, world: World) -> dict[str, Any]:
    """Losses of runs on quantised bases, with a validation in between, which must not disturb them."""
    found = {}
    for bits in ("8bit", "4bit"):
        for stage in (2, 3):
            config = read_config(home, base__quantisation=bits, base__dtype="bf16", train__precision="bf16", zero__stage=stage)
            task = TextTask(config, world, CPU)
            engine = start_engine(task, config, world)
            frozen = digest(weights_of(engine, trained=False))
            losses = []

            def look(engine: Any = engine, task: TextTask = task, losses: list[float] = losses) -> None:
                losses.append(0.0)
                if len(losses) == 5:
                    engine.eval()
                    task.validate(engine)
                    engine.train()

            name = f"{bits}, {stage}"
            found[name] = {"losses": steps(engine, task, config, QUANTISED_STEPS, look)}
            found[name]["frozen_unchanged"] = digest(weights_of(engine, trained=False)) == frozen
            weights = checkpoint.full_weights(engine, trainable_only=True)
            if weights is not None:
                found[name]["base_weights_kept"] = sum(part_of(key) == "base" for key in weights)
    return found


def say_what_is_seen(home: Path, world: World) -> dict[str, list[str]]:
    """Train briefly under ZeRO 2, export, and let the ranks caption the validation part from what they hold in memory."""
    config = read_config(home, prompt__concepts=2, run=str(home / "said"))
    task = TextTask(config, world, CPU)
    engine = start_engine(task, config, world)
    steps(engine, task, replace(config, optimizer=replace(config.optimizer, lr=0.02)), 15)
    weights = checkpoint.full_weights(engine, trainable_only=True)
    if weights is not None:
        task.export(weights, home / "said", 15)
    assert task.validation is not None
    assert task.words.concepts is not None
    model = engine.module.eval()
    model.llm.config.use_cache = True
    mine = range(world.rank, task.validation.num_samples, world.size)
    batch = task.validation.prepare(task.validation.samples_batch(torch.tensor(list(mine)).numpy()), CPU)
    with torch.no_grad():
        features = model.features("eeg", eeg_BCT=batch.eeg_BCT, subject_B=task.subject_S[batch.subject_B])
    words = task.words.of(batch, "eeg", batch.stimulus_B < 0)
    prompts = [task.prompter.encode(own) for own in words]
    said = {}
    for method, decoding in DECODINGS.items():
        texts = model.generate(features, prompts, decoding, task.prompter, items=mine)
        every: list[Any] = [None] * world.size
        torch.distributed.all_gather_object(every, texts)
        said[method] = [""] * task.validation.num_samples
        for rank, own in enumerate(every):
            said[method][rank :: world.size] = own
    return said


def begin(home: Path) -> None:
    """See the module."""
    world = read_world()
    exact = {
        name: read_config(home, **model, zero__stage=stage, train__accumulation=accumulation, stage__pack_length=length)
        for name, (model, stage, accumulation, length) in CUTS.items()
    }
    references = {json.dumps(model): alone(read_config(home, **model)) for model in (PLAIN, OTHER)}
    start_distributed(world, CPU, 60)
    results = {
        "exact": {name: together(config, world, references[json.dumps(CUTS[name][0])]) for name, config in exact.items()},
        "quantised": quantised(home, world),
        "said": say_what_is_seen(home, world),
    }
    if world.is_main:
        (home / "results.json").write_text(json.dumps(results))
    stop_distributed()
    next_port()
    train_text(read_config(home, run=str(home / "whole"), tune_encoder=True, zero__stage=2))
    for stage in STAGES:
        next_port()
        run_until(dying_config(home, stage), 5, kill if stage == STAGES[-1] else crash)


def finish(home: Path) -> None:
    """See the module."""
    for stage in STAGES:
        next_port()
        assert train_text(replace(dying_config(home, stage), resume="latest")) == 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    phase, folder = [argument for argument in sys.argv[1:] if not argument.startswith("--local_rank")]
    {"begin": begin, "finish": finish}[phase](Path(folder))
    leave(0)
