"""Captions by a captioning model of transformers (BLIP, GIT, vision-encoder-decoder): no code of a model's own is run, nothing is sampled.

Captions are kept by the pixels they are of, as rows of embeddings are: a second run writes the same ones and costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.contract.errors import StudyError
from data_prep.contract.files import sha256_json
from data_prep.contract.images import read_image
from data_prep.contract.progress import progress
from data_prep.embed.image_encoder import check_positive
from data_prep.embed.row_cache import RowCache
from data_prep.embed.rows import READING, files_of
from data_prep.embed.running import cache_folder
from data_prep.embed.transformers import not_loaded
from data_prep.embed.weights import folder_hash, on_device, state_hash
from data_prep.studies.base import StudyFacts
from data_prep.studies.caption_sources import CaptionsConfig

KINDS = ("blip", "git", "vision-encoder-decoder")
_MOST_BYTES = 2048


@dataclass(frozen=True, kw_only=True)
class ImageToTextConfig(CaptionsConfig):
    """One caption an image, by a captioning model."""

    model: str
    """Folder of the model, or its hub name (a hub must be in reach)."""
    prompt: str = ""
    """Text that the caption begins with; empty: none."""
    max_new_tokens: int = 40
    """Tokens of a caption at most."""
    num_beams: int = 3
    """Beams of the search; 1 is greedy. Nothing is sampled, so a caption is a function of its image."""
    batch_size: int = 8
    """Images a forward pass."""
    device: str = "cpu"
    """``cpu``, ``cuda`` or ``cuda:1``: where the network runs."""

    def __post_init__(self) -> None:
        check_positive(max_new_tokens=self.max_new_tokens, num_beams=self.num_beams, batch_size=self.batch_size)

    def read(self, facts: StudyFacts) -> tuple[list[list[str]], dict[str, Any]]:
        if facts.stimulus_level == "class":
            raise StudyError(
                "a captioning model captions images, and this study knows classes alone: expected captions of a file or a template"
            )
        files, _ = files_of(facts)
        missing = [file for file in files if not file.is_file()]
        if missing:
            raise StudyError(f"{missing[0]}: no such image ({len(missing)} of {len(files)} are missing)")
        folder = Path(self.model)
        write = None if folder.is_dir() else self._load()
        weights = folder_hash(folder) if write is None else write[1]
        says = {
            "source": "model",
            "model": f"transformers {folder.name if folder.is_dir() else self.model}",
            "weights_sha256": weights,
            "prompt": self.prompt,
            "decoding": {"num_beams": self.num_beams, "max_new_tokens": self.max_new_tokens, "sampled": False},
        }
        with cache_folder() as root:
            cache = RowCache(root / sha256_json([READING, "captions", says])[:32], _MOST_BYTES, "u1")
            known = cache.load()
            keys: list[bytes] = []
            with progress(f"images captioned by {says['model']}", len(files)) as advance:
                for start in range(0, len(files), self.batch_size):
                    part = files[start : start + self.batch_size]
                    images = [read_image(file).image for file in part]
                    keys += [sha256(repr((image.mode, image.size)).encode() + image.tobytes()).digest() for image in images]
                    new = {key: (image, file) for key, image, file in zip(keys[start:], images, part, strict=True) if key not in known}
                    if new:
                        write = write or self._load()
                        texts = write[0]([image for image, _ in new.values()])
                        rows = {key: _as_row(text, file) for (key, (_, file)), text in zip(new.items(), texts, strict=True)}
                        cache.add(rows)
                        known.update(rows)
                    advance(len(part))
        return [[bytes(known[key]).rstrip(b"\0").decode()] for key in keys], says

    def _load(self) -> tuple[Callable[[list[Any]], list[str]], str]:
        """What writes captions of images, and the weights' hash."""
        import torch
        from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

        try:
            kind = AutoConfig.from_pretrained(self.model, trust_remote_code=False).model_type
            if kind in KINDS:
                processor = AutoImageProcessor.from_pretrained(self.model, trust_remote_code=False)
                tokenizer = AutoTokenizer.from_pretrained(self.model, trust_remote_code=False)
                model = AutoModelForImageTextToText.from_pretrained(self.model, trust_remote_code=False).float()
        except Exception as error:  # transformers, torch and the hub client raise many kinds
            raise not_loaded(self.model, error) from error
        if kind not in KINDS:
            raise StudyError(f"model: {self.model} is of the kind {kind!r}, expected a model that captions images: {', '.join(KINDS)}")
        if self.prompt and kind == "vision-encoder-decoder":
            raise StudyError(f"prompt: {self.model} is a vision-encoder-decoder, which takes none: expected an empty prompt")
        longest, wanted = _positions(model.config), len(tokenizer(self.prompt)["input_ids"]) + self.max_new_tokens
        if wanted > longest:
            raise StudyError(
                f"max_new_tokens: prompt and caption take {wanted} tokens, {self.model} has {longest} positions: expected fewer"
            )
        target = on_device(model, self.device)

        def write(images: list[Any]) -> list[str]:
            pixels = processor(images=images, return_tensors="pt")["pixel_values"].to(target)
            fields: dict[str, Any] = {"pixel_values": pixels}
            if self.prompt:
                ids = tokenizer(self.prompt, return_tensors="pt")["input_ids"]
                # BLIP takes the closing token off itself; GIT goes on from what it is given.
                fields["input_ids"] = (ids if kind == "blip" else ids[:, :-1]).repeat(len(images), 1).to(target)
            with torch.inference_mode():
                out = model.generate(**fields, num_beams=self.num_beams, max_new_tokens=self.max_new_tokens, do_sample=False)
            return [" ".join(text.split()) for text in tokenizer.batch_decode(out, skip_special_tokens=True)]

        return write, state_hash(model)


def _positions(settings: Any) -> int:
    """Tokens of text that a captioning model can write."""
    text = next((part for name in ("text_config", "decoder") if (part := getattr(settings, name, None)) is not None), settings)
    found = (getattr(text, name, None) for name in ("max_position_embeddings", "n_positions"))
    return next((value for value in found if isinstance(value, int)), 10**6)


def _as_row(text: str, file: Path) -> np.ndarray:
    data = text.encode()
    if not data or len(data) > _MOST_BYTES:
        raise StudyError(f"{file}: the model writes a caption of {len(data)} bytes, expected 1 to {_MOST_BYTES}")
    return np.frombuffer(data.ljust(_MOST_BYTES, b"\0"), np.uint8)
