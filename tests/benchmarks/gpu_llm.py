"""An 8B-shaped language model made on the device, packed rows to tune it on, and what a step costs in FLOPs and memory."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from trainer.models.language.prompt import Prompt
from trainer.models.language.quiet import quiet
from trainer.models.language.rows import TextRows, build_rows, first_fit

PEAK_FLOPS = {
    "H200": 989e12, "H100 NVL": 835e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "RTX 4090": 165e12,
}  # fmt: skip
"""Dense bf16 FLOP/s by card, from data sheets; the first name that occurs in the card's is taken."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of a Llama and of what it is fed."""

    name: str
    vocab: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    pack_length: int = 2048
    before: int = 24
    """Prompt tokens before the prefix,"""
    after: int = 20
    """and after it."""
    caption: tuple[int, int] = (12, 28)
    """Caption tokens, from and to."""

    @property
    def mean_length(self) -> float:
        """Tokens of a sequence with 4 prefix tokens."""
        return self.before + 4 + self.after + sum(self.caption) / 2 - 1


SHAPES = {
    "8b": Shape(name="Llama-3-8B", vocab=128256, hidden=4096, intermediate=14336, layers=32, heads=32, kv_heads=8),
    "1b": Shape(name="Llama-3.2-1B", vocab=128256, hidden=2048, intermediate=8192, layers=16, heads=32, kv_heads=8),
    "tiny": Shape(
        name="tiny Llama", vocab=512, hidden=64, intermediate=128, layers=2, heads=4, kv_heads=2, pack_length=256, before=6, after=5
    ),
}


# ---------------------------------------------------------------------------------------------------------------- model


def make_base(shape: Shape, device: torch.device, *, four_bit: bool) -> Any:
    """A Llama of random bf16 weights made on the device; with ``four_bit`` each linear layer is quantised (NF4) and its bf16 freed."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=max(shape.pack_length, 2048),
        tie_word_embeddings=False,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device), quiet():
            llm = LlamaForCausalLM._from_config(config, attn_implementation="sdpa")
    finally:
        torch.set_default_dtype(before)
    assert all(p.dtype == torch.bfloat16 and p.device.type == device.type for p in llm.parameters())
    if four_bit:
        quantise(llm.get_decoder())
        llm.is_loaded_in_4bit = True  # by which PEFT chooses its layers
    return llm


def quantise(decoder: nn.Module) -> None:
    """Linear layers to bitsandbytes' 4-bit ones (NF4, double quantisation), one after the other, on their device."""
    import bitsandbytes as bnb

    for parent in list(decoder.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                layer = bnb.nn.Linear4bit(
                    child.in_features, child.out_features, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4", device="meta"
                )
                weight = bnb.nn.Params4bit(child.weight.data, requires_grad=False, compress_statistics=True, quant_type="nf4", module=layer)
                layer.weight = weight.to(child.weight.device)
                setattr(parent, name, layer)


def matrix_parameters(shape: Shape) -> tuple[int, int, int]:
    """Parameters of the decoder's layers, of the head, and of the table of token embeddings (a look-up: no arithmetic)."""
    head_dim = shape.hidden // shape.heads
    attention = 2 * shape.hidden * shape.hidden + 2 * shape.hidden * shape.kv_heads * head_dim
    layer = attention + 3 * shape.hidden * shape.intermediate + 2 * shape.hidden
    return shape.layers * layer + shape.hidden, shape.vocab * shape.hidden, shape.vocab * shape.hidden


def flops(shape: Shape, tokens: float, supervised: float | None = None) -> float:
    """Model FLOPs of tokens: 4 a parameter and token, forward and backward without gradients of frozen weights.

    The table of token embeddings is not counted, nor are attention's products and the adapter. With ``supervised`` the head counts
    at so many tokens only: those at which a trainer that needs no other logits computes it.
    """
    layers, head, _ = matrix_parameters(shape)
    return 4.0 * (layers * tokens + head * (tokens if supervised is None else supervised))


def peak_flops(device: torch.device) -> tuple[float, str]:
    """Dense bf16 FLOP/s of the device and where the number is from; measured by large products where the card is not in the table."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for known, peak in PEAK_FLOPS.items():
            if known.lower() in name.lower():
                return peak, f"data sheet of {known}"
    return matmul_flops(device), "measured by a large matrix product"


def matmul_flops(device: torch.device) -> float:
    """FLOP/s of a large bf16 matrix product of random values: the best of some."""
    size = 8192 if device.type == "cuda" else 256
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    best = float("inf")
    for _ in range(12):
        started = now(device)
        a @ b
        best = min(best, now(device) - started)
    return 2.0 * size**3 / best


def now(device: torch.device) -> float:
    """Seconds, when the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


# ----------------------------------------------------------------------------------------------------------------- rows


@dataclass(frozen=True, kw_only=True)
class Items:
    """Random prompts and captions that fill exactly so many packed rows."""

    prompts: list[Prompt]
    targets: list[list[int]]
    rows: int
    shape: Shape
    fault: str = ""
    """As a loader's batch has it: nothing is wrong with made-up items."""

    @property
    def num_tokens(self) -> int:
        """Tokens that are read, padding not counted."""
        return sum(len(p.before) + 4 + len(p.after) + len(t) - 1 for p, t in zip(self.prompts, self.targets, strict=True))

    @property
    def num_supervised(self) -> int:
        """Tokens that are predicted."""
        return sum(map(len, self.targets))

    def build(self) -> TextRows:
        """As rows of tokens, in host memory."""
        return build_rows(self.prompts, self.targets, 4, pack_length=self.shape.pack_length)


def make_items(shape: Shape, rows: int, seed: int) -> Items:
    """As many random items as fit into ``rows`` packed rows."""
    random = np.random.default_rng(seed)
    count = int(rows * shape.pack_length / shape.mean_length * 1.02) + 1
    lengths = random.integers(shape.caption[0], shape.caption[1] + 1, count)
    ids = random.integers(3, shape.vocab, (count, shape.before + shape.after + shape.caption[1])).tolist()
    overhead = shape.before + 4 + shape.after - 1
    while first_fit((lengths[:count] + overhead).tolist(), shape.pack_length)[1] > rows:
        count -= 1
    prompts = [Prompt(line[: shape.before], line[shape.before : shape.before + shape.after], "") for line in ids[:count]]
    targets = [line[shape.before + shape.after :][:length] for line, length in zip(ids, lengths[:count].tolist(), strict=False)]
    return Items(prompts=prompts, targets=targets[:count], rows=rows, shape=shape)


# --------------------------------------------------------------------------------------------------------------- memory


class Used(Protocol):
    """What is known of a micro-batch that ran."""

    @property
    def memory_bytes(self) -> int:
        """At the peak."""
        ...

    @property
    def retried(self) -> bool:
        """The allocator had to give cached memory back: too full to be fast."""
        ...


def largest_rows(measure: Callable[[int], Used | None], capacity_bytes: float, limit: int) -> int:
    """The largest micro-batch that fits, at most ``limit`` rows.

    One and two rows tell what a row costs; then from the number that this predicts downwards, until one fits.

    Parameters
    ----------
    measure
        Runs some steps; None where memory did not suffice.
    """
    one = measure(1)
    if one is None:
        raise RuntimeError("a single row does not fit into the device's memory")
    two = measure(2) if limit > 1 else None
    if two is None:
        return 1
    row = max(two.memory_bytes - one.memory_bytes, 1)
    rows = min(limit, max(2, int((0.97 * capacity_bytes - one.memory_bytes) / row) + 1))
    while rows > 2:
        found = measure(rows)
        if found is not None and not found.retried:
            return rows
        rows = min(rows - 1, int(rows * 0.94))
    return 2


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device's memory did not suffice."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or "out of memory" in str(error).lower()


def capacity(device: torch.device) -> float:
    """Bytes of memory that this process can have."""
    if device.type != "cuda":
        return 0.0
    available, _ = torch.cuda.mem_get_info(device)
    return available + torch.cuda.memory_reserved(device)


def reset_memory(device: torch.device) -> None:
    """Begin a new peak."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int:
    """Bytes at the peak since :func:`reset_memory`."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def allocation_retries(device: torch.device) -> int:
    """How often the allocator had to give cached memory back."""
    return int(torch.cuda.memory_stats(device).get("num_alloc_retries", 0)) if device.type == "cuda" else 0


def free(device: torch.device) -> None:
    """Give back what nothing refers to any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
