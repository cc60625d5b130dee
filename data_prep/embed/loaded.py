"""What reading, batches, cache and tables need of an image encoder, whatever it is.

Shapes in names: B images of a batch, E embedding dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from data_prep.embed.base import Provenance


@dataclass(frozen=True, kw_only=True)
class LoadedEncoder:
    """A network that is ready."""

    transform: Callable[[Any], Any]
    """Inference transform: RGB ``PIL.Image`` to float32 tensor or array (C, H, W)."""
    encode: Callable[[Any], list[Any]]
    """Stacked images (B, C, H, W) to one (B, E) on the CPU for each output, without gradients."""
    provenance: Provenance
    """``model``, ``weights_sha256``, ``transform``."""
    words: tuple[str, ...]
    """The layer of each output, as the manifest has it."""


class Encoder(Protocol):
    """An encoder before it is loaded; see :class:`data_prep.embed.image_encoder.ImageEncoderConfig`."""

    @property
    def batch_size(self) -> int:
        """Images a forward pass."""
        ...

    @property
    def workers(self) -> int:
        """Threads that decode images."""
        ...

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of its tables."""
        ...

    def known(self) -> Mapping[str, Any] | None:
        """What rows hang on, if that is known without loading."""
        ...

    def load(self, device: str | None = None) -> LoadedEncoder:
        """The network."""
        ...
