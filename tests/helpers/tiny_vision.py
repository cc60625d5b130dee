"""Folders of tiny vision and language models with random weights, as their libraries save them: tests reach no hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SIDE = 32
_TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2}
WORDS = ("a", "photo", "of", "an", "the", "red", "blue", "sky", "zebra", "aardvark", "dog", "cat", "runs", "sleeps", "picture")


def dinov2(folder: Path, *, registers: int = 0) -> Path:
    """DINOv2 (with registers), patches of 8, images of 32."""
    import torch
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    torch.manual_seed(0)
    fields: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "mlp_ratio": 2,
        "image_size": SIDE,
        "patch_size": 8,
    }
    if registers:
        model: Any = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**fields, num_register_tokens=registers))
    else:
        model = Dinov2Model(Dinov2Config(**fields))
    model.save_pretrained(folder)
    size, crop = {"shortest_edge": 36}, {"height": SIDE, "width": SIDE}
    BitImageProcessor(size=size, crop_size=crop, do_convert_rgb=True).save_pretrained(folder)
    return folder


def clip(folder: Path) -> Path:
    """CLIP with both towers and a tokenizer of words."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    torch.manual_seed(0)
    vision = {**_TOWER, "image_size": SIDE, "patch_size": 8, "projection_dim": 16}
    text = {
        **_TOWER,
        "vocab_size": 64,
        "max_position_embeddings": 16,
        "projection_dim": 16,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "pad_token_id": 0,
    }
    CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=16)).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    tokenizer(folder)
    return folder


def siglip(folder: Path, *, layers: int = 3) -> Path:
    """SigLIP with both towers and a tokenizer of words."""
    import torch
    from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel

    torch.manual_seed(0)
    vision = {**_TOWER, "num_hidden_layers": layers, "image_size": SIDE, "patch_size": 8}
    text = {**_TOWER, "vocab_size": 64, "max_position_embeddings": 16, "projection_size": 32}
    SiglipModel(SiglipConfig(vision_config=vision, text_config=text)).save_pretrained(folder)
    SiglipImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    tokenizer(folder)
    return folder


def blip(folder: Path) -> Path:
    """BLIP that captions images, with a tokenizer of words."""
    import torch
    from transformers import BlipConfig, BlipForConditionalGeneration, BlipImageProcessor

    torch.manual_seed(0)
    vision = {**_TOWER, "image_size": SIDE, "patch_size": 8}
    text = {
        **_TOWER, "encoder_hidden_size": 32, "vocab_size": len(WORDS) + 5, "max_position_embeddings": 64,
        "bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0,
    }  # fmt: skip
    BlipForConditionalGeneration(BlipConfig(vision_config=vision, text_config=text)).save_pretrained(folder)
    BlipImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    tokenizer(folder)
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": "BlipProcessor"}))
    return folder


def git(folder: Path) -> Path:
    """GIT that captions images, with a tokenizer of words."""
    import torch
    from transformers import CLIPImageProcessor, GitConfig, GitForCausalLM

    torch.manual_seed(0)
    vision = {**_TOWER, "image_size": SIDE, "patch_size": 8}
    settings = GitConfig(
        vision_config=vision, **_TOWER, vocab_size=len(WORDS) + 5, max_position_embeddings=64,
        bos_token_id=2, eos_token_id=3, pad_token_id=0,
    )  # fmt: skip
    GitForCausalLM(settings).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    tokenizer(folder)
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": "GitProcessor"}))
    return folder


def tokenizer(folder: Path) -> None:
    """A tokenizer that knows :data:`WORDS`."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = {word: number for number, word in enumerate(("[PAD]", "[UNK]", "[BOS]", "[EOS]", "[MASK]", *WORDS))}
    core = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(single="[BOS] $A [EOS]", special_tokens=[("[BOS]", 2), ("[EOS]", 3)])
    whole = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]", bos_token="[BOS]", eos_token="[EOS]")
    whole.model_max_length = 16
    whole.save_pretrained(folder)


def timm_folder(folder: Path, model: str = "vit_tiny_patch16_224", **fields: Any) -> Path:
    """A model of timm as its hub folders are: ``config.json`` and ``model.safetensors``."""
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    made = timm.create_model(model, pretrained=False, **fields)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in made.state_dict().items()}, folder / "model.safetensors")
    settings = {
        "architecture": model,
        "num_classes": made.num_classes,
        "model_args": fields,
        "pretrained_cfg": {"input_size": [3, SIDE, SIDE]},
    }
    (folder / "config.json").write_text(json.dumps(settings))
    return folder
