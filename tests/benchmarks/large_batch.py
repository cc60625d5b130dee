"""Peak memory of the contrastive loss and its gradients on a large global batch, in a process of its own: ``python -m
tests.benchmarks.large_batch COLUMNS WIDTH ROWS`` prints it in bytes, above what the process has before the embeddings are made.

The rows are those of one rank. How many there are changes hardly anything but the time, since gradients of all columns are there with any.
"""

from __future__ import annotations

import resource
import sys

import torch

from trainer import losses


def peak_bytes() -> int:
    """Most memory that this process had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(columns: int, width: int, rows: int) -> int:
    """Bytes above the start."""
    torch.manual_seed(0)
    torch.ones(64, 64) @ torch.ones(64, 64)  # what libraries take at their first use
    start = peak_bytes()
    eeg_GE, image_GE = (torch.empty(columns, width).normal_().requires_grad_() for _ in range(2))
    with torch.no_grad():
        for embeddings_GE in (eeg_GE, image_GE):
            embeddings_GE /= embeddings_GE.norm(dim=1, keepdim=True)
    ids_G = torch.randint(0, columns // 2, (columns,))
    mine = slice(0, rows)
    found = losses.GlobalColumns(eeg_GE, image_GE, ids_G, 0)
    losses.info_nce(eeg_GE[mine], image_GE[mine], found, torch.tensor([14.0], requires_grad=True), ids_G[mine]).backward()
    return peak_bytes() - start


if __name__ == "__main__":
    print(main(*map(int, sys.argv[1:])))
