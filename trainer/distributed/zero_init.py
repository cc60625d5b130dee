"""Large models under ZeRO 3: built in parts, so that no rank ever holds the whole."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch


@contextlib.contextmanager
def partitioned(deepspeed_config: dict[str, Any], dtype: torch.dtype | None) -> Iterator[None]:
    """Context in which ``from_pretrained`` of transformers builds a model in parts, one a rank, with weights of ``dtype``.

    Without a dtype (another stage, a quantised base) it does nothing. transformers keeps only a weak reference to the settings,
    hence a context.
    """
    if dtype is None:
        yield
        return
    from transformers.integrations import HfDeepSpeedConfig, unset_hf_deepspeed_config

    # The engine's own config names no 16-bit section (see deepspeed_config.py), by which parameters would be made in float32.
    half = {torch.bfloat16: {"bf16": {"enabled": True}}, torch.float16: {"fp16": {"enabled": True}}}.get(dtype, {})
    settings = HfDeepSpeedConfig({**deepspeed_config, **half})
    try:
        yield
    finally:
        del settings
        unset_hf_deepspeed_config()


@contextlib.contextmanager
def gathered(parameters: Sequence[torch.Tensor]) -> Iterator[None]:
    """Context in which parameters that ZeRO 3 has cut up are whole, on all ranks, to be read."""
    if not any(hasattr(parameter, "ds_id") for parameter in parameters):
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(parameters)):
        yield
