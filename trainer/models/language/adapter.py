"""What is trained inside the base: an adapter of PEFT, and the count of what is trainable.

peft is imported where it is used: what trains without a language model runs without it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import nn

from data_prep.contract.cli import first_sentence
from data_prep.contract.errors import CommandError
from data_prep.contract.files import read_json
from data_prep.contract.words import short
from trainer.models.dropout import Dropout
from trainer.models.language import kernels
from trainer.models.language.quiet import quiet

_OURS = {
    *("r", "lora_alpha", "lora_dropout", "target_modules", "use_dora", "task_type"),
    *("peft_type", "peft_version", "base_model_name_or_path", "revision", "inference_mode"),
}
"""Fields of an adapter's config that our trainings set."""


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
            raise CommandError(f"adapter.targets: {', '.join(config.targets)}: {first_sentence(error)}") from error
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "lora_" in name and not hasattr(parameter, "ds_id"):
            parameter.data = parameter.data.float()
    drop_by_item(model)
    if config.kind == "lora":
        kernels.fuse_lora(model)
    return model


def drop_by_item(model: nn.Module) -> None:
    """Give PEFT's layers a dropout that knows keys, in place."""
    from peft.tuners.lora import LoraLayer

    for layer in [module for module in model.modules() if isinstance(module, LoraLayer)]:
        for name, dropout in layer.lora_dropout.items():
            if type(dropout) is nn.Dropout:
                layer.lora_dropout[name] = Dropout(dropout.p).train(dropout.training)


def check_adapter_config(file: Path) -> None:
    """Refuse an ``adapter_config.json`` that says more than :func:`add_adapter` does: some of PEFT's fields name modules that it imports,
    or further adapters that it loads.

    Raises
    ------
    CommandError
        The file, the field and its value.
    """
    from peft import LoraConfig

    plain = read_json(file)
    if not isinstance(plain, dict) or plain.get("peft_type") != "LORA":
        raise CommandError(f"{file}: {short(plain)}, expected the config of a LoRA adapter")
    usual = LoraConfig().to_dict()
    for name in sorted(plain.keys() - _OURS):
        if plain[name] != usual.get(name) and plain[name] is not None:
            found, expected = short(plain[name]), short(usual.get(name))
            raise CommandError(f"{file}: {short(name)} is {found}, expected {expected}: nothing of ours writes it")


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
