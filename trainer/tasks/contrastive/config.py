"""Config of the contrastive command: an EEG encoder aligned with frozen image embeddings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from trainer.data.augment import AugmentConfig
from trainer.losses import LossConfig
from trainer.models.contrastive import ContrastiveModelConfig
from trainer.training.config import RunConfig


@dataclass(frozen=True, kw_only=True)
class ContrastiveConfig(RunConfig):
    """Train an EEG encoder against frozen image embeddings.

    ``init_from`` brings the encoder of an earlier run or export, and heads where shapes and meaning fit.
    """

    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Augmentation of training batches."""
    model: ContrastiveModelConfig = field(default_factory=ContrastiveModelConfig)
    """Encoder and heads."""
    loss: LossConfig = field(default_factory=LossConfig)
    """What is minimised."""

    identity_fields: ClassVar[tuple[str, ...]] = ("data", "augment", "model", "loss", "optimizer")

    def __post_init__(self) -> None:
        if self.train.global_batch_size == 1 and self.loss.contrastive_weight:
            raise ValueError(
                "train.global_batch_size: 1 with loss.contrastive_weight "
                f"{self.loss.contrastive_weight:g}: a row is compared with the others of its batch, expected at least 2"
            )
