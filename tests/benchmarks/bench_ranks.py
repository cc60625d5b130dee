"""What training on ranks costs: the share of its time that goes into what guards it, and how two ranks scale, beside plain torch DDP.

The model and optimizer of ``things_tsconv`` at 17 channels and 100 points, 256 rows a rank, one thread a rank, gloo, the loss against the
rows of all ranks. DDP trains the same model on batches that lie in memory: no loader, no checkpoint, nothing looked at. Ours reads a study
and is started by the launcher. They take turns; a rate is that of steps once all runs smoothly, without start and end.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
import yaml
from torch import Tensor, nn

from launch.configs import configs
from tests.benchmarks.bench_scaling import Stepper
from tests.benchmarks.report import main, row
from tests.distributed.training import train, write_split
from tests.helpers.tiny_study import write_tiny_study
from trainer.distributed import collectives
from trainer.tasks.contrastive.objective import contrastive_terms
from trainer.training.run_folder import read_lines

ROWS, CHANNELS, TIMES, DIM = 256, 17, 100, 512
STEPS, WARM_STEPS, LOG_EVERY = 80, 20, 10
MOST_GUARDING, LEAST_OF_DDP = 0.01, 0.97


def run(folder: Path, *, rounds: int = 3) -> list[dict[str, Any]]:
    """Rows for ``bench.json``."""
    config = make_config(folder)
    rates: dict[tuple[str, int], list[float]] = {(who, size): [] for who in ("ours", "ddp") for size in (1, 2)}
    guarding = []
    for number in range(rounds):
        for size in (1, 2):
            done = folder / f"run-{number}-{size}"
            train(done, "--train.global_batch_size", str(ROWS * size), ranks=size, config=config)
            lines = [line for line in read_lines(done / "metrics.jsonl") if line["step"] > WARM_STEPS]
            rates["ours", size].append(statistics.median(line["samples_per_second"] for line in lines))
            if size == 1:
                found = json.loads((done / "guarding.json").read_text())
                guarding.append(found["guarding"] / found["whole"])
            answer = folder / f"ddp-{number}-{size}"
            multiprocessing.spawn(_ddp_rank, args=(size, str(answer)), nprocs=size)
            rates["ddp", size].append(float(answer.read_text()))
    rate = {key: statistics.median(values) for key, values in rates.items()}
    scaling = {who: rate[who, 2] / rate[who, 1] for who in ("ours", "ddp")}
    share, kept = statistics.median(guarding), scaling["ours"] / scaling["ddp"]
    return [
        row(
            "ranks: share of the loop's time for heartbeats, lock, stop signals and checks", share, "", MOST_GUARDING, share < MOST_GUARDING
        ),
        *(
            row(
                f"ranks: {size} rank{'s' * (size > 1)}, {ROWS} rows each",
                rate["ours", size],
                "rows/s",
                None,
                None,
                "DDP",
                rate["ddp", size],
            )
            for size in (1, 2)
        ),
        row("ranks: two ranks' rate in that of one", scaling["ours"], "x", None, None, "DDP", scaling["ddp"]),
        row("ranks: weak scaling beside DDP's", kept, "x", LEAST_OF_DDP, kept >= LEAST_OF_DDP),
    ]


def make_config(folder: Path) -> Path:
    """A study of as many items as two ranks take at once, twice, and a config that trains on it."""
    count = 4 * ROWS
    root = write_tiny_study(
        folder / "study",
        n_subjects=1,
        n_stimuli=count + 4,
        n_test=4,
        n_reps=1,
        n_sessions=1,
        n_chans=CHANNELS,
        n_times=TIMES,
        ch_names=tuple(f"E{channel}" for channel in range(CHANNELS)),
        dim=DIM,
        samples_per_shard=256,
    )
    write_split(root, "all", train={"stimulus": list(range(count))})
    plain = yaml.safe_load((configs() / "contrastive" / "things_tsconv.yaml").read_text())
    plain["data"] |= {"study": str(root), "split": "all", "embedding": "tiny"}
    plain["train"] = {"steps": STEPS, "global_batch_size": ROWS, "log_every_steps": LOG_EVERY}
    plain["mlflow"] = {"enabled": False}
    plain["callbacks"] = [{"class_path": "tests.benchmarks.watched_loop.WatchedLoop", "init_args": {"warm_steps": WARM_STEPS}}]
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(plain))
    return file


class _WithLoss(nn.Module):
    """DDP hooks what goes through ``forward``."""

    def __init__(self, step: Stepper) -> None:
        super().__init__()
        self.model, self._loss = step.model, step.config.loss

    def forward(self, eeg_BCT: Tensor, embedding_BE: Tensor, ids_B: Tensor) -> Tensor:
        zeros_B = torch.zeros_like(ids_B)
        out = self.model(eeg_BCT, zeros_B, embedding_BE, ids_B)
        rows, ids = collectives.gather_rows, collectives.gather_ids
        terms = contrastive_terms(out, ids_B, zeros_B, self._loss, gather_rows=rows, gather_ids=ids, rank=collectives.this_rank())
        loss: Tensor = terms["loss"]
        return loss


def _ddp_rank(rank: int, size: int, answer: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{answer}.store", rank=rank, world_size=size)
    step = Stepper(torch.device("cpu"))
    model = nn.parallel.DistributedDataParallel(_WithLoss(step))
    batches = [(torch.randn(ROWS, CHANNELS, TIMES), torch.randn(ROWS, DIM), torch.arange(ROWS) + ROWS * rank) for _ in range(4)]
    begun = 0.0
    for number in range(STEPS):
        if number == WARM_STEPS:
            dist.barrier()
            begun = time.perf_counter()
        loss = model(*batches[number % len(batches)])
        step.optimizer.zero_grad()
        loss.backward()
        step.optimizer.step()
    dist.barrier()
    if rank == 0:
        Path(answer).write_text(str((STEPS - WARM_STEPS) * ROWS * size / (time.perf_counter() - begun)))
    dist.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main(run))
