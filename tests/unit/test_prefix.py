"""Prefix tokens have the scale of words, and each projector reads what it says it reads."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from trainer.models.language.prefix import PrefixConfig

KINDS = ("linear", "mlp", "resampler")


def build(kind: Any, **fields: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    return PrefixConfig(kind=kind, num_tokens=3, hidden=16, heads=4, **fields).build(10, 32, embedding_rms=0.02)


@pytest.mark.parametrize("num_features", [1, 7])
@pytest.mark.parametrize("kind", KINDS)
def test_prefix_tokens_have_the_scale_of_words(kind: str, num_features: int) -> None:
    prefix_BKH = build(kind)(torch.nn.functional.normalize(torch.randn(5, num_features, 10), dim=-1))
    assert prefix_BKH.shape == (5, 3, 32)
    rms = prefix_BKH.square().mean(dim=-1).sqrt()
    torch.testing.assert_close(rms, torch.full_like(rms, 0.02), rtol=1e-2, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_everything_is_trained_and_nothing_depends_on_the_rest_of_the_batch(kind: str) -> None:
    module, features_BSD = build(kind), torch.randn(4, 6, 10)
    out = module(features_BSD)
    (out * torch.randn_like(out)).sum().backward()
    assert all(p.grad is not None and p.grad.norm() > 0 for p in module.parameters())
    torch.testing.assert_close(module(features_BSD[1:2]), out[1:2])


def test_the_resampler_attends_and_the_others_average() -> None:
    features_BSD = torch.nn.functional.layer_norm(torch.randn(2, 6, 10), (10,))
    average_BSD = features_BSD.mean(dim=1, keepdim=True).expand(-1, 6, -1)
    for kind in KINDS:
        module = build(kind)
        module.input_norm = torch.nn.Identity()  # what it reads is compared, not how that is scaled
        same = torch.allclose(module(features_BSD), module(average_BSD), rtol=1e-4, atol=1e-7)
        assert same == (kind != "resampler"), kind
    tokens_BKH = build("resampler")(features_BSD)
    assert not torch.allclose(tokens_BKH[:, 0], tokens_BKH[:, 1], rtol=1e-2), "queries ask for different things"


@pytest.mark.parametrize("kind", ["mlp", "resampler"])
def test_dropout_is_for_training_only(kind: str) -> None:
    module, features_BSD = build(kind, dropout=0.5), torch.randn(2, 4, 10)
    assert not torch.equal(module(features_BSD), module(features_BSD))
    module.eval()
    assert torch.equal(module(features_BSD), module(features_BSD))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "conv"}, "prefix.kind: 'conv', expected linear, mlp or resampler"),
        ({"features": "pixels"}, "prefix.features: 'pixels'"),
        ({"num_tokens": 0}, "prefix.num_tokens: 0, expected at least 1"),
        ({"dropout": 1.0}, "prefix.dropout: 1.0"),
    ],
)
def test_bad_fields_are_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        PrefixConfig(**fields)


def test_heads_must_divide_the_hidden_size() -> None:
    with pytest.raises(ValueError, match=r"prefix\.heads: 5, expected a divisor of the language model's hidden size 32"):
        PrefixConfig(kind="resampler", heads=5).build(10, 32, embedding_rms=1.0)
    PrefixConfig(kind="mlp", heads=5).build(10, 32, embedding_rms=1.0)  # has no heads
