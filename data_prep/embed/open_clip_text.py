"""The text tower of an open_clip model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from data_prep.embed.open_clip import known_open_clip, load_open_clip, named_open_clip, refuse_no_weights
from data_prep.embed.text_encoder import LoadedTextEncoder, TextEncoderConfig
from data_prep.embed.weights import on_device


@dataclass(frozen=True, kw_only=True)
class OpenClipTextConfig(TextEncoderConfig):
    """Text tower of an open_clip model, by the model's own tokenizer."""

    model: str = "ViT-B-32"
    """As of ``OpenClipConfig``."""
    pretrained: str = ""
    """As of ``OpenClipConfig``."""
    force_quick_gelu: bool = False
    """As of ``OpenClipConfig``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_no_weights(self.model, self.pretrained)

    def known(self) -> dict[str, Any] | None:
        return known_open_clip(self.model, self.pretrained, quick_gelu=self.force_quick_gelu)

    def load(self) -> LoadedTextEncoder:
        import open_clip
        import torch

        model, _ = load_open_clip(self.model, self.pretrained, quick_gelu=self.force_quick_gelu)
        tokenizer = open_clip.get_tokenizer(self.model)
        target = on_device(model, self.device)
        length = int(tokenizer.context_length)

        def encode(texts: list[str]) -> Any:
            with torch.inference_mode():
                return model.encode_text(tokenizer(texts).to(target)).float().cpu().numpy()

        def too_long(text: str) -> bool:
            return hasattr(tokenizer, "encode") and len(tokenizer.encode(text)) + 2 > length

        return LoadedTextEncoder(
            encode=encode,
            too_long=too_long,
            provenance={
                **named_open_clip(self.model, self.pretrained, model),
                "layer": "text tower's output",
                "transform": f"{type(tokenizer).__name__}, {length} tokens",
            },
        )
