"""Fast paths of language models compute what they replace."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.helpers.tiny_llm import write_tiny_llm
from trainer.data.random import hash_torch
from trainer.models.dropout import DropoutKeys
from trainer.models.language import kernels
from trainer.models.language.adapter import drop_by_item
from trainer.models.language.base import BaseConfig, load_base
from trainer.models.language.prompt import Prompt
from trainer.models.language.rows import TextRows, build_rows


def tiny_llm(folder: Path, architecture: str = "llama", **changes: Any) -> Any:
    llm = load_base(BaseConfig(name=str(write_tiny_llm(folder / architecture, architecture)), dtype="fp32"), "cpu", training=True)
    for name, value in changes.items():
        setattr(llm.config, name, value)
    return llm


def packed_rows(pack_length: int | None = 48) -> TextRows:
    prompts = [Prompt(list(range(3, 3 + n)), [7, 8], "") for n in (3, 9, 5, 2, 11, 6)]
    targets = [[n, n + 1, n + 2, 1] for n in (10, 20, 30, 40, 50, 60)]
    return build_rows(prompts, targets, 0, pack_length=pack_length)


def assert_same(found: tuple[torch.Tensor, ...], expected: tuple[torch.Tensor, ...], tolerance: float = 1e-5) -> None:
    for mine, other in zip(found, expected, strict=True):
        assert (mine - other).norm() <= tolerance * other.norm()


def hidden_and_gradient(llm: Any, rows: TextRows, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    embeds = llm.get_input_embeddings()(rows.ids_ML).detach().requires_grad_(True)
    hidden = llm.get_decoder()(inputs_embeds=embeds, position_ids=rows.position_ML, use_cache=False, **options).last_hidden_state
    used = hidden.flatten(0, 1)[rows.target_T]
    weight = torch.randn(used.shape, generator=torch.Generator().manual_seed(3))
    (gradient,) = torch.autograd.grad((used * weight).sum(), embeds)
    return used.detach(), gradient


@pytest.mark.parametrize("architecture", ["llama", "mistral", "qwen2", "smollm2"])
def test_packed_attention_is_transformers_own(tmp_path: Path, architecture: str) -> None:
    llm, rows = tiny_llm(tmp_path, architecture), packed_rows()
    expected = hidden_and_gradient(llm, rows)
    assert kernels.use_packed_attention(llm)
    found = hidden_and_gradient(llm, rows, **kernels.packing(rows.position_ML))
    assert_same(found, expected)
    without = hidden_and_gradient(llm, rows)  # forgotten arguments are slow, not wrong
    assert_same(without, expected)


def test_packed_attention_within_a_sliding_window() -> None:
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    sizes = {"vocab_size": 100, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    llm = MistralForCausalLM(MistralConfig(**sizes, num_key_value_heads=2, sliding_window=4))
    rows = packed_rows()
    expected = hidden_and_gradient(llm, rows)
    assert kernels.use_packed_attention(llm)
    assert_same(hidden_and_gradient(llm, rows, **kernels.packing(rows.position_ML)), expected)


def test_rows_of_one_sequence_need_no_packing_and_score_caps_keep_their_attention(tmp_path: Path) -> None:
    assert kernels.packing(packed_rows(None).position_ML) == {}
    packing = kernels.packing(packed_rows().position_ML)
    ends = packing["cu_seq_lens_q"].tolist()
    assert (ends[0], ends[-1]) == (0, packed_rows().ids_ML.numel())
    assert packing["max_length_q"] == 48
    assert not kernels.use_packed_attention(tiny_llm(tmp_path, "gemma2"))


def test_generation_with_packed_attention_is_the_same(tmp_path: Path) -> None:
    llm = tiny_llm(tmp_path).eval()
    inputs = {"inputs_embeds": torch.randn(2, 7, 64), "attention_mask": torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1] * 7])}
    options = {"max_new_tokens": 6, "do_sample": False, "use_cache": True, "pad_token_id": 0}
    expected = llm.generate(**inputs, **options)
    assert kernels.use_packed_attention(llm)
    assert torch.equal(llm.generate(**inputs, **options), expected)


def lora(llm: nn.Module, dropout: float, **changes: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    config = LoraConfig(r=4, lora_alpha=8, lora_dropout=dropout, target_modules="all-linear", init_lora_weights=False, **changes)
    return get_peft_model(llm, config, autocast_adapter_dtype=False)


def loss_and_gradients(model: Any, rows: TextRows, autocast: bool) -> dict[str, torch.Tensor]:
    torch.manual_seed(2)
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        embeds = model.get_input_embeddings()(rows.ids_ML).detach().requires_grad_(True)
        logits = model(inputs_embeds=embeds, position_ids=rows.position_ML, use_cache=False).logits
    loss = F.cross_entropy(logits.float().flatten(0, 1)[rows.target_T], rows.label_T)
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), "input": embeds.grad, **gradients}


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_fused_lora_is_pefts(tmp_path: Path, dropout: float) -> None:
    model, rows = lora(tiny_llm(tmp_path, "qwen2"), dropout), packed_rows()
    model.train()
    drop_by_item(model)
    DropoutKeys(model.named_modules()).set(hash_torch(torch.arange(rows.ids_ML.numel())))
    expected, in_bf16 = (loss_and_gradients(model, rows, autocast) for autocast in (False, True))
    assert kernels.fuse_lora(model) == 2 * 7
    found = loss_and_gradients(model, rows, False)
    assert expected.keys() == found.keys()
    assert len(found) == 2 + 2 * 2 * 7
    for name, value in expected.items():
        assert (found[name] - value).norm() <= 1e-5 * value.norm(), name
    if not dropout:
        assert_no_less_exact(loss_and_gradients(model, rows, True), in_bf16, expected)


def assert_no_less_exact(found: dict[str, torch.Tensor], other: dict[str, torch.Tensor], truth: dict[str, torch.Tensor]) -> None:
    """In all gradients together; a single one's rounding errors are chance."""

    def error(values: dict[str, torch.Tensor]) -> float:
        assert values.keys() == truth.keys()
        return sum(float((values[name].float() - value).norm() / value.norm()) for name, value in truth.items())

    assert error(found) <= 1.1 * error(other)


def test_fused_lora_merges_and_is_switched_off_like_pefts(tmp_path: Path) -> None:
    model, rows = lora(tiny_llm(tmp_path), 0.0).eval(), packed_rows()

    def logits(model: Any) -> torch.Tensor:
        return model(input_ids=rows.ids_ML, use_cache=False).logits

    expected = logits(model)
    with model.disable_adapter():
        plain = logits(model)
    kernels.fuse_lora(model)
    torch.testing.assert_close(logits(model), expected)
    with model.disable_adapter():
        assert torch.equal(logits(model), plain)
    torch.testing.assert_close(logits(copy.deepcopy(model).merge_and_unload()), expected, atol=1e-4, rtol=1e-4)


def test_fused_lora_leaves_dora_alone(tmp_path: Path) -> None:
    model, rows = lora(tiny_llm(tmp_path), 0.0, use_dora=True), packed_rows()
    expected = loss_and_gradients(model, rows, False)
    kernels.fuse_lora(model)
    torch.testing.assert_close(loss_and_gradients(model, rows, False), expected)


@pytest.mark.parametrize("quantisation", ["4bit", "8bit"])
def test_fused_lora_over_quantised_layers(tmp_path: Path, quantisation: str) -> None:
    pytest.importorskip("bitsandbytes")
    folder = write_tiny_llm(tmp_path / "llm")
    llm = load_base(BaseConfig(name=str(folder), dtype="bf16", quantisation=quantisation), "cpu", training=True)  # type: ignore[arg-type]
    model, rows = lora(llm, 0.0), packed_rows()
    expected = loss_and_gradients(model, rows, True)
    assert kernels.fuse_lora(model) == 2 * 7
    found = loss_and_gradients(model, rows, True)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert (found[name].float() - value.float()).norm() <= 0.1 * value.float().norm(), name  # bf16's own noise in so small a model


@pytest.mark.long
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma2"])
def test_fused_norms_are_transformers_own(tmp_path: Path, architecture: str) -> None:
    llm, rows = tiny_llm(tmp_path, architecture), packed_rows()
    for norm in (module for module in llm.modules() if type(module).__name__.endswith("RMSNorm")):
        norm.weight.data.uniform_(0.5, 1.5)
    expected = hidden_and_gradient(llm, rows)
    assert kernels.fuse_norms(llm) == (0 if architecture == "gemma2" else 5)  # Gemma's weight is an offset from 1
    assert_same(hidden_and_gradient(llm, rows), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = llm.bfloat16().get_decoder().norm(torch.randn(2, 3, 64).bfloat16())
    assert out.dtype == torch.bfloat16


def test_supervised_loss_is_cross_entropy() -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(11, 16, requires_grad=True), torch.randn(50, 16)
    label, upstream = torch.randint(50, (11,)), torch.rand(11)
    expected = F.cross_entropy(hidden @ weight.t(), label, reduction="none")
    (expected_gradient,) = torch.autograd.grad(expected, hidden, upstream)
    loss, right = kernels.supervised_loss(hidden, weight, label, block_values=150)
    (gradient,) = torch.autograd.grad(loss, hidden, upstream)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, expected_gradient)
    assert torch.equal(right, (hidden @ weight.t()).argmax(dim=1) == label)
    with torch.no_grad():
        torch.testing.assert_close(kernels.supervised_loss(hidden, weight, label)[0], expected)
