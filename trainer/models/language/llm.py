"""What is asked of a causal language model of transformers, with an adapter on it or without."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


def plain_llm(llm: Any) -> Any:
    """The model of transformers inside a ``PeftModel``, adapter layers included, or ``llm`` itself."""
    return llm.get_base_model() if hasattr(llm, "get_base_model") else llm


def context_length(llm: Any) -> int:
    """Longest sequence that a model, or one with the settings of :func:`read_settings`, was made for."""
    return int(getattr(settings_of(llm).get_text_config(), "max_position_embeddings", 2048))


def hidden_size(llm: Any) -> int:
    """Width of its token embeddings."""
    return int(plain_llm(llm).config.get_text_config().hidden_size)


def embed_tokens(llm: Any, ids: Tensor) -> Tensor:
    """Embeddings of token ids as the decoder reads them, ids' shape + (H,).

    Through the embedding module, never through its weight: Gemma's multiplies by sqrt(H) inside the module, and its decoder takes
    ``inputs_embeds`` as they are. What stands beside token embeddings, such as prefix tokens, is therefore made at this scale.
    """
    embeds: Tensor = plain_llm(llm).get_input_embeddings()(ids)
    return embeds


def embedding_rms(llm: Any) -> float:
    """Root mean square of the token embeddings: the scale that prefix tokens are given."""
    table = plain_llm(llm).get_input_embeddings()
    with torch.no_grad(), _gathered(table.weight):
        size = table.weight.shape[0]
        found = embed_tokens(llm, torch.arange(0, size, max(1, size // 2048), device=table.weight.device))
        return float(found.float().square().mean().sqrt())


def settings_of(llm: Any) -> Any:
    """Its config of transformers; settings without a model are their own."""
    return getattr(plain_llm(llm), "config", llm)


@contextlib.contextmanager
def _gathered(parameter: Tensor) -> Iterator[None]:
    """The whole parameter where ZeRO 3 has cut it up."""
    if not hasattr(parameter, "ds_id"):
        yield
        return
    from trainer.distributed.zero_init import gathered

    with gathered([parameter]):
        yield
