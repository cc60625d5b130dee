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
_LOW_63_BITS = (1 << 63) - 1


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
    """Above 1 makes tokens of the caption that were said already less likely (not those of the prompt)."""

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
        """Keyword arguments for ``generate`` of transformers; for a model without settings of its own (:func:`drop_habits`)."""
        from transformers import (
            LogitsProcessorList,
            RepetitionPenaltyLogitsProcessor,
            TemperatureLogitsWarper,
            TopKLogitsWarper,
            TopPLogitsWarper,
        )

        # Not the option of that name: transformers then excepts as many new tokens as an item's prompt has padding, that is,
        # texts would depend on the batch.
        chosen: list[Any] = [RepetitionPenaltyLogitsProcessor(float(self.repetition_penalty))] if self.repetition_penalty != 1 else []
        if self.method == "sample":
            chosen += [TemperatureLogitsWarper(float(self.temperature))] if self.temperature != 1 else []
            chosen += [TopKLogitsWarper(self.top_k)] if self.top_k else []
            chosen += [TopPLogitsWarper(self.top_p)] if self.top_p < 1 else []
            chosen += [GumbelNoise(seed, torch.tensor(list(items), dtype=torch.int64, device=device))]
        return {
            "max_new_tokens": self.max_new_tokens,
            "do_sample": False,
            "num_beams": self.beams if self.method == "beam" else 1,
            "logits_processor": LogitsProcessorList(chosen),
        }


def drop_habits(llm: Any) -> None:
    """Take from a model of transformers the decoding settings that its checkpoint brought: all arms and bases decode alike.

    For good, since they would fill in whatever a call to ``generate`` leaves out, even if it names another config.
    """
    from transformers import GenerationConfig

    llm.generation_config = GenerationConfig()


class GumbelNoise:
    """Makes the likeliest token a draw from the distribution (Gumbel-max), by a hash of (seed, item, step, token)."""

    def __init__(self, seed: int, item_B: Tensor) -> None:
        self.seed, self.item_B, self.step = seed, item_B, 0

    def __call__(self, input_ids: Tensor, scores_BV: Tensor) -> Tensor:
        """Scores with noise added."""
        token_V = torch.arange(scores_BV.shape[1], dtype=torch.int64, device=scores_BV.device)
        bits_BV = random.hash_torch(self.seed, _TOKEN, self.item_B[:, None], self.step, token_V[None], device=scores_BV.device)
        self.step += 1
        return scores_BV.float() + _gumbel(bits_BV)


def _gumbel(bits: Tensor) -> Tensor:
    """Standard Gumbel numbers, finite, from a hash."""
    # 63 bits: a float32 near 0 tells them apart, and it is what is near 0 that becomes the tail which decides between unlikely
    # tokens. Of a vocabulary's noise over many steps every extreme value occurs, so both ends must be finite.
    uniform = ((bits & _LOW_63_BITS).float() * 2.0**-63).clamp_(2.0**-63, 1 - 2.0**-24)
    return -torch.log(-torch.log1p(-uniform))
