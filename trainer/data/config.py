"""Which data a run uses, and what an item of them is."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from data_prep.contract import schema
from trainer.data.batch import Normalise
from trainer.data.hashes import Verify
from trainer.data.select import SelectConfig


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which data a run uses, and what an item of it is."""

    study: str
    """Folder of the sharded study."""
    split: str
    """Name of a split of the study (``splits/NAME.json``)."""
    embedding: str
    """Name of the image embedding to align with (``embeddings/NAME.npy``)."""
    repetitions: Literal["mean", "each", "random_mean"] = "mean"
    """``mean``: an item is a sample, the average of its repetitions in the part; ``random_mean``: the average of
    ``random_mean_k`` of them, drawn anew in each data pass; ``each``: an item is a single repetition."""
    random_mean_k: int = 2
    """Repetitions averaged under ``random_mean``, without replacement; a sample that has fewer gives all it has."""
    select: SelectConfig = field(default_factory=SelectConfig)
    """Part of the data to use."""
    block_shards: int = 16
    """Shards whose items are mixed with each other: more mixes better, fewer read from fewer files at a time."""
    transform: str | None = None
    """Name of what was fitted on the split's training rows (``transforms/NAME.npz``), applied to each repetition; null: none."""
    normalise: Normalise = "none"
    """Scaling of each averaged item by itself: ``none``; ``channel_demean`` (each channel's mean over time to 0);
    ``channel_zscore`` (and its deviation to 1); ``trial_zscore`` (one mean and deviation for all channels)."""
    verify: Verify = "first_touch"
    """Which shards' SHA-256 is checked, by every rank for itself: ``first_touch`` those that it reads, once, beside training, and
    nothing is saved, exported or scored before they are right; ``all`` every one before the first step; ``sizes`` none, only sizes,
    as at every opening."""

    def __post_init__(self) -> None:
        schema.check_split_name(self.split)
        schema.check_embedding_name(self.embedding)
        if self.repetitions not in ("mean", "each", "random_mean"):
            raise ValueError(f"data.repetitions is {self.repetitions!r}, expected mean, each or random_mean")
        if self.random_mean_k < 1:
            raise ValueError(f"data.random_mean_k is {self.random_mean_k}, expected at least 1")
        if self.block_shards < 1:
            raise ValueError(f"data.block_shards is {self.block_shards}, expected at least 1")
        if self.transform is not None and not schema.SPLIT_NAME.match(self.transform):
            raise ValueError(f"data.transform is {self.transform!r}, expected letters, digits, '_' and '-' only")
        if self.normalise not in ("none", "channel_demean", "channel_zscore", "trial_zscore"):
            raise ValueError(f"data.normalise is {self.normalise!r}, expected none, channel_demean, channel_zscore or trial_zscore")
        if self.verify not in get_args(Verify):
            raise ValueError(f"data.verify is {self.verify!r}, expected one of {', '.join(get_args(Verify))}")

    def unfiltered(self) -> DataConfig:
        """The same without the choice of correctly classified trials, for parts that are scored and for whatever judges trials."""
        return replace(self, select=replace(self.select, keep="all", keep_encoder=""))
