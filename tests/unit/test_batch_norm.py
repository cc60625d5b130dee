"""GlobalBatchNorm on one rank is batch normalisation; several ranks are tested in tests/distributed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from data_prep.contract.errors import UserError
from trainer.distributed import collectives
from trainer.distributed.batch_norm import GlobalBatchNorm, _NormalizeAcrossRanks, build_norm


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 9), (6, 4, 3, 5)])
def test_equals_torch_in_train_and_eval(shape: tuple[int, ...]) -> None:
    ours = GlobalBatchNorm(4)
    theirs = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}[len(shape)](4)
    for _ in range(3):
        x = torch.randn(shape) * 2 + 5
        torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    x = torch.randn(shape)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def test_several_ranks_formula_has_right_gradients() -> None:
    x = torch.randn(5, 3, 4, dtype=torch.float64, requires_grad=True)
    weight, bias = (torch.randn(3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda *a: _NormalizeAcrossRanks.apply(*a, 1e-5)[0], (x, weight, bias))


def test_keeps_statistics_in_float32_under_autocast() -> None:
    norm = GlobalBatchNorm(4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = norm((torch.randn(64, 4) + 100).bfloat16())
    assert y.dtype == torch.bfloat16
    assert norm.running_mean.dtype == torch.float32
    assert abs(float(norm.running_mean.mean()) - 10) < 0.1


def test_wrong_width_names_both() -> None:
    with pytest.raises(ValueError, match=r"4 channels.*\(2, 5\)"):
        GlobalBatchNorm(4)(torch.randn(2, 5))


def test_single_value_is_refused() -> None:
    for shape in ((1, 4), (1, 4, 1), (0, 4), (0, 4, 3)):
        with pytest.raises(UserError, match="more than one value a channel over all ranks: enlarge the batch"):
            GlobalBatchNorm(4)(torch.randn(shape))
    with pytest.raises(ValueError, match="more than one value"):
        _NormalizeAcrossRanks.apply(torch.randn(1, 4), torch.ones(4), torch.zeros(4), 1e-5)


@pytest.mark.parametrize("kind", ["batch", "group", "layer"])
def test_every_kind_normalises(kind: str) -> None:
    y = build_norm(kind, 12)(torch.randn(8, 12, 20) * 7 + 3).detach()  # type: ignore[arg-type]
    assert y.shape == (8, 12, 20)
    assert abs(float(y.mean())) < 1e-3
    assert abs(float(y.std()) - 1) < 0.01
    with pytest.raises(ValueError, match="norm: 'instance'"):
        build_norm("instance", 12)  # type: ignore[arg-type]


def test_collectives_are_identities_on_one_rank() -> None:
    x = torch.randn(3, 2, requires_grad=True)
    assert collectives.gather_rows(x) is x
    assert collectives.gather_ids(x) is x
    assert collectives.sum_across(x) is x
    assert (collectives.num_ranks(), collectives.this_rank()) == (1, 0)
    collectives.check_equal_rows(3, torch.device("cpu"))
