"""The learning rate is a function of the step; 1-d parameters stay out of weight decay."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from trainer.training.optimizer import OptimizerConfig, learning_rate, parameter_groups


def test_rises_over_the_warm_up_then_falls_to_the_floor() -> None:
    config = OptimizerConfig(lr=1.0, warmup_fraction=0.1, final_lr_fraction=0.2)
    rates = [learning_rate(step, 100, config) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert max(rates) == 1.0
    assert all(later <= before for before, later in itertools.pairwise(rates[9:]))
    assert 0.2 < rates[-1] < 0.201
    assert learning_rate(100, 100, config) == pytest.approx(0.2)


def test_without_warm_up_the_first_step_has_the_full_rate() -> None:
    assert learning_rate(0, 50, OptimizerConfig(lr=0.5, warmup_fraction=0.0)) == 0.5


@pytest.mark.parametrize("num_steps", [1, 2, 3])
def test_very_short_runs_have_a_positive_first_rate(num_steps: int) -> None:
    assert learning_rate(0, num_steps, OptimizerConfig(lr=0.5)) > 0


def test_constant_after_the_warm_up() -> None:
    config = OptimizerConfig(lr=2.0, warmup_fraction=0.0, final_lr_fraction=1.0)
    assert {learning_rate(step, 10, config) for step in range(10)} == {2.0}


def test_one_dimensional_parameters_and_the_temperature_are_not_decayed() -> None:
    model = nn.Sequential(nn.Conv1d(3, 4, 5), nn.BatchNorm1d(4), nn.Linear(4, 2))
    model.register_parameter("logit_scale", nn.Parameter(torch.ones(1)))
    model[2].weight.requires_grad_(False)
    decayed, plain = parameter_groups(model.named_parameters(), 0.1)
    assert decayed == {"params": [model[0].weight], "weight_decay": 0.1}
    assert plain["weight_decay"] == 0.0
    assert {id(p) for p in plain["params"]} == {
        id(p) for p in (model[0].bias, model[1].weight, model[1].bias, model[2].bias, model.logit_scale)
    }


@pytest.mark.parametrize(
    ("fields", "says"),
    [({"lr": 0.0}, "optimizer.lr: 0.0"), ({"warmup_fraction": 1.0}, "optimizer.warmup_fraction"), ({"beta1": 1.5}, "optimizer.beta1: 1.5")],
)
def test_bad_values_are_named(fields: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        OptimizerConfig(**fields)


def test_parts_of_a_model_may_learn_at_a_rate_of_their_own() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2, bias=False))
    groups = OptimizerConfig().build(model, {"0.": 0.1}).param_groups
    assert [(group["lr_factor"], [p.shape for p in group["params"]]) for group in groups] == [
        (1.0, [(2, 4)]),
        (0.1, [(4, 4)]),
        (0.1, [(4,)]),
    ]
