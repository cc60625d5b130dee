"""How fast batches leave the shards: beside stock WebDataset over the same tars, and beside copying the same bytes.

The study is random numbers through the real shard writer; what is in the trials does not change how fast they are read.
The three are measured in turn, several rounds in one run, and their medians compared. So is ours with pages that come from the disk
anew for each batch, and beside a thread that is busy in the interpreter or often sleeps in it: a loader beside training. What
that thread gets done is given as a share of what it does alone.
"""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset

from data_prep.contract import schema
from data_prep.contract.files import write_json
from data_prep.contract.split import Split
from data_prep.embed.base import EmbeddingConfig
from data_prep.shards.write import ShardConfig, write_study
from data_prep.studies.base import ReaderConfig, SamplePlan, Stimulus, StudyFacts
from tests.benchmarks.report import main, row
from trainer.data.config import DataConfig
from trainer.data.index import StudyIndex
from trainer.data.loader import Loader

TARGET_TIMES_STOCK = 50.0
NUM_REPETITIONS, N_CHANS, N_TIMES, EMBEDDING_DIM = 4, 17, 100, 512
"""THINGS-EEG2's training trials at 100 Hz."""
BATCH = 1024


@dataclass(frozen=True, kw_only=True)
class RandomReader(ReaderConfig):
    """Random EEG of one subject, one sample a stimulus."""

    num_samples: int
    """Samples of the study."""

    def open(self) -> RandomSource:
        """Nothing to read."""
        return RandomSource(self.num_samples)


class RandomSource:
    """Trials by number."""

    source_hash: str = "random"
    samples: Sequence[SamplePlan]

    def __init__(self, num_samples: int) -> None:
        self.facts = StudyFacts(
            stimulus_level="image",
            unit="microvolts",
            sfreq=100.0,
            tmin=-0.2,
            n_times=N_TIMES,
            ch_names=[f"E{c}" for c in range(N_CHANS)],
            subjects=["01"],
            stimuli=[Stimulus(id=f"image{s}", concept=s // 10, image=None, part=None) for s in range(num_samples)],
            concepts=[f"concept{c}" for c in range((num_samples + 9) // 10)],
            sessions=["01"],
            recordings=["sub-01_ses-01_run-01"],
        )
        self.samples = [
            SamplePlan(
                key=schema.stimulus_sample_key("01", s),
                subject=0,
                stimulus=s,
                n_reps=NUM_REPETITIONS,
                session=[0] * NUM_REPETITIONS,
                recording=[0] * NUM_REPETITIONS,
                trial=list(range(NUM_REPETITIONS)),
                onset_seconds=[None] * NUM_REPETITIONS,
                quality=["good"] * NUM_REPETITIONS,
            )
            for s in range(num_samples)
        ]

    def eeg(self, i: int) -> np.ndarray:
        """Noise of 10 microvolts."""
        return np.random.default_rng(i).standard_normal((NUM_REPETITIONS, N_CHANS, N_TIMES), dtype=np.float32) * 10


@dataclass(frozen=True, kw_only=True)
class RandomEmbedding(EmbeddingConfig):
    """Random vectors of CLIP's length."""

    def compute(self, facts: StudyFacts) -> tuple[np.ndarray, dict[str, Any]]:
        """One a stimulus."""
        return np.random.default_rng(0).standard_normal((len(facts.stimuli), EMBEDDING_DIM), dtype=np.float32), {"model": "random"}


def write_random_study(root: Path, num_samples: int, samples_per_shard: int) -> Path:
    """A study of random trials whose split ``all`` trains on everything."""
    manifest = write_study(
        ShardConfig(
            reader=RandomReader(num_samples=num_samples),
            output=str(root),
            embeddings={"clip": RandomEmbedding()},
            samples_per_shard=samples_per_shard,
        )
    )
    parts = {"train": [{"subject": [0]}], "validation": [], "test": []}
    split = Split(name="all", policy="", rows_hash=manifest.rows_hash, parts=parts)
    write_json(root / "splits" / "all.json", split.plain())
    return root


def run(folder: Path, *, num_samples: int = 8192, rounds: int = 9, seconds_each: float = 0.5) -> list[dict[str, Any]]:
    """Measure in ``folder``; rows for ``bench.json``.

    Parameters
    ----------
    num_samples
        Samples of the study (14 kB of EEG each).
    rounds
        Times that all of them are measured in turn.
    seconds_each
        How long one measurement lasts.
    """
    root = write_random_study(folder / "random_study", num_samples, samples_per_shard=1024)
    urls = [str(tar) for tar in sorted(root.glob("*.tar"))]
    loader = Loader(StudyIndex.open(root), DataConfig(study=str(root), split="all", embedding="clip"), "train", seed=1)
    batch_bytes = loader.batch(0, BATCH).repetitions_RCT.nbytes
    source, target = (np.ones(batch_bytes, np.uint8) for _ in range(2))
    position = 0

    def ours() -> int:
        nonlocal position
        host = loader.batch(position, position + BATCH)
        position += BATCH
        return len(host)

    def copy() -> int:
        np.copyto(target, source)
        return BATCH

    stock_samples = iter(())

    def stock() -> int:
        # Opening is not timed against it: one pass after the other, as in training.
        nonlocal stock_samples
        got = list(islice(stock_samples, 64))
        if not got:
            stock_samples = iter(webdataset.WebDataset(urls, shardshuffle=False).decode())
            got = list(islice(stock_samples, 64))
        return len(got)

    def cold() -> int:
        _drop_pages(root)
        return ours()

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rates: dict[str, list[float]] = defaultdict(list)
    try:
        for warm_up in (ours, copy, stock):
            warm_up()
        for _ in range(num_samples // BATCH):
            ours()
        loader.index.settle()  # hashing is once a run
        for _ in range(rounds):
            for name, measured in (("ours", ours), ("stock", stock), ("copy", copy), ("cold", cold)):
                rates[name].append(_rate(measured, seconds_each))
            _fetch_pages(root)
            for busy in (spinning, sleeping):
                alone = _beside(busy, lambda: time.sleep(0.01) or 0, seconds_each)[1]  # type: ignore[func-returns-value]
                for name, measured in (("warm", ours), ("cold", cold)):
                    ours_rate, ticks = _beside(busy, measured, seconds_each)
                    rates[f"{name} {busy.__name__}"].append(ours_rate)
                    rates[f"{name} {busy.__name__} share"].append(ticks / alone)
                _fetch_pages(root)
    finally:
        torch.set_num_threads(threads)
    rate = {name: statistics.median(values) for name, values in rates.items()}
    gigabytes = batch_bytes / BATCH / 1e9
    times_stock = rate["ours"] / rate["stock"]
    what = f"random batches of {BATCH} trials ({NUM_REPETITIONS}, {N_CHANS}, {N_TIMES}) float16, one process"
    return [
        row(f"loader: {what}", rate["ours"], "samples/s", peer="stock WebDataset .decode()", peer_value=rate["stock"]),
        row("loader: times the rate of stock WebDataset", times_stock, "x", TARGET_TIMES_STOCK, times_stock >= TARGET_TIMES_STOCK),
        row("loader: bytes of EEG", rate["ours"] * gigabytes, "GB/s", peer="plain memory copy", peer_value=rate["copy"] * gigabytes),
        row("loader: share of plain memory-copy speed", rate["ours"] / rate["copy"], "of 1"),
        row("loader: the same, every batch from the disk", rate["cold"], "samples/s"),
        *(
            row(
                f"loader: {pages}, beside a thread that is {busy} (peer: its share of what it does alone)",
                rate[f"{pages} {busy}"],
                "samples/s",
                peer="share of 1",
                peer_value=rate[f"{pages} {busy} share"],
            )
            for busy in ("spinning", "sleeping")
            for pages in ("warm", "cold")
        ),
    ]


def spinning() -> None:
    """A tick of a thread that never waits."""
    for _ in range(1000):
        pass


def sleeping() -> None:
    """A tick of a thread that waits for the interpreter again and again."""
    time.sleep(0.0003)


def _beside(busy: Callable[[], None], measured: Callable[[], int], seconds: float) -> tuple[float, float]:
    """Rate of ``measured``, and ticks a second of a thread that does nothing but ``busy`` meanwhile."""
    stopped, ticks = threading.Event(), 0

    def work() -> None:
        nonlocal ticks
        while not stopped.is_set():
            busy()
            ticks += 1

    thread = threading.Thread(target=work)
    start = time.perf_counter()
    thread.start()
    try:
        rate = _rate(measured, seconds)
    finally:
        stopped.set()
        thread.join()
    return rate, ticks / (time.perf_counter() - start)


def _fetch_pages(root: Path) -> None:
    for tar in root.glob("*.tar"):
        tar.read_bytes()


def _drop_pages(root: Path) -> None:
    for tar in root.glob("*.tar"):
        handle = os.open(tar, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def _rate(measured: Any, seconds: float) -> float:
    samples, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        samples += measured()
    return samples / elapsed


if __name__ == "__main__":
    raise SystemExit(main(run))
