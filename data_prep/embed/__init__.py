"""Embeddings of images and texts, one file an encoder; importing the package lets configs name each by its class name alone."""

from data_prep.embed import (
    blurred,
    captioned,
    classes,
    efficientnet_lite0,
    imported,
    low_level,
    open_clip,
    open_clip_text,
    timm,
    torchvision,
    transformers,
    transformers_text,
)

__all__ = [
    "blurred",
    "captioned",
    "classes",
    "efficientnet_lite0",
    "imported",
    "low_level",
    "open_clip",
    "open_clip_text",
    "timm",
    "torchvision",
    "transformers",
    "transformers_text",
]
