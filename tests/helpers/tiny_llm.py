"""Tiny random language models of several architectures, with a tokenizer made here: no hub, no download, half a second."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from trainer.models.language.quiet import quiet

ARCHITECTURES = ("llama", "mistral", "qwen2", "gemma2", "deepseek", "smollm2")
WORDS = (
    "a an the of on in at large small medium-sized red green blue yellow striped dotted checked star disc square ring brick wall sand snow "
    "top bottom left right describe one sentence what person sees it may be caption stimulus number first second concept"
)
CHAT_TEMPLATE = (
    "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


def write_tiny_llm(
    folder: Path,
    architecture: str = "llama",
    *,
    hidden: int = 64,
    layers: int = 2,
    texts: Sequence[str] = (),
    chat: bool = False,
    pad: bool = True,
    context: int = 256,
    seed: int = 0,
) -> Path:
    """Write config, weights and tokenizer in the format of transformers; deterministic by ``seed``."""
    tokenizer = _tokenizer(texts, chat, pad)
    tokenizer.save_pretrained(str(folder))
    sizes: dict[str, Any] = {
        "vocab_size": len(tokenizer), "hidden_size": hidden, "intermediate_size": 2 * hidden, "num_hidden_layers": layers,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": context, "head_dim": hidden // 4,
        "bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    torch.manual_seed(seed)
    with quiet():
        _model(architecture, sizes).save_pretrained(str(folder))
    return folder


def _model(architecture: str, sizes: dict[str, Any]) -> Any:
    import transformers as t

    if architecture in ("llama", "deepseek"):
        return t.LlamaForCausalLM(t.LlamaConfig(**sizes, tie_word_embeddings=False))
    if architecture == "smollm2":
        return t.LlamaForCausalLM(t.LlamaConfig(**sizes, tie_word_embeddings=True))
    if architecture == "mistral":
        return t.MistralForCausalLM(t.MistralConfig(**sizes, sliding_window=None))
    if architecture == "qwen2":
        return t.Qwen2ForCausalLM(t.Qwen2Config(**{k: v for k, v in sizes.items() if k != "head_dim"}))
    assert architecture == "gemma2", architecture
    return t.Gemma2ForCausalLM(t.Gemma2Config(**sizes, query_pre_attn_scalar=sizes["head_dim"]))


def _tokenizer(texts: Sequence[str], chat: bool, pad: bool) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = ["<|start|>", "<|end|>", *(["<|pad|>"] if pad else [])]
    trainer = trainers.BpeTrainer(
        vocab_size=384, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    raw.train_from_iterator([WORDS, *texts], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|end|>", pad_token="<|pad|>" if pad else None)
    if chat:
        tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
