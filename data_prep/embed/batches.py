"""Batches of image files through an encoder: in this process, or shared out over several, each with its own copy of the network.

Files are cut into batches in their order, whatever is known already and however many processes there are; then a batch leaves out what is
known. So the share of each is the same everywhere, and rows differ between runs by no more than a batch's size may change their last bits.

Shapes in names: BCHW images of a batch.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.contract.errors import StudyError
from data_prep.contract.images import CHANGES, read_image
from data_prep.contract.limits import limits, use_limits
from data_prep.embed.loaded import Encoder, LoadedEncoder

_BATCHES_A_TASK = 8


@dataclass(frozen=True, kw_only=True)
class Item:
    """An image to look at."""

    path: Path
    file_key: bytes
    """SHA-256 of the file."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What became of it."""

    item: Item
    pixel_key: bytes
    """SHA-256 of its pixels as they are shown."""
    changes: int
    """Bits of :data:`CHANGES`."""
    row: np.ndarray | None
    """float32 of all outputs side by side; None where the cache has it."""
    dims: tuple[int, ...]
    """Dimensions of each output; empty without a row."""


def one_by_one(loaded: LoadedEncoder, batches: Sequence[Sequence[Item]], known: frozenset[bytes], workers: int) -> Iterator[list[Seen]]:
    """Batches through a network of this process; images are decoded in threads ahead of it."""

    def read(item: Item) -> tuple[Item, bytes, int, Any]:
        opened = read_image(item.path)
        key = sha256(repr((opened.image.mode, opened.image.size)).encode() + opened.image.tobytes()).digest()
        bits = sum(1 << number for number, change in enumerate(CHANGES) if change in opened.changes)
        return item, key, bits, None if key in known else _transformed(loaded, opened.image, item.path)

    with ThreadPoolExecutor(workers) as pool:
        ahead = [pool.map(read, batch) for batch in batches[:2]]
        for number, _ in enumerate(batches):
            found = list(ahead.pop(0))
            ahead += [pool.map(read, batch) for batch in batches[number + 2 : number + 3]]
            rows, dims = _rows(loaded, [image for *_, image in found if image is not None])
            taken = iter(rows)
            yield [
                Seen(item=item, pixel_key=key, changes=bits, row=None if image is None else next(taken), dims=() if image is None else dims)
                for item, key, bits, image in found
            ]


def _transformed(loaded: LoadedEncoder, image: Any, path: Path) -> Any:
    value = loaded.transform(image)
    if getattr(value, "ndim", 0) not in (1, 3):
        raise StudyError(f"{path}: its transform gives {tuple(np.shape(value))}, expected (3, height, width)")
    return value


def vectors_of(loaded: LoadedEncoder, images: list[Any]) -> list[np.ndarray]:
    """Transformed images as float32 (B, E) of each output."""
    if isinstance(images[0], np.ndarray):
        return [np.asarray(each, np.float32) for each in loaded.encode(np.stack(images))]
    import torch

    with torch.inference_mode():
        return [each.float().cpu().numpy() for each in loaded.encode(torch.stack(images))]


def _rows(loaded: LoadedEncoder, images: list[Any]) -> tuple[np.ndarray, tuple[int, ...]]:
    if not images:
        return np.empty((0, 0), np.float32), ()
    vectors = vectors_of(loaded, images)
    return np.concatenate(vectors, axis=1), tuple(each.shape[1] for each in vectors)


# ------------------------------------------------------------------------------------------------------- several processes

_worker: tuple[LoadedEncoder, frozenset[bytes], int] | None = None


def shared_out(config: Encoder, batches: Sequence[Sequence[Item]], known: frozenset[bytes], processes: int) -> Iterator[list[Seen]]:
    """Batches through ``processes`` copies of the network, each on a GPU of its own where there are some.

    Raises
    ------
    StudyError
        What ended one of them.
    """
    context = multiprocessing.get_context("spawn")
    numbers = context.Value("i", 0)
    tasks = [batches[start : start + _BATCHES_A_TASK] for start in range(0, len(batches), _BATCHES_A_TASK)]
    processes = min(processes, len(tasks))
    with ProcessPoolExecutor(processes, context, _begin, (config, known, processes, numbers, limits())) as pool:
        try:
            for found in pool.map(_work, tasks):
                yield from found
        except BrokenProcessPool as error:
            raise StudyError(
                f"one of {processes} processes that embed images was ended from outside, or by its memory: run again with fewer"
            ) from error


def _begin(config: Encoder, known: frozenset[bytes], processes: int, numbers: Any, file_limits: Any) -> None:
    global _worker
    use_limits(file_limits)
    with numbers.get_lock():
        number, numbers.value = numbers.value, numbers.value + 1
    device = None
    if str(getattr(config, "device", "cpu")).startswith("cuda"):
        import torch

        device = f"cuda:{number % max(1, torch.cuda.device_count())}"
    loaded = config.load(device)
    if (used := sys.modules.get("torch")) is not None:  # not every encoder needs it
        used.set_num_threads(max(1, len(os.sched_getaffinity(0)) // processes) if hasattr(os, "sched_getaffinity") else 1)
    _worker = loaded, known, config.workers


def _work(batches: Sequence[Sequence[Item]]) -> list[list[Seen]]:
    assert _worker is not None
    loaded, known, workers = _worker
    return list(one_by_one(loaded, batches, known, workers))


def visible_gpus() -> int:
    """GPUs that this process may use."""
    import torch

    return int(torch.cuda.device_count()) if torch.cuda.is_available() else 0
