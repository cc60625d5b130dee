"""Sharding at size: how much memory a study of 10 GB takes, how fast it is written, opened and verified.

Arrays of trials are made as files, float32, and written as float32 shards without any processing, so that the bytes that are read and
written are those of a plain copy of the files. The copy is `shutil.copyfile` and one fsync a file; before each, source files leave the page
cache, so both read from the disk. Copies and shards take turns. Where a machine is busy with other things, seconds on the clock say less
than seconds of a processor, which are given too. ``BENCH_GB=0.5`` measures a smaller study, in less than a minute.
"""

from __future__ import annotations

import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.report import main, row

GIGABYTES = float(os.environ.get("BENCH_GB", "10"))
TIMES_LONGER = 20
RATE_GB = 2.0
"""Studies that are copied and sharded in turn."""
WORKERS = min(os.cpu_count() or 1, 4)
N_CHANS, N_TIMES, NUM_IMAGES, NUM_SUBJECTS = 64, 250, 400, 8
TRIAL_BYTES = N_CHANS * N_TIMES * 4
MOST_MB, MOST_EXTRA_MB = 2000.0, 200.0
MOST_SECONDS_TO_OPEN = 5.0
LEAST_OF_COPY = 0.6
LEAST_VERIFIED_MB = 500.0


def run(folder: Path, *, rounds: int = 2) -> list[dict[str, Any]]:
    """Measure in ``folder``; rows for ``bench.json``. Needs three times the study on its disk."""
    small = sharded(folder, "small", GIGABYTES / TIMES_LONGER, NUM_SUBJECTS)
    shutil.rmtree(folder / "small")
    more = sharded(folder, "more", GIGABYTES / TIMES_LONGER * 4, NUM_SUBJECTS * 4)
    shutil.rmtree(folder / "more")
    large = sharded(folder, "large", GIGABYTES, NUM_SUBJECTS)
    shutil.rmtree(folder / "large" / "source")
    study = folder / "large" / "study"
    opened = child(_OPEN, study)
    verified = child(_VERIFY, study)
    shutil.rmtree(folder / "large")
    rates = beside_copies(folder, min(RATE_GB, GIGABYTES), rounds)
    extra = max(large["mb"], more["mb"]) - small["mb"]
    verified_mb = verified["bytes"] / 1e6 / verified["cpu_seconds"]
    ratio = rates["sharded"] / rates["copied"]
    gb = f"{GIGABYTES:g} GB"
    return [
        row(f"shard: memory of all processes, a study of {gb}", large["mb"], "MB", MOST_MB, large["mb"] <= MOST_MB),
        row(
            f"shard: memory that recordings {TIMES_LONGER} times longer, or four times as many, take more",
            extra,
            "MB",
            MOST_EXTRA_MB,
            extra <= MOST_EXTRA_MB,
            f"{gb} / {TIMES_LONGER}",
            small["mb"],
        ),
        row(f"shard: opening {gb}", opened["seconds"], "s", MOST_SECONDS_TO_OPEN, opened["seconds"] <= MOST_SECONDS_TO_OPEN),
        row("shard: verify, a core", verified_mb, "MB/s", LEAST_VERIFIED_MB, verified_mb >= LEAST_VERIFIED_MB),
        row(
            f"shard: without processing, {WORKERS} workers, source not in memory",
            rates["sharded"],
            "MB/s",
            peer="copy and fsync",
            peer_value=rates["copied"],
        ),
        row(f"shard: {WORKERS} workers' share of the rate of that copy", ratio, "x", LEAST_OF_COPY, ratio >= LEAST_OF_COPY),
        row("shard: without processing, a core", rates["sharded_cpu"], "MB/s", peer="copy and fsync", peer_value=rates["copied_cpu"]),
    ]


def make_source(folder: Path, gigabytes: float, num_subjects: int) -> int:
    """``sub-01.npy``, ``sub-01.tsv``, ...: float32 trials of 64 channels, no two of them equal; returns bytes."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    each = int(gigabytes * 1e9 / TRIAL_BYTES / num_subjects)
    noise_BCT = random.normal(0, 10, (32, N_CHANS, N_TIMES)).astype(np.float32)
    for subject in range(1, num_subjects + 1):
        with (folder / f"sub-{subject:02d}.npy").open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (each, N_CHANS, N_TIMES)})
            for start in range(0, each, len(noise_BCT)):
                drift_BT = np.cumsum(random.normal(0, 1, (len(noise_BCT), 1, N_TIMES)), axis=2).astype(np.float32)
                weight_BC = random.normal(1, 0.3, (len(noise_BCT), N_CHANS, 1)).astype(np.float32)
                shifted_BCT = np.roll(noise_BCT, int(random.integers(N_TIMES)), axis=2)
                file.write((shifted_BCT + weight_BC * drift_BT)[: each - start].tobytes())
            file.flush()
            os.fsync(file.fileno())
        images = "".join(f"image{i % NUM_IMAGES:03d}\n" for i in range(each))
        (folder / f"sub-{subject:02d}.tsv").write_text(f"image\n{images}")
    return sum(path.stat().st_size for path in folder.iterdir())


def forget(folder: Path) -> None:
    """Let the files of ``folder`` leave the page cache."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def sharded(folder: Path, name: str, gigabytes: float, num_subjects: int) -> dict[str, float]:
    """A study made and sharded."""
    make_source(folder / name / "source", gigabytes, num_subjects)
    return child(_SHARD, folder / name)


def beside_copies(folder: Path, gigabytes: float, rounds: int) -> dict[str, float]:
    """Rates in MB/s, on the clock and of a core, medians."""
    size = make_source(folder / "rate" / "source", gigabytes, NUM_SUBJECTS)
    measured: dict[str, list[float]] = {"copied": [], "sharded": [], "copied_cpu": [], "sharded_cpu": []}
    for _ in range(rounds):
        for what in ("copied", "sharded"):
            forget(folder / "rate" / "source")
            if what == "copied":
                seconds, cpu_seconds = copy(folder / "rate" / "source", folder / "rate" / "copy")
                shutil.rmtree(folder / "rate" / "copy")
            else:
                done = child(_SHARD, folder / "rate", WORKERS)
                seconds, cpu_seconds = done["seconds"], done["cpu_seconds"]
                shutil.rmtree(folder / "rate" / "study")
            measured[what].append(size / 1e6 / seconds)
            measured[f"{what}_cpu"].append(size / 1e6 / cpu_seconds)
    shutil.rmtree(folder / "rate")
    return {name: statistics.median(values) for name, values in measured.items()}


def copy(source: Path, target: Path) -> tuple[float, float]:
    """Seconds on the clock and of a processor."""
    target.mkdir()
    start, cpu = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    for path in sorted(source.iterdir()):
        shutil.copyfile(path, target / path.name)
        with (target / path.name).open("rb") as file:
            os.fsync(file.fileno())
    after = resource.getrusage(resource.RUSAGE_SELF)
    return time.perf_counter() - start, after.ru_utime + after.ru_stime - cpu.ru_utime - cpu.ru_stime


_BEGIN = """
import os, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
def begin():
    global start, before
    start, before = time.perf_counter(), os.times()
def end(**more):
    seconds, after = time.perf_counter() - start, os.times()
    more |= {"seconds": seconds, "cpu_seconds": sum(after[:4]) - sum(before[:4])}  # of its children, too
    print(*(f"{name}={value}" for name, value in more.items()))
"""
_SHARD = (
    _BEGIN
    + f"""
from data_prep.shards.write import ShardConfig, write_study
from data_prep.studies.arrays import ArraysReaderConfig
from data_prep.studies.event_names import EventsNaming
reader = ArraysReaderConfig(
    root=str(folder / "source"), files="sub-{{subject}}.npy", table="sub-{{subject}}.tsv", sfreq=250.0, tmin=-0.2, unit="microvolts",
    ch_names=tuple(f"E{{c}}" for c in range({N_CHANS})), axes=("trials", "channels", "times"), stimulus_level="image", concepts="image",
    events=EventsNaming(column="image"), scratch=str(folder),
)
begin()
write_study(ShardConfig(reader=reader, output=str(folder / "study"), eeg_dtype="float32", samples_per_shard=256, workers=int(sys.argv[2])))
end()
"""
)
_OPEN = (
    _BEGIN
    + """
from data_prep.shards.open import open_study
begin()
open_study(folder)
end()
"""
)
_VERIFY = (
    _BEGIN
    + """
from data_prep.shards.verify import verify
begin()
assert verify(folder) == []
end(bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))
"""
)


def child(code: str, folder: Path, workers: int = 1) -> dict[str, float]:
    """What a process of its own says, and ``mb``, the most memory that it and its children had at once."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder), str(workers)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    most = 0
    while process.poll() is None:
        most = max(most, sum(map(_resident, _tree(process.pid))))
        time.sleep(0.05)
    printed, said = process.communicate()
    if process.returncode:
        raise RuntimeError(said[-2000:])
    return {"mb": most / 1e6, **{name: float(value) for name, value in (pair.split("=") for pair in printed.split())}}


def _tree(pid: int) -> list[int]:
    try:
        below = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except OSError:
        return []
    return [pid, *(each for one in below for each in _tree(int(one)))]


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


if __name__ == "__main__":
    raise SystemExit(main(run))
