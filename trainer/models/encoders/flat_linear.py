"""A linear map of the whole trial: with weight decay it is ridge regression's cousin, and hard to beat on few trials.

B: rows, C: channels, T: time points, W: time windows, E: embedding dimension.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from data_prep.contract.errors import UserError
from trainer.distributed.batch_norm import NormKind, build_norm
from trainer.models.dropout import Dropout
from trainer.models.encoders.base import Encoder, EncoderConfig, EncoderOutput, require_positive, require_share


@dataclass(frozen=True, kw_only=True)
class FlatLinear(EncoderConfig):
    """Mean over time windows, normalisation of every feature, dropout, one linear layer. Weight decay is its shrinkage."""

    embedding_dim: int = 64
    """Dimension of the embedding."""
    num_windows: int = 0
    """Average the time points into so many windows first, as ERP classifiers do; 0 keeps every time point."""
    dropout: float = 0.0
    """Dropout of features (channel x window)."""
    normalize_features: bool = True
    """Batch-normalise each channel x window feature, so that weight decay shrinks all alike (only with ``norm: batch``)."""

    def __post_init__(self) -> None:
        require_positive("FlatLinear", embedding_dim=self.embedding_dim)
        require_share("FlatLinear", dropout=self.dropout)
        if self.num_windows < 0:
            raise ValueError(f"FlatLinear.num_windows: {self.num_windows}, expected 0 (every time point) or more")

    def build(self, *, n_chans: int, n_times: int, sfreq: float, num_subjects: int, norm: NormKind = "batch") -> Encoder:
        """See :meth:`EncoderConfig.build`; ``sfreq`` and ``num_subjects`` are not used."""
        return FlatLinearModule(self, n_chans, n_times, norm)


class FlatLinearModule(Encoder):
    """The module of :class:`FlatLinear`."""

    def __init__(self, config: FlatLinear, n_chans: int, n_times: int, norm: NormKind) -> None:
        super().__init__()
        if config.num_windows > n_times:
            raise UserError(f"FlatLinear: num_windows {config.num_windows}, but the data have n_times {n_times}")
        self.num_windows = config.num_windows
        num_features = n_chans * (config.num_windows or n_times)
        normalize = config.normalize_features and norm == "batch"
        self.norm = build_norm(norm, num_features) if normalize else nn.Identity()
        self.dropout = Dropout(config.dropout)
        self.linear = nn.Linear(num_features, config.embedding_dim)
        self.token_dim = self.embedding_dim = config.embedding_dim

    def forward(self, eeg_BCT: Tensor, subject_B: Tensor, positions_C3: Tensor | None = None) -> EncoderOutput:
        """One token (B, 1, E), the embedding itself."""
        windows_BCW = F.adaptive_avg_pool1d(eeg_BCT, self.num_windows) if self.num_windows else eeg_BCT
        embedding_BE = self.linear(self.dropout(self.norm(windows_BCW.flatten(1))))
        return EncoderOutput(embedding_BE[:, None], embedding_BE)
