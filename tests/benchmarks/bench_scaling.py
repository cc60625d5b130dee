"""What one optimizer step of ``things_tsconv`` takes on one device, by batch: the constants of ``launch/SCALING.md``.

Forward, loss against the whole batch, backward, AdamW; 17 channels, 100 points, embeddings of 512. On the CPU one thread's seconds are
counted, which other processes do not lengthen much; on CUDA the clock's. Then two ranks of gloo share a batch, and the seconds that each
computes are held against what the constants say. ``python -m tests.benchmarks.bench_scaling`` prints what ``python -m launch scaling``
takes as ``--compute.fixed_seconds``, ``--compute.sample_seconds`` and ``--compute.pair_seconds``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
import yaml
from torch.utils.flop_counter import FlopCounterMode

from data_prep.contract.cli import from_plain
from launch.configs import configs
from tests.benchmarks.report import main, row
from trainer.distributed import collectives
from trainer.tasks.contrastive.config import ContrastiveConfig
from trainer.tasks.contrastive.objective import contrastive_terms

BATCHES = (64, 128, 256, 512, 1024)
_REPEATS = 7
_CHANNELS, _TIMES, _DIM = 17, 100, 512


def run(folder: Path) -> list[dict[str, Any]]:
    """The least of some times for each batch, the parabola through them, and two ranks."""
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    step = Stepper(device)
    with FlopCounterMode(display=False) as counted:
        step(BATCHES[0])
    seconds = [_least(step, size, device) for size in BATCHES]
    pair, sample, fixed = np.polyfit(BATCHES, seconds, 2, w=1 / np.array(seconds))
    error = np.abs(np.polyval([pair, sample, fixed], BATCHES) / seconds - 1).max()
    name = f"scaling: a step of things_tsconv on {device.type}"
    rows = [row(f"{name}, batch {size}", found, "s") for size, found in zip(BATCHES, seconds, strict=True)]
    rows += [
        row(f"{name}: fixed", fixed, "s"),
        row(f"{name}: a sample", sample, "s"),
        row(f"{name}: a pair of samples", pair, "s"),
        row(f"{name}: largest error of these three", error, "relative"),
        row(f"{name}: floating-point operations a sample", counted.get_total_flops() / BATCHES[0], ""),
        row(f"{name}: parameters", sum(parameter.numel() for parameter in step.model.parameters()), ""),
    ]
    if device.type == "cpu":
        every = BATCHES[-1]
        multiprocessing.spawn(_rank, args=(str(folder), every), nprocs=2)
        found = max(float((folder / str(rank)).read_text()) for rank in range(2))
        expected = fixed + sample * every / 2 + pair * every * every / 2
        rows.append(row(f"{name}: each of two ranks, batch {every} of both", found, "s", None, None, "by the constants", expected))
    return rows


class Stepper:
    """The model, and its optimizer step on random trials; of several ranks each brings its own."""

    def __init__(self, device: torch.device) -> None:
        plain = yaml.safe_load((configs() / "contrastive" / "things_tsconv.yaml").read_text())
        self.config: ContrastiveConfig = from_plain(ContrastiveConfig, plain)
        shape = {"n_chans": _CHANNELS, "n_times": _TIMES, "sfreq": 100.0, "num_subjects": 1, "embedding_dim": _DIM}
        torch.manual_seed(0)
        self.model = self.config.model.build(**shape, loss=self.config.loss).to(device)
        self.optimizer = self.config.optimizer.build(self.model)
        self.device = device

    def __call__(self, size: int) -> None:
        """One step of ``size`` rows of this rank."""
        eeg_BCT = torch.randn(size, _CHANNELS, _TIMES, device=self.device)
        ids_B = torch.arange(size, device=self.device) + size * collectives.this_rank()
        zeros_B = torch.zeros_like(ids_B)
        out = self.model(eeg_BCT, zeros_B, torch.randn(size, _DIM, device=self.device), ids_B)
        terms = contrastive_terms(
            out,
            ids_B,
            zeros_B,
            self.config.loss,
            gather_rows=collectives.gather_rows,
            gather_ids=collectives.gather_ids,
            rank=collectives.this_rank(),
        )
        self.optimizer.zero_grad()
        terms["loss"].backward()
        if collectives.num_ranks() > 1:
            for parameter in self.model.parameters():
                dist.all_reduce(parameter.grad)
        self.optimizer.step()


def _rank(rank: int, folder: str, every: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    found = _least(Stepper(torch.device("cpu")), every // 2, torch.device("cpu"))
    Path(folder, str(rank)).write_text(str(found))
    dist.destroy_process_group()


def _least(step: Callable[[int], None], size: int, device: torch.device) -> float:
    step(size)
    return min(_seconds(step, size, device) for _ in range(_REPEATS))


def _seconds(step: Callable[[int], None], size: int, device: torch.device) -> float:
    if device.type != "cuda":
        begin = time.thread_time()
        step(size)
        return time.thread_time() - begin
    torch.cuda.synchronize()
    begin = time.perf_counter()
    step(size)
    torch.cuda.synchronize()
    return time.perf_counter() - begin


if __name__ == "__main__":
    sys.exit(main(run))
