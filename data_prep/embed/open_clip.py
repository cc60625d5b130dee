"""The image tower of an open_clip model; open_clip and torch are imported only when something is embedded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.contract.errors import StudyError
from data_prep.contract.files import sha256_file
from data_prep.contract.progress import progress
from data_prep.embed.image_encoder import LayeredConfig
from data_prep.embed.layers import FINAL, Taps
from data_prep.embed.loaded import LoadedEncoder
from data_prep.embed.transforms import in_words
from data_prep.embed.weights import WEIGHTS, on_device, state_hash

_FINAL_WORDS = "image tower's output, not normalised"


@dataclass(frozen=True, kw_only=True)
class OpenClipConfig(LayeredConfig):
    """Image tower of an open_clip model, before normalisation, by the model's own inference transform."""

    model: str = "ViT-B-32"
    """open_clip model name, or ``local-dir:FOLDER``."""
    pretrained: str = ""
    """Path of a weights file, or an open_clip tag such as ``laion2b_s34b_b79k`` (downloaded by open_clip, so a hub must be in
    reach). Random weights are refused; empty only with ``local-dir:``."""
    force_quick_gelu: bool = False
    """For weights trained with quick GELU (OpenAI's) under a model name without it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_no_weights(self.model, self.pretrained)

    def known(self) -> dict[str, Any] | None:
        model = known_open_clip(self.model, self.pretrained, quick_gelu=self.force_quick_gelu)
        return None if model is None else {**model, **self.known_layers()}

    def load(self, device: str | None = None) -> LoadedEncoder:
        model, transform = load_open_clip(self.model, self.pretrained, quick_gelu=self.force_quick_gelu)
        target = on_device(model, device or self.device)
        taps = Taps(model.visual, self.taps, f"the image tower of {self.model}")

        def encode(images_BCHW: Any) -> list[Any]:
            images = images_BCHW.to(target)
            side = (images.shape[2], images.shape[3])
            return self.tables_of(taps.read(lambda: model.encode_image(images).float(), side, len(images)))

        return LoadedEncoder(
            transform=transform,
            encode=encode,
            provenance={
                **named_open_clip(self.model, self.pretrained, model),
                "transform": in_words(transform),
            },
            words=tuple(words.replace(FINAL, _FINAL_WORDS) for words in self.words()),
        )


def refuse_no_weights(model: str, pretrained: str) -> None:
    """Refuse a model without weights, as a config's ``__post_init__`` does."""
    if not pretrained and not model.startswith("local-dir:"):
        raise ValueError("pretrained is empty, expected the path of a weights file or an open_clip tag: random weights embed nothing")


def check_weights(pretrained: str) -> None:
    """Refuse the name of a file that is not there.

    Raises
    ------
    StudyError
    """
    local = Path(pretrained)
    if not local.is_file() and (local.suffix in WEIGHTS or "/" in pretrained):
        raise StudyError(f"pretrained: {pretrained}: no such file, expected open_clip weights")


def known_open_clip(model: str, pretrained: str, *, quick_gelu: bool) -> dict[str, Any] | None:
    """What a tower's rows hang on, without loading it; None: its weights are no file.

    Raises
    ------
    StudyError
        Weights that are not there.
    """
    check_weights(pretrained)
    if not Path(pretrained).is_file():
        return None
    import open_clip

    names = {"model": f"open_clip {model}", "quick_gelu": quick_gelu, "open_clip": str(open_clip.__version__)}
    return {**names, "weights_sha256": sha256_file(Path(pretrained))}


def named_open_clip(model: str, pretrained: str, loaded: Any) -> dict[str, Any]:
    """Name of a model and the hash of its weights, for an embedding's facts."""
    local = Path(pretrained)
    return {"model": f"open_clip {model}", "weights_sha256": sha256_file(local) if local.is_file() else state_hash(loaded)}


def load_open_clip(model: str, pretrained: str, *, quick_gelu: bool) -> tuple[Any, Any]:
    """Model on the CPU and its inference transform.

    Raises
    ------
    StudyError
        Weights that are not there or do not fit.
    """
    import open_clip

    check_weights(pretrained)
    try:
        with progress("encoders loaded", 1) as advance:
            found, _, transform = open_clip.create_model_and_transforms(
                model, pretrained=pretrained or None, force_quick_gelu=quick_gelu, device="cpu"
            )
            advance()
    except Exception as error:  # open_clip, torch and the hub client raise many kinds for weights that are not there
        reason = " ".join(str(error).split())[:200]
        raise StudyError(
            f"open_clip model {model!r} with weights {pretrained!r} cannot be loaded ({reason}); "
            "give the path of a weights file where no model hub is in reach"
        ) from error
    return found, transform
