"""Vision models of transformers: DINOv2, CLIP, SigLIP and their like; no code of a model's own is run.

transformers and torch are imported only when something is embedded.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.contract.errors import StudyError
from data_prep.embed.image_encoder import LayeredConfig
from data_prep.embed.layers import FINAL, Taps
from data_prep.embed.loaded import LoadedEncoder
from data_prep.embed.weights import folder_hash, on_device, state_hash

_NOT_OF_THE_TRANSFORM = (
    "image_processor_type",
    "processor_class",
    "feature_extractor_type",
    "_processor_class",
    "auto_map",
    "data_format",
    "device",
)


@dataclass(frozen=True, kw_only=True)
class TransformersConfig(LayeredConfig):
    """The vision part of a model of transformers, by its own image processor."""

    model: str
    """Folder of the model, or its hub name (a hub must be in reach)."""
    image_size: int | None = None
    """Side in pixels that images are brought to, where it is not the processor's (DINOv2 at 518, say): positions are interpolated."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size is not None and not 16 <= self.image_size <= 4096:
            raise ValueError(f"image_size is {self.image_size}, expected 16 to 4096 pixels, or null")

    def known(self) -> dict[str, Any] | None:
        if not Path(self.model).is_dir():
            return None
        import transformers

        names = {"model": self._name(), "image_size": self.image_size, "transformers": str(transformers.__version__)}
        return {**names, "weights_sha256": folder_hash(Path(self.model)), **self.known_layers()}

    def load(self, device: str | None = None) -> LoadedEncoder:
        import torch

        model, processor = load_vision(self.model)
        tower = getattr(model, "vision_model", model)
        options = _sized(processor, self.image_size)
        target = on_device(model, device or self.device)
        taps = Taps(tower, self.taps, f"the vision part of {self._name()}")
        more = {"interpolate_pos_encoding": True} if self.image_size is not None and _takes(model, "interpolate_pos_encoding") else {}

        def transform(image: Any) -> Any:
            pixels = np.asarray(processor(images=image, return_tensors="np", **options)["pixel_values"], np.float32)
            if pixels.ndim != 4 or len(pixels) != 1:
                raise StudyError(f"model: {self.model}: its processor gives {pixels.shape} for an image, expected (1, 3, height, width)")
            return torch.from_numpy(pixels[0])

        def encode(images_BCHW: Any) -> list[Any]:
            images = images_BCHW.to(target)
            return self.tables_of(taps.read(lambda: _final(model, images, more), (images.shape[2], images.shape[3]), len(images)))

        settings = {k: v for k, v in processor.to_dict().items() if k not in _NOT_OF_THE_TRANSFORM and v is not None}
        return LoadedEncoder(
            transform=transform,
            encode=encode,
            provenance={
                "model": self._name(),
                "weights_sha256": folder_hash(Path(self.model)) if Path(self.model).is_dir() else state_hash(model),
                "transform": f"{type(processor).__name__} {json.dumps(settings | options, sort_keys=True, default=str)}",
            },
            words=tuple(words.replace(FINAL, _final_words(model)) for words in self.words()),
        )

    def _name(self) -> str:
        return f"transformers {Path(self.model).name if Path(self.model).is_dir() else self.model}"


def load_vision(where: str) -> tuple[Any, Any]:
    """Model on the CPU and its image processor.

    Raises
    ------
    StudyError
        Not there, no such model, or one that asks for its own code to be run.
    """
    from transformers import AutoImageProcessor, AutoModel

    try:
        processor = AutoImageProcessor.from_pretrained(where, trust_remote_code=False)
        model = AutoModel.from_pretrained(where, trust_remote_code=False)
    except Exception as error:  # transformers, torch and the hub client raise many kinds
        raise not_loaded(where, error) from error
    return model.float(), processor


def not_loaded(where: str, error: Exception) -> StudyError:
    """The sentence for a model that transformers could not load."""
    reason = " ".join(str(error).split())[:200]
    return StudyError(f"model: {where} cannot be loaded by transformers ({reason}); give its folder where no model hub is in reach")


def _takes(model: Any, argument: str) -> bool:
    import inspect

    call = getattr(model, "get_image_features", None) or model.forward
    return argument in inspect.signature(call).parameters


def _sized(processor: Any, side: int | None) -> dict[str, Any]:
    """The processor's options that bring images to ``side``: scaled and cropped, or scaled, as it does it."""
    if side is None:
        return {}
    size = getattr(processor, "size", None) or {}
    square = {"height": side, "width": side}
    if getattr(processor, "do_center_crop", False):
        old, crop = size.get("shortest_edge"), (getattr(processor, "crop_size", None) or {}).get("height")
        # A processor that scales to 256 and crops 224 keeps its margin.
        shortest = round(side * old / crop) if old and crop else side
        return {"size": {"shortest_edge": shortest}, "crop_size": square}
    return {"size": square}


def _final(model: Any, images: Any, more: dict[str, Any]) -> Any:
    """The model's own vector of an image: (B, E)."""
    if hasattr(model, "get_image_features"):
        found = model.get_image_features(pixel_values=images, **more)
        found = getattr(found, "pooler_output", found)
    else:
        out = model(pixel_values=images, **more)
        found = getattr(out, "pooler_output", None)
        if found is None:
            found = (
                out.last_hidden_state.mean(tuple(range(2, out.last_hidden_state.ndim)))
                if out.last_hidden_state.ndim > 3
                else out.last_hidden_state[:, 0]
            )
    return found.float().flatten(1)


def _final_words(model: Any) -> str:
    return "image features, not normalised" if hasattr(model, "get_image_features") else "pooled output"
