"""How fast a run is, how long it waits, what it holds."""

from __future__ import annotations

import time

import torch

from data_prep.contract.memory import peak_memory_bytes


class Clock:
    """Throughput since the last look, and the share of time spent waiting for data."""

    def __init__(self) -> None:
        self.started, self.samples, self.waited = time.perf_counter(), 0, 0.0

    def restart(self) -> dict[str, float]:
        """Numbers since the last restart."""
        now = time.perf_counter()
        seconds = max(now - self.started, 1e-9)
        rates = {"samples_per_second": self.samples / seconds, "data_wait_share": self.waited / seconds}
        self.started, self.samples, self.waited = now, 0, 0.0
        return rates

    def waiting(self) -> Clock:
        """Context whose time counts as waiting."""
        return self

    def __enter__(self) -> None:
        self._entered = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.waited += time.perf_counter() - self._entered


def memory_gib(device: torch.device) -> float:
    """Peak memory of this rank: of the GPU where it computes on one, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return peak_memory_bytes() / 2**30
