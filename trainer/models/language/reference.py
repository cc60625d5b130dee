"""Which base an adapter belongs to: its name, its shape, and fingerprints of its weights and its tokenizer."""

from __future__ import annotations

import hashlib
import json
import re
import struct
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from data_prep.contract.errors import CommandError
from data_prep.contract.files import read_json, sha256_json
from data_prep.contract.json_text import parse_json
from data_prep.contract.records import from_json
from data_prep.contract.words import short
from trainer.models.language.base import BaseConfig, read_settings, resolve_base
from trainer.models.language.llm import plain_llm, settings_of
from trainer.models.language.quiet import quiet

_PROBE = (
    "A Cat's 12,345 dogs;  don’t RUN\tnow:\nÄpfel und naïve Café — éé, 猫が好き, кот, 🙂🙂 x_y==z hello world ... 3.14e-10 </s> <|user|>"
)
"""A text that tokenizers with the same pieces cut differently: case, digits, blanks, accents composed and not, other alphabets."""
_NO_FACT = re.compile(
    r"_.*|transformers_version|(torch_)?dtype|architectures|model_type|use_cache|return_dict.*|output_.*|quantization_config|.*token_ids?"
    r"|id2label|label2id|problem_type|initializer_range|.*(dropout|_pdrop).*|max_position_embeddings|auto_map|pretraining_tp|chunk_size.*"
    r"|vocab_size|hidden_size|num_hidden_layers|.*(length|beam|top_[kp]|temperature|penalty|sample).*|is_(encoder_)?decoder|use_bfloat16"
)
"""Settings that change nothing of what weights compute from a prompt, or that are compared by themselves."""
_SAMPLED_BYTES = 64
_SAMPLED_BLOCKS, _BLOCK_BYTES = 256, 4096
_NAME_BYTES, _HEADER_BYTES = 26, 30
"""Where the header before a member of a zip says how long its name is, and where that begins."""
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
    tokenizer: str | None = None
    """Of its tokenizer, see :func:`tokenizer_fingerprint`; None in exports of earlier versions."""
    encoding: str | None = None
    """SHA-256 of the ids that a fixed text becomes; None in exports of earlier versions."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """What else the weights compute with, as JSON: heads, rotations, activations, norms; empty in exports of earlier versions."""

    def __str__(self) -> str:
        return self.fingerprint or f"{self.name}@{self.revision}"


def base_reference(config: BaseConfig, llm: Any, tokenizer: Any = None) -> BaseReference:
    """What says which base an adapter belongs to: name, shape, and fingerprints of its weights as they lie on disk and of its tokenizer.

    The fingerprint hashes what tells weights apart: of safetensors names, shapes and a few values of each tensor, of torch's files the
    checksums and a few values of each part. It is null where the weights are not in reach. ``llm`` is the model, or its settings
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
        tokenizer=None if tokenizer is None else tokenizer_fingerprint(tokenizer),
        encoding=None if tokenizer is None else sha256_json(tokenizer.encode(_PROBE)),
        settings=_settings_facts(text.to_dict()),
    )


def _settings_facts(settings: Mapping[str, Any]) -> dict[str, str]:
    """By name, the settings that change what the same weights compute, as JSON."""
    return {name: json.dumps(value, sort_keys=True) for name, value in sorted(settings.items()) if not _NO_FACT.fullmatch(name)}


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
    told = ("tokenizer",) if reference.tokenizer and found.tokenizer else ()
    for fact in ("architecture", "hidden_size", "num_layers", "vocab_size", "fingerprint" if known else "name", *told):
        was, now = getattr(reference, fact), getattr(found, fact)
        if was != now:
            raise CommandError(
                f"{where}: an adapter of another base model: {fact} was {str(was)[:16]} ({reference.name}), that of {found.name} is "
                f"{str(now)[:16]}"
            )
    _check_settings(reference, found, where)


def _check_settings(reference: BaseReference, found: BaseReference, where: str) -> None:
    """The same weights under other settings are another model, and so are the same pieces cut out of a text in another way."""
    for name in sorted(reference.settings.keys() & found.settings.keys()):  # versions of transformers name some differently
        was, now = reference.settings[name], found.settings[name]
        if was != now:
            raise CommandError(
                f"{where}: an adapter of another base model: its setting {name} was {short(was)} ({reference.name}), that of {found.name} "
                f"is {short(now)}"
            )
    if reference.encoding and found.encoding and reference.encoding != found.encoding:
        raise CommandError(
            f"{where}: an adapter of another base model: its tokenizer ({reference.name}) cuts a text into other pieces than that of "
            f"{found.name}"
        )


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """SHA-256 of what text becomes and what a prompt is made with: pieces and their ids, special tokens, chat template.

    Of what was loaded, not of its files: the same tokenizer written in another way is the same.
    """
    special = {name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad", "unk")}
    return sha256_json({"pieces": tokenizer.get_vocab(), "special": special, "chat_template": tokenizer.chat_template})


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
        header = parse_json(handle.read(length), file)
        tensors = {name: value for name, value in header.items() if name != "__metadata__"} if isinstance(header, dict) else header
        for name, tensor in sorted(from_json(dict[str, _Tensor], tensors, str(file), written_by="safetensors").items()):
            begin, end = tensor.data_offsets
            if not 0 <= begin <= end <= file.stat().st_size - 8 - length:
                raise CommandError(f"{file}: {short(name)} lies at {begin} to {end}, which is not in the file: truncated or altered")
            handle.seek(8 + length + begin + (end - begin) // 2)
            digest.update(f"{name}{list(tensor.shape)}".encode())
            digest.update(handle.read(min(_SAMPLED_BYTES, end - begin - (end - begin) // 2)))


@dataclass(frozen=True, kw_only=True)
class _Tensor:
    """What the header of a safetensors file says of a tensor."""

    shape: tuple[int, ...]
    data_offsets: tuple[int, int]
    """First byte, and the byte after the last, after the header."""


def _add_torch_zip(file: Path, digest: Digest) -> None:
    """torch's own format: names, sizes, checksums and a few bytes of its members (checksums can be left out); nothing is unpickled."""
    try:
        with zipfile.ZipFile(file) as archive, file.open("rb") as handle:
            members = {info.filename.partition("/")[2]: info for info in archive.infolist()}  # the first folder is the file's old name
            for name in sorted(members):
                info = members[name]
                digest.update(f"{name} {info.file_size} {info.CRC}".encode())
                handle.seek(info.header_offset + _NAME_BYTES)
                begin = info.header_offset + _HEADER_BYTES + sum(struct.unpack("<HH", handle.read(4)))
                handle.seek(begin + info.compress_size // 2)
                digest.update(handle.read(min(_SAMPLED_BYTES, info.compress_size - info.compress_size // 2)))
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError, struct.error) as error:
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


@dataclass(frozen=True, kw_only=True)
class _Index:
    """The index of weights in several files."""

    weight_map: Mapping[str, str] = field(default_factory=dict)
    """File of each tensor."""


def _weight_files(folder: Path, formats: Sequence[tuple[str, str]]) -> list[Path]:
    """The files that transformers loads, in its order of preference, and not others that lie beside them; none if one is missing."""
    for single, index in formats:
        if (folder / single).is_file():
            return [folder / single]
        if (folder / index).is_file():
            named = from_json(_Index, read_json(folder / index), str(folder / index), written_by="transformers").weight_map
            files = [folder / Path(name).name for name in sorted(set(named.values()))]
            return files if all(file.is_file() for file in files) else []
    return []
