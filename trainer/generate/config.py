"""Config of ``generate``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from data_prep.contract.seed import check_seed
from trainer.artifacts.generations import ARMS
from trainer.data.captions import Missing
from trainer.distributed.world import DeviceName
from trainer.models.language.decoding import DecodingConfig
from trainer.models.language.prompt import Style


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """Caption a part of a study by a text model, and by its controls."""

    export: str
    """Text export, or the folder of a run that has one."""
    output: str
    """Folder for the captions; one that holds a part of the same generation is continued."""
    arms: list[str] = field(default_factory=lambda: ["eeg", "noise", "shuffled", "image", "nearest-caption", "caption-prior"])
    """Arms: eeg, eeg+concept, noise, noise+word, shuffled, shuffled-within-concept, concept-mean, label-only, keywords, nearest-caption,
    caption-prior, image. Further ones may be added to a folder later."""
    label_only: str = ""
    """Text export or run of stage ``label``, trained for as many steps, for the arm label-only."""
    study: str = ""
    """Study folder; empty: the one the model was trained on."""
    split: str = ""
    """Split; empty: that of training."""
    part: Literal["train", "validation", "test"] = "test"
    """Part of the split."""
    candidates: Literal["train", "part"] = "train"
    """Concepts that words are predicted from: those of training, or ``part``: those of the part itself, a closed gallery; it is said."""
    num_words: int = 0
    """Predicted concepts in prompts with words; 0: as in training, at least one."""
    style: Style | None = None
    """Prompt style; null: that of training."""
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    """The same for all arms."""
    missing_captions: Missing | None = None
    """Items without a caption to compare with: ``refuse`` them, or ``drop`` them (counted); null: as in training."""
    seed: int = 0
    """Of sampling, noise and shuffling."""
    limit: int = 0
    """Only this many items, a fixed choice; 0: all."""
    batch_size: int = 32
    """Items a forward."""
    base: str = ""
    """Another place of the base model; empty: as the export says."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the base and the computation."""
    device: DeviceName = "auto"
    """Where it computes."""
    timeout_seconds: float = 3600.0
    """Longest wait for the other ranks."""

    def __post_init__(self) -> None:
        check_seed(self.seed)
        unknown = [arm for arm in self.arms if arm not in ARMS]
        if unknown or not self.arms:
            raise ValueError(f"arms: {unknown[0] if unknown else 'empty'}, expected some of {', '.join(ARMS)}")
        if len(set(self.arms)) < len(self.arms):
            raise ValueError("arms: one is named twice, expected each once")
        if "label-only" in self.arms and not self.label_only:
            raise ValueError("label_only: empty with the arm label-only, expected the export of a model trained in stage label")
        for name, least in (("seed", 0), ("limit", 0), ("num_words", 0), ("batch_size", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: {getattr(self, name)}, expected at least {least}")
