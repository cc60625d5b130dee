"""The image tower of an open_clip model; open_clip and torch are imported only when something is embedded."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.contract.errors import StudyError
from data_prep.contract.files import sha256_file
from data_prep.contract.progress import progress
from data_prep.embed.base import EmbeddingConfig, Provenance
from data_prep.embed.rows import check_positive, embed_stimuli
from data_prep.studies.base import StudyFacts


@dataclass(frozen=True, kw_only=True)
class OpenClipConfig(EmbeddingConfig):
    """Image tower of an open_clip model, before normalisation, by the model's own inference transform."""

    model: str = "ViT-B-32"
    """open_clip model name, or ``local-dir:FOLDER``."""
    pretrained: str = ""
    """Path of a weights file, or an open_clip tag such as ``laion2b_s34b_b79k`` (downloaded by open_clip, so a hub must be in
    reach). Random weights are refused; empty only with ``local-dir:``."""
    force_quick_gelu: bool = False
    """For weights trained with quick GELU (OpenAI's) under a model name without it."""
    device: str = "cpu"
    """``cpu`` or ``cuda``: where the image tower runs."""
    batch_size: int = 32
    """Images a forward pass."""
    workers: int = 2
    """Threads that decode images."""

    def __post_init__(self) -> None:
        check_positive(batch_size=self.batch_size, workers=self.workers)
        if not self.pretrained and not self.model.startswith("local-dir:"):
            raise ValueError("pretrained is empty, expected the path of a weights file or an open_clip tag: random weights embed nothing")

    def compute(self, facts: StudyFacts) -> tuple[np.ndarray, Provenance]:
        import open_clip
        import torch

        local = Path(self.pretrained)
        if not local.is_file() and (local.suffix in (".pt", ".pth", ".bin", ".safetensors") or "/" in self.pretrained):
            raise StudyError(f"pretrained: {self.pretrained}: no such file, expected open_clip weights")
        try:
            with progress("image encoders loaded", 1) as advance:
                model, _, transform = open_clip.create_model_and_transforms(
                    self.model, pretrained=self.pretrained or None, force_quick_gelu=self.force_quick_gelu, device=self.device
                )
                advance()
        except Exception as error:  # open_clip, torch and the hub client raise many kinds for weights that are not there
            reason = " ".join(str(error).split())[:200]
            raise StudyError(
                f"open_clip model {self.model!r} with weights {self.pretrained!r} cannot be loaded ({reason}); "
                "give the path of a weights file where no model hub is in reach"
            ) from error
        model.eval().requires_grad_(False)
        device = torch.device(self.device)
        name = f"open_clip {self.model}"
        table = embed_stimuli(
            facts, lambda images: model.encode_image(images.to(device)).float().cpu(), transform, self.batch_size, self.workers, name
        )
        return table, {
            "model": name,
            "layer": "image tower's output, not normalised",
            "weights_sha256": sha256_file(local) if local.is_file() else _state_hash(model),
            "transform": " ".join(str(transform).split()),
        }


def _state_hash(model: Any) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).numpy().tobytes())
    return digest.hexdigest()
