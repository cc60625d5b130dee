"""Collectives and GlobalBatchNorm on three plain gloo ranks equal one process, also with uneven rows."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from trainer.distributed import collectives
from trainer.distributed.batch_norm import GlobalBatchNorm
from trainer.distributed.world import set_group_timeouts
from trainer.training.stop import StopSignal

RANKS = 3
ROWS = (1, 4, 3)
SHAPE = (5, 7, 2)


def batch() -> Tensor:
    """Rows of all ranks, far from zero so that a plain sum of squares would lose digits."""
    return torch.randn(sum(ROWS), *SHAPE, generator=torch.Generator().manual_seed(0)) * 3 + 1000


def normed(x: Tensor) -> tuple[Tensor, ...]:
    """Output, gradients (of a weighted sum) and running statistics."""
    module = GlobalBatchNorm(SHAPE[0])
    with torch.no_grad():
        module.weight.copy_(torch.linspace(0.5, 2, SHAPE[0]))
    x = x.clone().requires_grad_()
    y = module(x)
    (y * torch.arange(y[0].numel()).reshape(y[0].shape).sin() * y).sum().backward()
    assert x.grad is not None
    assert module.weight.grad is not None
    return y.detach(), x.grad, module.weight.grad, module.running_mean, module.running_var


def rank_main(rank: int, folder: str) -> None:
    """Body of a rank; an AssertionError here fails the test."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=RANKS)
    other = dist.new_group(range(RANKS))
    set_group_timeouts(40)
    for group in (dist.distributed_c10d._get_default_group(), other):
        assert isinstance(group, dist.ProcessGroup)
        assert group._get_backend(torch.device("cpu")).options._timeout.total_seconds() == 40

    x = torch.full((2, 2), float(rank + 1), requires_grad=True)
    everything = collectives.gather_rows(x)
    assert everything[:, 0].tolist() == [1, 1, 2, 2, 3, 3]
    assert collectives.gather_ids(torch.tensor([rank])).tolist() == [0, 1, 2]
    (everything * (rank + 1)).sum().backward()
    assert x.grad is not None
    assert (x.grad == 6).all(), "the gradient of a gathered row is the sum over ranks"
    scalar = torch.tensor([float(rank)], requires_grad=True)
    total = collectives.sum_across(scalar)
    assert total.item() == 3
    (total * (rank + 1)).backward()
    assert scalar.grad is not None
    assert scalar.grad.item() == 6

    stop, answers = StopSignal(torch.device("cpu")), []
    for step in range(4):
        stop.received |= (rank, step) == (1, 1)
        answers.append(stop.agreed(save_due=(rank, step) == (2, 0)))
    assert [found.stop for found in answers] == [False, False, True, True], "all leave after the same step, the one after a signal's"
    assert [found.save for found in answers] == [False, True, False, False], "and save after the one after a clock's"

    start = sum(ROWS[:rank])
    torch.save(normed(batch()[start : start + ROWS[rank]]), f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


def test_three_ranks_equal_one_process(tmp_path: Path) -> None:
    mp.spawn(rank_main, args=(str(tmp_path),), nprocs=RANKS, join=True)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(RANKS)]
    y, x_grad, weight_grad, mean, var = normed(batch())
    torch.testing.assert_close(torch.cat([r[0] for r in ranks]), y, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.cat([r[1] for r in ranks]), x_grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.stack([r[2] for r in ranks]).sum(0), weight_grad, rtol=1e-4, atol=1e-3)
    for rank in ranks:
        torch.testing.assert_close(rank[3], mean)
        torch.testing.assert_close(rank[4], var)
        assert torch.equal(rank[3], ranks[0][3])
        assert torch.equal(rank[4], ranks[0][4])
