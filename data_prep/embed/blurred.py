"""Any image encoder on blurred images: what is left of its embedding when fine detail is gone, as in the periphery of the visual field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from data_prep.contract.errors import StudyError
from data_prep.embed.base import EmbeddingConfig
from data_prep.embed.image_encoder import ImageEncoderConfig
from data_prep.embed.loaded import LoadedEncoder


@dataclass(frozen=True, kw_only=True)
class BlurredConfig(ImageEncoderConfig):
    """An image encoder that is given images under a Gaussian blur; its own ``batch_size`` and ``workers`` count."""

    encoder: EmbeddingConfig
    """The encoder of the blurred images."""
    sigma_pixels: float | None = None
    """Standard deviation of the blur in pixels of the image file, or ..."""
    sigma_degrees: float | None = None
    """... in degrees of visual angle, with ``image_degrees``."""
    image_degrees: float | None = None
    """Visual angle that the shorter side of an image was shown at."""

    def __post_init__(self) -> None:
        if not isinstance(self.encoder, ImageEncoderConfig):
            raise ValueError(f"encoder is {type(self.encoder).__name__}, expected one that embeds images itself")
        object.__setattr__(self, "batch_size", self.encoder.batch_size)
        object.__setattr__(self, "workers", self.encoder.workers)
        super().__post_init__()
        if (self.sigma_pixels is None) == (self.sigma_degrees is None):
            raise ValueError("expected sigma_pixels or sigma_degrees, one of the two")
        if (self.sigma_degrees is None) != (self.image_degrees is None):
            raise ValueError("sigma_degrees and image_degrees go together: expected both or none")
        for name in ("sigma_pixels", "sigma_degrees", "image_degrees"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} is {value}, expected more than 0")

    @property
    def device(self) -> str:
        """That of the encoder."""
        return str(getattr(self.encoder, "device", "cpu"))

    @property
    def outputs(self) -> tuple[str, ...]:
        return self.encoder.outputs

    def known(self) -> Mapping[str, Any] | None:
        inner = self._encoder().known()
        return None if inner is None else {**inner, "encoder": type(self.encoder).__name__, "blur": self._words()}

    def load(self, device: str | None = None) -> LoadedEncoder:
        loaded = self._encoder().load(device)

        def transform(image: Any) -> Any:
            from PIL import ImageFilter

            return loaded.transform(image.filter(ImageFilter.GaussianBlur(self._pixels(min(image.size)))))

        says = {**loaded.provenance, "transform": f"{self._words()}, then {loaded.provenance['transform']}"}
        return replace(loaded, transform=transform, provenance=says)

    def _encoder(self) -> ImageEncoderConfig:
        assert isinstance(self.encoder, ImageEncoderConfig)
        return self.encoder

    def _pixels(self, shorter_side: int) -> float:
        if self.sigma_pixels is not None:
            return self.sigma_pixels
        assert self.sigma_degrees is not None
        assert self.image_degrees is not None
        sigma = self.sigma_degrees / self.image_degrees * shorter_side
        if sigma > shorter_side:
            raise StudyError(f"sigma_degrees: a blur of {sigma:.0f} pixels in an image of {shorter_side}: nothing would be left")
        return sigma

    def _words(self) -> str:
        if self.sigma_pixels is not None:
            return f"Gaussian blur of {self.sigma_pixels:g} pixels"
        return f"Gaussian blur of {self.sigma_degrees:g} degrees where an image's shorter side is {self.image_degrees:g}"
