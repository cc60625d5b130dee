"""Config of the text command: a language model tuned to say what EEG, or the image behind it, shows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from trainer.data.augment import AugmentConfig
from trainer.data.captions import Missing
from trainer.distributed.deepspeed_config import ZeroConfig
from trainer.models.language.adapter import AdapterConfig
from trainer.models.language.base import BaseConfig
from trainer.models.language.prefix import PrefixConfig
from trainer.models.language.prompt import PromptConfig
from trainer.training.config import RunConfig
from trainer.training.optimizer import OptimizerConfig
from trainer.training.tracking import MlflowConfig


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """What the language model reads, and which captions it learns to say."""

    name: Literal["image", "eeg", "mixed", "label"] = "mixed"
    """``image``: image embeddings; ``eeg``: EEG through the encoder; ``mixed``: some items take their image, the others their EEG;
    ``label``: words of predicted concepts only, no prefix: the control that never reads EEG beyond its label."""
    image_share_start: float = 1.0
    """``mixed``: share of items that take the image at the first step; it changes linearly over the run's steps."""
    image_share_end: float = 0.0
    """``mixed``: that share at the end."""
    image_noise: float = 0.0
    """Gaussian noise added to unit-norm image embeddings before they are normalised again, as its length relative to theirs: crosses
    the gap between images and EEG. 0: none."""
    captions: Literal["all", "first"] = "all"
    """``all``: one of a stimulus' captions, drawn anew for every item and data pass; ``first``: always the first."""
    missing_captions: Missing = "refuse"
    """Stimuli without a caption: ``refuse`` the study, or ``drop`` them (counted in ``events.jsonl``)."""
    pack_length: int | None = None
    """Tokens of a row into which several sequences are packed; null: a row an item, padded to the longest of its micro-batch."""
    validation_items: int = 1000
    """Validation samples that are scored, evenly spread over the part; 0: all."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Augmentation of training EEG."""

    def __post_init__(self) -> None:
        for name, allowed in (
            ("name", ("image", "eeg", "mixed", "label")),
            ("captions", ("all", "first")),
            ("missing_captions", ("refuse", "drop")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"stage.{name}: {getattr(self, name)!r}, expected {', '.join(allowed)}")
        for name in ("image_share_start", "image_share_end"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"stage.{name}: {getattr(self, name)}, expected 0 to 1")
        if not 0 <= self.image_noise < float("inf"):
            raise ValueError(f"stage.image_noise: {self.image_noise}, expected 0 or more")
        if self.pack_length is not None and self.pack_length < 1:
            raise ValueError(f"stage.pack_length: {self.pack_length}, expected a positive number of tokens or null")
        if self.validation_items < 0:
            raise ValueError(f"stage.validation_items: {self.validation_items}, expected 0 or more")

    def image_share(self, step: int, num_steps: int) -> float:
        """Share of items that take their image at optimizer step ``step`` (from 0) of ``num_steps``."""
        if self.name != "mixed":
            return float(self.name == "image")
        progress = min(1.0, step / max(1, num_steps - 1))
        return self.image_share_start + (self.image_share_end - self.image_share_start) * progress


@dataclass(frozen=True, kw_only=True)
class TextConfig(RunConfig):
    """Tune a language model to describe what a person sees, from EEG through a trained encoder.

    ``data`` must have the signal, transform and embedding of the encoder; ``train.precision: bf16`` is usual, ``fp16`` is refused;
    ``init_from`` brings adapter and projector of an earlier text run or export (a second stage); the frozen base is in no checkpoint.
    """

    encoder: str
    """Exported encoder of a contrastive run: the run's folder, its export, or that of an earlier text run."""
    tune_encoder: bool = False
    """Train the encoder, too (the running statistics of its batch normalisation stay)."""
    encoder_lr_factor: float = 0.1
    """Learning rate of a tuned encoder, as a multiple of ``optimizer.lr``."""
    base: BaseConfig = field(default_factory=BaseConfig)
    """The frozen language model."""
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    """What is trained inside it."""
    prefix: PrefixConfig = field(default_factory=PrefixConfig)
    """From features to prefix tokens."""
    prompt: PromptConfig = field(default_factory=PromptConfig)
    """What the model is told beside the prefix."""
    stage: StageConfig = field(default_factory=StageConfig)
    """What it reads and learns to say."""
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=2e-4, weight_decay=0.01, beta2=0.999))
    """AdamW and its schedule."""
    zero: ZeroConfig = field(default_factory=lambda: ZeroConfig(stage=2))
    """DeepSpeed ZeRO. Stage 3 cuts up an unquantised base while it is loaded, for what does not fit on one device; a quantised base is
    loaded whole by each rank at every stage, so stage 2 is the better choice for it."""
    mlflow: MlflowConfig = field(default_factory=lambda: MlflowConfig(experiment="text"))
    """Tracking."""

    identity_fields: ClassVar[tuple[str, ...]] = (
        "data",
        "tune_encoder",
        "encoder_lr_factor",
        "adapter",
        "prefix",
        "prompt",
        "stage",
        "optimizer",
    )

    def __post_init__(self) -> None:
        if self.train.precision == "fp16":
            raise ValueError("train.precision: fp16, expected bf16 or fp32: language models overflow in half precision")
        if not 0 < self.encoder_lr_factor < float("inf"):
            raise ValueError(f"encoder_lr_factor: {self.encoder_lr_factor}, expected a positive number")
        if self.base.compile and self.zero.stage == 3:
            raise ValueError("base.compile: true with zero.stage 3, whose weights come and go: expected zero.stage 0 to 2")
        stage, words = self.stage.name, self.prompt.concepts
        if stage == "label" and not words:
            raise ValueError("prompt.concepts: 0 in stage label, which reads nothing but words: expected at least 1")
        if self.tune_encoder and stage in ("image", "label"):
            raise ValueError(f"tune_encoder: true in stage {stage}, which shows the encoder no EEG: expected false, or stage eeg or mixed")
        if self.tune_encoder and words:
            raise ValueError(
                f"tune_encoder: true with prompt.concepts {words}: words are predicted by the encoder as it was, expected one of them"
            )
