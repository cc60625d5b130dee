"""A bounded parameter leaves its bound as soon as its gradient points inwards, from wherever it started."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from trainer.distributed.bounds import bounded_exp
from trainer.losses import MAX_LOGIT, GlobalColumns, LossConfig, info_nce, siglip
from trainer.models.contrastive import ContrastiveModel, ContrastiveModelConfig
from trainer.models.encoders import FlatLinear

RNG = np.random.default_rng(0)
CASES = [(float(2 ** RNG.uniform(-3, 12)), float(2 ** RNG.uniform(-1, 7))) for _ in range(12)]
"""(logit scale at the start, its limit)."""


def build(start: float, limit: float, name: str) -> ContrastiveModel:
    torch.manual_seed(0)
    loss = LossConfig(name=name, temperature=1 / min(start, limit), max_logit_scale=limit)  # type: ignore[arg-type]
    model = ContrastiveModelConfig(encoder=FlatLinear(), eeg_head="linear").build(
        n_chans=2, n_times=4, sfreq=100.0, num_subjects=1, embedding_dim=6, loss=loss
    )
    model.log_logit_scale.data.fill_(math.log(start))
    return model


def step(model: ContrastiveModel, seed: int) -> float:
    """The scale that a batch sees; a smaller one would be better, and the gradient says so."""
    generator = torch.Generator().manual_seed(seed)
    out = model(torch.randn(16, 2, 4, generator=generator), torch.zeros(16, dtype=torch.long), torch.randn(16, 6, generator=generator))
    out.logit_scale.sum().backward()
    return float(out.logit_scale.detach())


@pytest.mark.parametrize(("start", "limit"), CASES)
def test_the_logit_scale_leaves_its_limit_from_any_start(start: float, limit: float) -> None:
    model = build(start, limit, "info_nce")
    optimizer = torch.optim.Adam([model.log_logit_scale], lr=0.01)
    seen = []
    for number in range(4):
        optimizer.zero_grad()
        seen.append(step(model, number))
        assert model.log_logit_scale.grad is not None
        assert float(model.log_logit_scale.grad) > 0, "inwards"
        optimizer.step()
        model.constrain()
    assert max(seen) <= limit * (1 + 1e-6)
    assert seen == sorted(seen, reverse=True)
    assert seen[-1] < min(seen[0], limit), "three steps inwards are seen, however far beyond the limit it started"


@pytest.mark.parametrize(("start", "limit"), CASES[:6])
def test_pushed_outwards_it_never_lies_beyond_and_comes_back_at_once(start: float, limit: float) -> None:
    model = build(start, limit, "siglip")
    optimizer = torch.optim.SGD([model.log_logit_scale], lr=0.1)
    for direction in (-1.0,) * 30 + (1.0,):
        optimizer.zero_grad()
        (direction * bounded_exp(model.log_logit_scale, limit) / limit).sum().backward()
        optimizer.step()
        model.constrain()
        assert float(model.log_logit_scale.detach()) <= np.float32(math.log(limit))
    scale = float(bounded_exp(model.log_logit_scale, limit).detach())
    assert scale < limit


@pytest.mark.parametrize("name", ["info_nce", "siglip"])
@pytest.mark.parametrize("rate", [3.0, 1e2, 1e4, 1e30])
@pytest.mark.parametrize("way", [-1.0, 1.0])
def test_scale_and_bias_come_back_however_far_one_step_threw_them(name: str, rate: float, way: float) -> None:
    model = build(10.0, 50.0, name)
    thrown = [parameter for parameter in (model.log_logit_scale, model.logit_bias) if parameter is not None]
    for parameter in thrown:  # a step of a learning rate that is far too high
        parameter.data.add_(way * rate)
    model.constrain()
    optimizer = torch.optim.Adam(thrown, lr=0.05)
    before = [float(parameter.detach()) for parameter in thrown]
    generator = torch.Generator().manual_seed(0)
    z_BP = torch.nn.functional.normalize(torch.randn(16, 6, generator=generator), dim=1)
    image_BP = z_BP if way < 0 else z_BP.roll(1, 0)  # pairs that fit want a larger scale, those that do not a smaller one
    columns = GlobalColumns(z_BP, image_BP, None, 0)
    for _ in range(20):
        optimizer.zero_grad()
        scale = bounded_exp(model.log_logit_scale, 50.0)
        loss = info_nce(z_BP, image_BP, columns, scale)
        if model.logit_bias is not None:
            loss = loss + siglip(z_BP, columns, scale, model.logit_bias)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        model.constrain()
    assert all(abs(float(parameter.detach())) <= MAX_LOGIT for parameter in thrown)
    assert way * (before[0] - float(model.log_logit_scale.detach())) > 0.1, "the scale is on its way back"
    if model.logit_bias is not None:
        assert way * (before[1] - float(model.logit_bias.detach())) > 0.1, "and so is the bias"


def test_inside_the_bound_it_is_exp() -> None:
    x = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: bounded_exp(x, 100.0), x)
    assert float(bounded_exp(torch.tensor([90.0, 1e4]), 100.0).max()) == 100.0, "too large for exp"
