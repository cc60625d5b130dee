"""Sampling follows the probabilities, is finite, and is a function of seed and item alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from trainer.models.language.decoding import DecodingConfig, GumbelNoise, _gumbel

NO_IDS = torch.zeros(0, 0)
CPU = torch.device("cpu")


def draw(scores_BV: torch.Tensor, items: list[int], seed: int = 0, steps: int = 1) -> list[torch.Tensor]:
    noise = GumbelNoise(seed, torch.tensor(items))
    return [noise(NO_IDS, scores_BV).argmax(dim=1) for _ in range(steps)]


def test_tokens_are_drawn_by_probability() -> None:
    wanted = torch.tensor([0.5, 0.3, 0.19, 0.01])
    items = list(range(20_000))
    for drawn in draw(wanted.log().expand(len(items), -1), items, steps=2):
        found = torch.bincount(drawn, minlength=4) / len(items)
        assert ((found - wanted).abs() < 4 * (wanted * (1 - wanted) / len(items)).sqrt()).all()


def test_a_draw_depends_on_seed_item_and_step_only() -> None:
    scores = torch.zeros(6, 500)
    together = draw(scores, [3, 1, 4, 15, 9, 2], steps=3)
    for place, item in ((0, 3), (3, 15)):
        assert [int(step[place]) for step in together] == [int(step) for step in draw(scores[:1], [item], steps=3)]
    assert len({int(token) for step in together for token in step}) > 12
    assert not torch.equal(draw(scores, [3, 1, 4, 15, 9, 2], seed=1)[0], together[0])


def test_noise_is_finite_at_both_ends_of_the_hash() -> None:
    # A float32 rounds a uniform number next to 1 up to 1, whose noise would be infinite, and choose any token at all.
    bits = torch.tensor([0, 1, -1, -2, 2**63 - 1, -(2**63), 2**62, (2**24 - 1) << 39, (2**23 - 1) << 40])
    noise = _gumbel(bits)
    assert torch.isfinite(noise).all()
    assert noise.max() > 40, "the tail is there"
    assert noise.min() > -5


def test_what_was_filtered_out_is_never_drawn() -> None:
    scores = torch.full((400, 50), float("-inf"))
    scores[:, 7] = -3.0
    assert draw(scores, list(range(400)))[0].unique().tolist() == [7]


def test_options_filter_before_the_noise() -> None:
    options = DecodingConfig(method="sample", top_k=2, temperature=0.5).options(seed=1, items=range(300), device=CPU)
    scores = torch.tensor([0.0, 1.0, 0.5, -1.0]).expand(300, -1).clone()
    for processor in options["logits_processor"]:
        scores = processor(torch.zeros(300, 0, dtype=torch.int64), scores)
    assert options["do_sample"] is False  # the noise samples, the rest is greedy
    assert scores.argmax(dim=1).unique().tolist() == [1, 2]
    share = (scores.argmax(dim=1) == 1).float().mean()  # softmax of (1, 0.5) / 0.5
    assert abs(float(share) - 0.731) < 0.1
    assert not DecodingConfig(method="greedy", top_k=2).options(seed=1, items=[0], device=CPU)["logits_processor"]
    assert DecodingConfig(method="beam", beams=3).options(seed=1, items=[0], device=CPU)["num_beams"] == 3


@pytest.mark.parametrize(
    "fields", [{"method": "nucleus"}, {"max_new_tokens": 0}, {"beams": 0}, {"top_k": -1}, {"temperature": 0.0}, {"top_p": 1.5}]
)
def test_bad_fields_are_named(fields: dict[str, Any]) -> None:
    ((name, value),) = fields.items()
    with pytest.raises(ValueError, match=rf"{name}:? .*{value}|{name}: '{value}'"):
        DecodingConfig(**fields)
