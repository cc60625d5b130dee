"""Which base an adapter belongs to: its name, its shape, and a fingerprint of its weights."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from data_prep.contract.errors import CommandError
from data_prep.contract.files import read_json
from trainer.models.language.base import BaseConfig, read_settings, resolve_base
from trainer.models.language.llm import plain_llm, settings_of
from trainer.models.language.quiet import quiet

_SAMPLED_BYTES = 64
_SAMPLED_BLOCKS, _BLOCK_BYTES = 256, 4096
_FORMATS = (("model.safetensors", "model.safetensors.index.json"), ("pytorch_model.bin", "pytorch_model.bin.index.json"))
"""Of the weights, as transformers looks for them: one file, or the index of several."""


class Digest(Protocol):
    """A hash under way."""

    def update(self, data: bytes, /) -> None: ...


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
    """Of its weights as they lie on disk; None where they were not in reach."""

    def __str__(self) -> str:
        return self.fingerprint or f"{self.name}@{self.revision}"


def base_reference(config: BaseConfig, llm: Any) -> BaseReference:
    """What says which base an adapter belongs to: name, shape, and a fingerprint of its weights as they lie on disk.

    The fingerprint hashes what tells weights apart: of safetensors names, shapes and a few values of each tensor, of torch's files the
    checksums that lie in them. It is null where the weights are not in reach. ``llm`` is the model, or its settings
    (:func:`read_settings`).
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
    """SHA-256 over names, shapes and sampled bytes of the base's weights, fetched from the hub where they are not here.

    None where a base of the hub is not in reach: what is wrong, if anything, is said when it is loaded.

    Raises
    ------
    CommandError
        A folder without weights by which it could be told from another of its name.
    """
    folder = Path(resolve_base(config))
    if folder.is_dir():
        files = _weight_files(folder, _FORMATS)
        if not files:
            wanted = ", ".join(single for single, _ in _FORMATS)
            raise CommandError(f"base.name: {folder} holds no whole weights, expected {wanted}, or an index and all the files it names")
    else:
        files = _fetched(config)
    if not files:
        return None
    digest = hashlib.sha256()
    for file in files:
        if file.suffix == ".safetensors":
            _add_safetensors(file, digest)
        elif zipfile.is_zipfile(file):
            _add_torch_zip(file, digest)
        else:
            _add_sampled(file, digest)
    return digest.hexdigest()


def _add_safetensors(file: Path, digest: Digest) -> None:
    with file.open("rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        if not 0 < length <= min(file.stat().st_size, 1 << 28):
            raise CommandError(f"{file}: not a safetensors file")
        header = json.loads(handle.read(length))
        for name in sorted(header.keys() - {"__metadata__"}):
            begin, end = header[name]["data_offsets"]
            handle.seek(8 + length + begin + (end - begin) // 2)
            digest.update(f"{name}{header[name]['shape']}".encode())
            digest.update(handle.read(min(_SAMPLED_BYTES, end - begin - (end - begin) // 2)))


def _add_torch_zip(file: Path, digest: Digest) -> None:
    """torch's own format: names, sizes and checksums of its members, and what says which tensor lies in which; nothing is unpickled."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = {info.filename.partition("/")[2]: info for info in archive.infolist()}  # the first folder is the file's old name
            for name in sorted(members):
                digest.update(f"{name} {members[name].file_size} {members[name].CRC}".encode())
    except (zipfile.BadZipFile, ValueError, OSError) as error:
        raise CommandError(f"{file}: not whole weights of torch ({error})") from error


def _add_sampled(file: Path, digest: Digest) -> None:
    """torch's format of before 2020 has no checksums: bytes from all over the file."""
    size = file.stat().st_size
    digest.update(str(size).encode())
    with file.open("rb") as handle:
        for part in range(_SAMPLED_BLOCKS + 1):
            handle.seek(max(0, size - _BLOCK_BYTES) * part // _SAMPLED_BLOCKS)
            digest.update(handle.read(_BLOCK_BYTES))


def _fetched(config: BaseConfig) -> list[Path]:
    """The hub's files in the local cache; all of the weights before any is looked at, since half of them have another fingerprint."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        for single, index in _FORMATS:
            stem, suffix = single.split(".")
            folder = Path(
                snapshot_download(config.name, revision=config.revision, allow_patterns=[index, f"{stem}*.{suffix}", "config.json"])
            )
            if (folder / index).is_file() or (folder / single).is_file():
                return _weight_files(folder, [(single, index)])
    except (OSError, ValueError, HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled):
        pass
    return []


def _weight_files(folder: Path, formats: Sequence[tuple[str, str]]) -> list[Path]:
    """The files that transformers loads, in its order of preference, and not others that lie beside them; none if one is missing."""
    for single, index in formats:
        if (folder / single).is_file():
            return [folder / single]
        if (folder / index).is_file():
            named = read_json(folder / index).get("weight_map", {})
            files = [folder / Path(name).name for name in sorted(set(named.values()))]
            return files if all(file.is_file() for file in files) else []
    return []
