"""Config of the encoding command: EEG predicted from image embeddings, in closed form."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from trainer.models.encoding.by_direction import MOST_DIRECTIONS
from trainer.training.config import FolderConfig, PassConfig
from trainer.training.tracking import MlflowConfig


@dataclass(frozen=True, kw_only=True)
class EncodingModelConfig:
    """The encoding model; all else of it is chosen by cross-validation on the training samples."""

    most_directions: int = MOST_DIRECTIONS
    """Directions of the response that there may be; how many are kept is decided by the likelihood of held-out folds."""

    def __post_init__(self) -> None:
        if self.most_directions < 1:
            raise ValueError(f"model.most_directions: {self.most_directions}, expected at least 1")


@dataclass(frozen=True, kw_only=True)
class EncodingConfig(FolderConfig):
    """Fit an encoding model (the EEG that each image leads one to expect) and export it as an encoder that ranks images by likelihood."""

    model: EncodingModelConfig = field(default_factory=EncodingModelConfig)
    """The model."""
    train: PassConfig = field(default_factory=PassConfig)
    """The pass over the training samples."""
    mlflow: MlflowConfig = field(default_factory=lambda: MlflowConfig(experiment="encoding"))
    """Tracking."""

    identity_fields: ClassVar[tuple[str, ...]] = ("data", "model")
    train_identity_fields: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if self.data.repetitions != "mean":
            raise ValueError(
                f"data.repetitions: {self.data.repetitions}, expected mean: the model takes averages and, for the noise, every repetition"
            )
