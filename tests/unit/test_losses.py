"""Losses against plain double-precision loops, cut over simulated ranks, and what is never a negative."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trainer import losses
from trainer.losses import GlobalColumns, LossConfig

ROWS, DIM = 12, 6


def pairs(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Unit-norm embeddings that want gradients, and stimulus ids with repeats."""
    generator = torch.Generator().manual_seed(seed)
    eeg, image = (F.normalize(torch.randn(ROWS, DIM, generator=generator, dtype=torch.float64), dim=1) for _ in range(2))
    return eeg, image, torch.tensor([0, 1, 2, 0, 3, 4, 0, 2, 5, 6, 6, 7])


def slow_info_nce(eeg: Tensor, image: Tensor, ids: Tensor | None, scale: float) -> Tensor:
    """One logarithm at a time."""
    total = torch.zeros((), dtype=torch.float64)
    for left, right in ((eeg, image), (image, eeg)):
        for i in range(len(left)):
            others = [j for j in range(len(left)) if j == i or ids is None or ids[j] != ids[i]]
            logits = torch.stack([scale * left[i] @ right[j] for j in others])
            total = total - (logits[others.index(i)] - torch.logsumexp(logits, 0)) / (2 * len(left))
    return total


def slow_siglip(eeg: Tensor, image: Tensor, ids: Tensor, scale: float, bias: float) -> Tensor:
    """One pair at a time."""
    total = torch.zeros((), dtype=torch.float64)
    for i in range(len(eeg)):
        for j in range(len(eeg)):
            if i == j or ids[i] != ids[j]:
                total = total - F.logsigmoid((1 if i == j else -1) * (scale * eeg[i] @ image[j] + bias)) / len(eeg)
    return total


def over_ranks(ranks: int, eeg: Tensor, image: Tensor, ids: Tensor | None, local: Any) -> Tensor:
    """Mean over simulated ranks of a local loss; every rank sees the same columns, gradients flow through both sides."""
    share = len(eeg) // ranks
    total = torch.zeros(())
    for rank in range(ranks):
        rows = slice(rank * share, (rank + 1) * share)
        total = total + local(eeg[rows], image[rows], GlobalColumns(eeg, image, ids, rank * share), None if ids is None else ids[rows])
    return total / ranks


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 12])
@pytest.mark.parametrize("masked", [True, False])
def test_info_nce_and_its_gradient_do_not_depend_on_ranks(ranks: int, masked: bool) -> None:
    eeg, image, ids = pairs()
    wanted_ids = ids if masked else None
    slow = [x.clone().requires_grad_() for x in (eeg, image)]
    wanted = slow_info_nce(slow[0], slow[1], wanted_ids, 9.0)
    wanted.backward()
    fast = [x.float().requires_grad_() for x in (eeg, image)]
    scale = torch.tensor([9.0])
    found = over_ranks(ranks, fast[0], fast[1], wanted_ids, lambda e, i, columns, own: losses.info_nce(e, i, columns, scale, own))
    found.backward()
    assert float(found.detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)
    for ours, theirs in zip(fast, slow, strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("ranks", [1, 3])
def test_siglip_equals_a_loop(ranks: int) -> None:
    eeg, image, ids = pairs(1)
    wanted = slow_siglip(eeg, image, ids, 8.0, -3.0)
    scale, bias = torch.tensor([8.0]), torch.tensor([-3.0])
    found = over_ranks(ranks, eeg.float(), image.float(), ids, lambda e, _, columns, own: losses.siglip(e, columns, scale, bias, own))
    assert float(found) == pytest.approx(float(wanted), rel=1e-5)


def test_same_stimulus_does_not_push() -> None:
    eeg, image, ids = (x.float() if x.is_floating_point() else x for x in pairs())
    image_GE = image.clone().requires_grad_()
    one = slice(3, 4)  # stimulus 0, also rows 0 and 6
    losses.info_nce(eeg[one], image[one], GlobalColumns(eeg, image_GE, ids, 3), torch.tensor([10.0]), ids[one]).backward()
    assert image_GE.grad is not None
    pushed = (image_GE.grad != 0).any(1)
    assert pushed.tolist() == [i not in (0, 6) for i in range(ROWS)]


def test_a_batch_of_one_stimulus_is_finite() -> None:
    eeg, image, _ = (x.float() if x.is_floating_point() else x for x in pairs())
    ids = torch.zeros(ROWS, dtype=torch.long)
    eeg.requires_grad_()
    loss = losses.info_nce(eeg, image, GlobalColumns(eeg, image, ids, 0), torch.tensor([10.0]), ids)
    loss.backward()
    assert float(loss.detach()) == 0
    assert eeg.grad is not None
    assert torch.isfinite(eeg.grad).all()


def test_float32_under_autocast() -> None:
    eeg, image, ids = (x.float() if x.is_floating_point() else x for x in pairs())
    columns = GlobalColumns(eeg, image, ids, 0)
    wanted = losses.info_nce(eeg, image, columns, torch.tensor([14.0]), ids)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert losses.info_nce(eeg, image, columns, torch.tensor([14.0]), ids) == wanted


def test_gathered_columns_are_in_rank_order() -> None:
    eeg, image, ids = pairs()
    columns = losses.gather_columns(
        eeg, image, ids, gather_rows=lambda x: torch.cat([x - 1, x]), gather_ids=lambda x: torch.cat([x + 100, x]), rank=1
    )
    assert columns.offset == ROWS
    assert torch.equal(columns.eeg_GE[ROWS:], eeg)
    assert torch.equal(columns.image_GE[ROWS:], image)
    assert columns.ids_G is not None
    assert torch.equal(columns.ids_G[ROWS:], ids)


def test_weighted_sum_names_its_terms() -> None:
    config = LossConfig(mse_weight=0.5, cosine_weight=2.0)
    terms = losses.weighted_sum({"contrastive": torch.tensor(1.0), "mse": torch.tensor(4.0), "cosine": torch.tensor(0.25)}, config)
    assert list(terms) == ["loss", "contrastive", "mse", "cosine"]
    assert float(terms["loss"]) == 3.5


def test_simple_losses() -> None:
    a, b = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[0.0, 3.0], [0.0, 1.0]])
    assert float(losses.mse(a, b)) == pytest.approx((1 + 9 + 0 + 1) / 4)
    assert float(losses.cosine(a, b)) == pytest.approx(0.5)
    assert float(losses.cross_entropy(torch.zeros(2, 4), torch.tensor([1, 3], dtype=torch.int32))) == pytest.approx(math.log(4))


def test_positive_ids() -> None:
    stimulus, concept = torch.tensor([1]), torch.tensor([2])
    assert losses.positive_ids("pair", stimulus, concept) is None
    assert losses.positive_ids("stimulus", stimulus, concept) is stimulus
    assert losses.positive_ids("concept", stimulus, concept) is concept


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "triplet"}, r"loss\.name: 'triplet'"),
        ({"positives": "class"}, r"loss\.positives: 'class'"),
        ({"mse_weight": -1.0}, r"loss\.mse_weight: -1"),
        ({"contrastive_weight": 0.0}, "every weight is 0"),
        ({"temperature": 0.0}, r"loss\.temperature: 0"),
        ({"temperature": 0.001}, r"loss\.temperature: 0\.001, expected at least 1 / max_logit_scale = 0\.01"),
        ({"temperature": 1e30}, r"loss\.temperature: 1e\+30, expected at most 1000"),
        ({"temperature": math.inf}, r"loss\.temperature: inf, expected at most 1000"),
        ({"max_logit_scale": 1e300, "temperature": 1e-300}, r"loss\.max_logit_scale: 1e\+300, expected a positive number, at most 1000"),
        ({"logit_bias": -1e30}, r"loss\.logit_bias: -1e\+30, expected -1000 to 1000"),
        ({"logit_bias": math.nan}, r"loss\.logit_bias: nan"),
    ],
)
def test_contradictions_name_the_field(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LossConfig(**fields)
