"""Classifiers of torchvision without their last layer; torchvision and torch are imported only when something is embedded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.contract.errors import StudyError
from data_prep.contract.files import sha256_file
from data_prep.contract.words import listed
from data_prep.embed.image_encoder import LayeredConfig
from data_prep.embed.layers import FINAL, Taps
from data_prep.embed.loaded import LoadedEncoder
from data_prep.embed.transforms import in_words
from data_prep.embed.weights import fill_model, on_device, read_state, state_hash

_FINAL_WORDS = "input of the last linear layer"


@dataclass(frozen=True, kw_only=True)
class TorchvisionConfig(LayeredConfig):
    """A classifier of torchvision, by the inference transform of its weights; ``final`` is what its last linear layer is given."""

    model: str
    """torchvision model name, such as ``resnet50`` or ``vit_b_16``."""
    weights: str = "DEFAULT"
    """Name of the weights, such as ``IMAGENET1K_V2``: they also say the transform."""
    file: str | None = None
    """Path of the weights; None: torchvision downloads them, or has them."""

    def known(self) -> dict[str, Any] | None:
        if self.file is None:
            return None
        import torchvision

        if not Path(self.file).is_file():
            raise StudyError(f"{self.file}: no such file, expected weights of torchvision's {self.model}")
        names = {"model": f"torchvision {self.model}", "weights": self.weights, "torchvision": str(torchvision.__version__)}
        return {**names, "weights_sha256": sha256_file(Path(self.file)), **self.known_layers()}

    def load(self, device: str | None = None) -> LoadedEncoder:
        from torchvision import models

        try:
            published = models.get_model_weights(self.model)
        except ValueError as error:
            raise StudyError(
                f"torchvision has no model {self.model!r}, expected one such as {listed(models.list_models(models), 6)}"
            ) from error
        if self.weights not in published.__members__:
            raise StudyError(
                f"weights: torchvision's {self.model} has none called {self.weights!r}, expected {listed(published.__members__)}"
            )
        weights = published[self.weights]
        try:
            model = models.get_model(self.model, weights=None if self.file else weights)
        except Exception as error:  # the network, and what it brings
            reason = " ".join(str(error).split())[:200]
            raise StudyError(
                f"torchvision's {self.model} cannot be loaded ({reason}); give the file of its weights where it cannot be downloaded"
            ) from error
        linears = [(name, module) for name, module in model.named_modules() if type(module).__name__ == "Linear"]
        if not linears:
            raise StudyError(f"torchvision's {self.model} has no linear layer whose input would be its features")
        name, last = linears[-1]
        if self.file is not None:
            fill_model(model, read_state(Path(self.file)), Path(self.file), may_lack=(name,))
        transform = weights.transforms()
        target = on_device(model, device or self.device)
        taps = Taps(model, self.taps, f"torchvision's {self.model}")

        def encode(images_BCHW: Any) -> list[Any]:
            images = images_BCHW.to(target)
            heard: list[Any] = []
            handle = last.register_forward_pre_hook(lambda _module, inputs: heard.append(inputs[0]))

            def final() -> Any:
                model(images)
                return heard[-1].float().flatten(1)

            try:
                return self.tables_of(taps.read(final, (images.shape[2], images.shape[3]), len(images)))
            finally:
                handle.remove()

        return LoadedEncoder(
            transform=transform,
            encode=encode,
            provenance={
                "model": f"torchvision {self.model}",
                "weights_sha256": sha256_file(Path(self.file)) if self.file else state_hash(model),
                "transform": in_words(transform),
            },
            words=tuple(words.replace(FINAL, _FINAL_WORDS) for words in self.words()),
        )
