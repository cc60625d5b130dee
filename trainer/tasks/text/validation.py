"""How likely a text model finds the captions of held-out items.

B: items of a batch.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from trainer.data.batch import Batch
from trainer.data.loader import Loader
from trainer.distributed import collectives
from trainer.distributed.world import World
from trainer.tasks.text.items import evenly_spread


@torch.no_grad()
def log_likelihood(
    losses: Callable[[Batch], tuple[Tensor, Tensor]],
    part: Loader,
    *,
    num_items: int,
    batch_size: int,
    world: World,
    device: torch.device,
) -> tuple[float, float]:
    """Mean log-likelihood by token and by caption, equal on all ranks.

    All ranks score slices of equal length (ZeRO 3 needs equally many forwards); items that fill up the last slice do not count.

    Parameters
    ----------
    losses
        For each item of a batch the sum of its caption's cross-entropies, and its tokens: two (B,).
    part
        What is scored.
    num_items
        At most so many samples, evenly spread; 0: all.
    batch_size
        Items a rank and forward.
    """
    chosen = evenly_spread(part.num_samples, num_items)
    count = len(chosen)
    share = -(-count // world.size)
    mine = chosen[(world.rank * share + np.arange(share)) % count]
    sums = []
    for first in range(0, share, batch_size):
        loss_B, tokens_B = losses(part.prepare(part.samples_batch(mine[first : first + batch_size]), device))
        sums.append(torch.stack([loss_B.double(), tokens_B.double()], dim=1))
    total = collectives.gather_ids(torch.cat(sums))[:count].sum(dim=0)
    # Rank 0's number for all: ranks on other hardware might round differently, and then part ways.
    token, caption = collectives.gather_ids(-torch.stack([total[0] / total[1], total[0] / count])).tolist()[:2]
    return token, caption
