"""``python -m launch.doctor.bandwidth``: a rank that meets the others as a training's does, and measures what they need of the network."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any

from data_prep.contract.cli import begin_process, ending, leave

ASKED = "EEGVISION_DOCTOR"
_SECONDS = 2.0
_MOST = 50


def main() -> int:
    """Meet, measure, and say on rank 0 what was found."""
    import torch
    import torch.distributed as dist

    from trainer.distributed import world as worlds
    from trainer.distributed.library_log import collected

    asked = json.loads(os.environ[ASKED])
    world = worlds.read_world()
    device = worlds.choose_device(asked["device"], world)
    with collected():
        worlds.start_distributed(world, device, asked["seconds"])
        try:
            size, count = world.size, max(asked["bytes"] // 4 // world.size, 1)
            whole, part, one = (torch.ones(length, device=device) for length in (count * size, count, 1))
            latency = _seconds(lambda: dist.all_reduce(one), device)
            reduced = _seconds(lambda: dist.all_reduce(whole), device)
            gathered = _seconds(lambda: dist.all_gather_into_tensor(whole, part), device)
        finally:
            worlds.stop_distributed()
    if world.is_main:
        share = (size - 1) / size  # of a tensor passes each rank's link, twice for a sum
        nbytes = 4 * count * size
        found = {"ranks": size, "latency_seconds": latency, "reduce_bytes_a_second": 2 * share * nbytes / reduced}
        print(json.dumps({"bandwidth": {**found, "gather_bytes_a_second": share * nbytes / gathered}}), flush=True)
    return 0


def _seconds(collective: Callable[[], Any], device: Any) -> float:
    """Seconds that one takes, of as many as two seconds hold; ranks agree on how many after the first."""
    import torch
    import torch.distributed as dist

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


if __name__ == "__main__":
    begin_process()
    leave(ending(main))
