"""Nothing on a training step's path waits for a GPU; see :mod:`tests.helpers.waits`. The text task's is in ``test_text_task.py``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from data_prep.contract.cli import from_plain
from tests.distributed.training import write_split
from tests.helpers.tiny_study import write_tiny_study
from tests.helpers.waits import GPU, named_gpu
from trainer.distributed.world import World
from trainer.tasks.contrastive.config import ContrastiveConfig
from trainer.tasks.contrastive.task import ContrastiveTask
from trainer.training.finite import Buffers
from trainer.training.stop import StopSignal


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_tiny_study(tmp_path_factory.mktemp("waits") / "study", n_subjects=3, n_stimuli=12, n_test=4, n_reps=3, vary_reps=True)
    write_split(root, "tiny", train={"stimulus": list(range(8))}, validation={"stimulus": [8, 9]})
    return root


@pytest.fixture(params=[1, 2], ids=["1 rank", "2 ranks"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    if request.param > 1:
        dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=request.param)
    yield World(size=request.param, local_size=request.param)
    if request.param > 1:
        dist.destroy_process_group()


TSCONV = {"class_path": "TSConv", "init_args": {"num_filters": 4, "kernel_samples": 5, "pool_samples": 6, "stride_samples": 3}}
SIZES = {"d_model": 16, "num_layers": 1, "num_heads": 2, "feedforward": 16, "conv_widths": [8, 8, 8], "embedding_dim": 8}
TRANSFORMER = {"class_path": "CnnTransformer", "init_args": SIZES}
AUGMENT = {"time_shift_ms": 20, "noise": 0.1, "time_mask_probability": 0.5, "channel_drop_probability": 0.2}
VARIANTS = {
    "subject layer": {"model": {"encoder": TSCONV, "subject_layer": "linear"}},
    "all losses": {"loss": {"mse_weight": 0.1, "cosine_weight": 0.1, "cross_entropy_weight": 0.5, "positives": "concept"}},
    "siglip, a transformer": {"model": {"encoder": TRANSFORMER, "subject_layer": "linear"}, "loss": {"name": "siglip"}},
    "augmented means": {"augment": AUGMENT, "data": {"repetitions": "mean", "normalise": "trial_zscore"}},
    "augmented draws": {"augment": AUGMENT, "data": {"repetitions": "random_mean", "normalise": "channel_zscore"}},
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_step_never_waits_for_the_device(study: Path, world: World, variant: str) -> None:
    given = VARIANTS[variant]
    plain = {
        "run": "unused",
        "train": {"steps": 1, "global_batch_size": 8},
        "model": {"encoder": TSCONV, "image_head": "linear"},
        **given,
        "data": {"study": str(study), "split": "tiny", "embedding": "tiny", "repetitions": "each"} | given.get("data", {}),
    }
    task = ContrastiveTask(from_plain(ContrastiveConfig, plain), world, torch.device("cpu"))
    host = next(task.batches(0))
    task.device = GPU
    with named_gpu() as waits:
        with GPU:
            model = task.build_model()
        buffers = Buffers(model)
        waits.seen.clear()
        buffers.keep()
        (batch,) = task.prepare(host, 0)
        losses = task.losses(model, batch)
        task.constrain(model)
        buffers.restore()
        if world.size == 1:
            assert not any(StopSignal(GPU).agreed())
    assert losses["loss"].is_cuda
    assert waits.seen == []


def test_what_waits_is_seen() -> None:
    waiting = {
        "read": lambda x: float(x.sum()),
        "asked": lambda x: bool((x > 0).any()),
        "made": lambda x: x + torch.tensor([1.0], device=x.device),
        "made alike": lambda x: x.new_tensor([1.0]),
        "brought": lambda x: x + torch.from_numpy(np.ones(3, np.float32)).to(x.device),
        "fetched": lambda x: x.cpu(),
        "chosen": lambda x: x[x > 0],
    }
    for name, function in waiting.items():
        with named_gpu() as waits:
            x = torch.ones(3, device=GPU)
            waits.seen.clear()
            with contextlib.suppress(RuntimeError):  # values that tensors in name only do not have
                function(x)
        assert waits.seen, name
