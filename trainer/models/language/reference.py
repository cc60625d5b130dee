"""Which base an adapter belongs to: its name, its shape, and a fingerprint of its weights."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from data_prep.contract.errors import CommandError
from data_prep.contract.files import read_json
from trainer.models.language.base import BaseConfig, read_settings, resolve_base
from trainer.models.language.llm import plain_llm, settings_of
from trainer.models.language.quiet import quiet

_SAMPLED_VALUES = 64
_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True, kw_only=True)
class BaseReference:
    """What says which base an adapter belongs to."""

    name: str
    """Folder, or name on the hub."""
    revision: str | None = None
    architecture: str
    hidden_size: int
    num_layers: int
    vocab_size: int
    fingerprint: str | None = None
    """Of its weights as they lie on disk; None where they are no local safetensors."""

    def __str__(self) -> str:
        return self.fingerprint or f"{self.name}@{self.revision}"


def base_reference(config: BaseConfig, llm: Any) -> BaseReference:
    """What says which base an adapter belongs to: name, shape, and a fingerprint of its weights as they lie on disk.

    The fingerprint hashes the names and shapes of the files' tensors and a few values of each; it is null where the weights are no
    local safetensors. ``llm`` is the model, or its settings (:func:`read_settings`).
    """
    settings = settings_of(llm)
    text = settings.get_text_config()
    return BaseReference(
        name=config.name,
        revision=config.revision,
        architecture=(getattr(settings, "architectures", None) or [type(plain_llm(llm)).__name__])[0],
        hidden_size=int(text.hidden_size),
        num_layers=int(text.num_hidden_layers),
        vocab_size=int(text.vocab_size),
        fingerprint=weights_fingerprint(config),
    )


def count_parameters(config: BaseConfig) -> int:
    """Weights of the base, from its settings alone."""
    from transformers import AutoModelForCausalLM

    with quiet(), torch.device("meta"):
        return int(AutoModelForCausalLM.from_config(read_settings(config)).num_parameters())


def check_base(reference: BaseReference, found: BaseReference, where: str) -> None:
    """Refuse another base than the one that an adapter was trained on.

    Raises
    ------
    CommandError
        One sentence with the first fact that differs.
    """
    # Without a fingerprint on both sides a name is all there is to tell them by.
    known = reference.fingerprint and found.fingerprint
    for fact in ("architecture", "hidden_size", "num_layers", "vocab_size", "fingerprint" if known else "name"):
        was, now = getattr(reference, fact), getattr(found, fact)
        if was != now:
            raise CommandError(
                f"{where}: an adapter of another base model: {fact} was {str(was)[:16]} ({reference.name}), that of {found.name} is "
                f"{str(now)[:16]}"
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
