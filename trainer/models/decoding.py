"""How tokens are chosen in generation; sampling is a function of the seed and the item, not of the batch or the rank.

B: items, V: vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from trainer.data import random

_TOKEN = random.word("token of a caption")


@dataclass(frozen=True, kw_only=True)
class DecodingConfig:
    """The same for every arm of an evaluation."""

    method: Literal["greedy", "sample", "beam"] = "greedy"
    """``greedy``: the likeliest token; ``sample``: by probability; ``beam``: beam search."""
    max_new_tokens: int = 48
    """Longest caption in tokens."""
    temperature: float = 1.0
    """Of ``sample``: below 1 sharpens."""
    top_p: float = 1.0
    """Of ``sample``: smallest set of tokens with this probability; 1 keeps all."""
    top_k: int = 0
    """Of ``sample``: this many likeliest tokens; 0 keeps all."""
    beams: int = 4
    """Of ``beam``."""
    repetition_penalty: float = 1.0
    """Above 1 makes tokens that were said less likely."""

    def __post_init__(self) -> None:
        if self.method not in ("greedy", "sample", "beam"):
            raise ValueError(f"decoding.method: {self.method!r}, expected greedy, sample or beam")
        if self.max_new_tokens < 1:
            raise ValueError(f"decoding.max_new_tokens: {self.max_new_tokens}, expected at least 1")
        if self.beams < 1 or self.top_k < 0:
            raise ValueError(f"decoding: beams {self.beams} and top_k {self.top_k}, expected at least 1 and at least 0")
        if not (self.temperature > 0 and 0 < self.top_p <= 1 and self.repetition_penalty > 0):
            raise ValueError(
                f"decoding: temperature {self.temperature}, top_p {self.top_p}, repetition_penalty {self.repetition_penalty}, "
                "expected positive numbers, top_p at most 1"
            )

    def options(self, *, seed: int, items: Sequence[int], device: torch.device) -> dict[str, Any]:
        """Keyword arguments for ``generate`` of transformers."""
        # Every field that a checkpoint's generation_config might bring is set: all arms and bases decode alike.
        options: dict[str, Any] = {
            "max_new_tokens": self.max_new_tokens, "do_sample": False, "num_beams": 1, "repetition_penalty": self.repetition_penalty,
            "temperature": None, "top_p": None, "top_k": None,
        }  # fmt: skip
        if self.method == "beam":
            options["num_beams"] = self.beams
        elif self.method == "sample":
            from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

            chosen: list[Any] = [TemperatureLogitsWarper(self.temperature)] if self.temperature != 1 else []
            chosen += [TopKLogitsWarper(self.top_k)] if self.top_k else []
            chosen += [TopPLogitsWarper(self.top_p)] if self.top_p < 1 else []
            noise = GumbelNoise(seed, torch.tensor(list(items), dtype=torch.int64, device=device))
            options["logits_processor"] = LogitsProcessorList([*chosen, noise])
        return options


class GumbelNoise:
    """Makes the likeliest token a draw from the distribution (Gumbel-max), by a hash of (seed, item, step, token)."""

    def __init__(self, seed: int, item_B: Tensor) -> None:
        self.seed, self.item_B, self.step = seed, item_B, 0

    def __call__(self, input_ids: Tensor, scores_BV: Tensor) -> Tensor:
        """Scores with noise added."""
        token_V = torch.arange(scores_BV.shape[1], dtype=torch.int64, device=scores_BV.device)
        bits_BV = random.hash_torch(self.seed, _TOKEN, self.item_B[:, None], self.step, token_V[None], device=scores_BV.device)
        # Half a step off zero: the logarithm must be finite.
        uniform_BV = random.uniform_torch(bits_BV) + 2.0**-25
        self.step += 1
        return scores_BV.float() - torch.log(-torch.log(uniform_BV))
