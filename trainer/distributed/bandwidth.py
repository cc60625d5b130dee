"""What collectives take between the ranks of a world."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

_SECONDS = 2.0
_MOST = 50


def measure_collectives(num_bytes: int, device: torch.device) -> dict[str, float]:
    """Of the default group, on each rank alike: ``latency_seconds`` of a sum of one number, and what passes each rank's link in a sum and
    in a gathering of ``num_bytes``, ``reduce_bytes_a_second`` and ``gather_bytes_a_second``; ``ranks`` is how many there are."""
    size = dist.get_world_size()
    count = max(num_bytes // 4 // size, 1)
    whole, part, one = (torch.ones(length, device=device) for length in (count * size, count, 1))
    latency = _seconds(lambda: dist.all_reduce(one), device)
    reduced = _seconds(lambda: dist.all_reduce(whole), device)
    gathered = _seconds(lambda: dist.all_gather_into_tensor(whole, part), device)
    share = (size - 1) / size * 4 * count * size  # of a tensor passes each rank's link, twice for a sum
    rates = {"reduce_bytes_a_second": 2 * share / reduced, "gather_bytes_a_second": share / gathered}
    return {"ranks": size, "latency_seconds": latency, **rates}


def _seconds(collective: Callable[[], Any], device: torch.device) -> float:
    """Seconds that one takes, of as many as two seconds hold; ranks agree on how many after the first."""

    def timed(times: int) -> float:
        dist.barrier()
        begin = time.perf_counter()
        for _ in range(times):
            collective()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - begin

    timed(1)
    times = torch.tensor([_SECONDS / max(timed(1), 1e-6)], device=device)
    dist.broadcast(times, 0)
    repeats = int(min(max(times.item(), 1), _MOST))
    return timed(repeats) / repeats
