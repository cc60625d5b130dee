"""A study small enough to train on in seconds, and training commands that can be watched, killed and resumed."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from data_prep.contract import schema
from data_prep.contract.files import write_json
from data_prep.contract.manifest import read_manifest
from data_prep.contract.split import Split
from tests.distributed.launcher import started_by_deepspeed
from tests.helpers import warm
from tests.helpers.tiny_study import write_tiny_study
from tests.helpers.warm import Started
from trainer.training.run_folder import RunFolder, read_lines

CONFIG = """
data: {study: STUDY, split: tiny, embedding: tiny, repetitions: each}
model:
  encoder: {class_path: TSConv, init_args: {num_filters: 4, kernel_samples: 5, pool_samples: 6, stride_samples: 3, dropout: 0.2}}
  eeg_head: linear
  image_head: linear
train: {steps: 60, global_batch_size: 8, validate_every_steps: 20, log_every_steps: 1, log_items: true, timeout_seconds: 60}
optimizer: {lr: 0.003}
augment: {noise: 0.1, time_shift_ms: 20}
checkpoint: {every_steps: 5}
mlflow: {enabled: false}
"""


def make_study(folder: Path) -> Path:
    """A simulated image study of one subject with a split ``tiny``, and a config ``folder/config.yaml`` that trains on it."""
    root = write_tiny_study(folder / "study", n_subjects=1, n_stimuli=24, n_test=4, samples_per_shard=5, n_reps=3)
    write_split(root, "tiny", train={"stimulus": list(range(14))}, validation={"stimulus": [14, 15, 16, 17, 18]})
    write_split(root, "no-validation", train={"stimulus": list(range(14))})
    (folder / "config.yaml").write_text(CONFIG.replace("STUDY", str(root)))
    return root


def write_split(root: Path, name: str, **clauses: dict[str, list[int]]) -> None:
    """A split of one clause a part, as ``data_prep split`` writes it."""
    manifest = read_manifest(root)
    parts = {part: [clauses[part]] if part in clauses else [] for part in schema.PARTS}
    split = Split(name=name, policy="test", fingerprint=manifest.fingerprint, rows_hash=manifest.rows_hash, parts=parts)
    write_json(root / "splits" / f"{name}.json", split.plain())


@contextlib.contextmanager
def training(run: Path, *arguments: str, ranks: int, config: Path, runner: bool = False, task: str = "contrastive") -> Iterator[Started]:
    """Start a training command (under the launcher if ``ranks`` > 1) in a process group that is gone afterwards; output in RUN.log."""
    command = [task, "--config", str(config), "--run", str(run), *arguments]
    alone = [sys.executable, "-m", "trainer", *command]
    argv = started_by_deepspeed("trainer", command, ranks=ranks, runner=runner) if ranks > 1 else alone
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")}
    environment |= {"DS_ACCELERATOR": "cpu", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with run.with_suffix(".log").open("a") as log:
        process = warm.start(argv, environment=environment, output=log.fileno(), forked=not runner)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def train(run: Path, *arguments: str, ranks: int, config: Path, runner: bool = False, task: str = "contrastive") -> str:
    """Train to the end; returns the output."""
    with training(run, *arguments, ranks=ranks, config=config, runner=runner, task=task) as process:
        process.wait(150)
    return run.with_suffix(".log").read_text()


def wait_for(condition: Callable[[], bool], process: Started, timeout_seconds: float = 120) -> None:
    """Wait until a condition holds while the process lives."""
    end = time.monotonic() + timeout_seconds
    while not condition():
        assert process.poll() is None, f"ended with status {process.returncode} before what was waited for"
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)


def last_step(run: Path) -> int:
    """Last step in ``metrics.jsonl``."""
    lines = read_lines(run / "metrics.jsonl")
    return lines[-1]["step"] if lines else 0


def saved_step(run: Path) -> int:
    """Step of the last finished checkpoint."""
    latest = RunFolder(run).pointed("latest")
    return int(latest.name.removeprefix("step-")) if latest else 0


def by_step(run: Path, file: str, key: str) -> dict[int, Any]:
    """What a run wrote for each step; where a step was repeated after a kill, the last."""
    return {line["step"]: line[key] for line in read_lines(run / file) if key in line}


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    """Events of one kind."""
    return [event for event in read_lines(run / "events.jsonl") if event["event"] == kind]
