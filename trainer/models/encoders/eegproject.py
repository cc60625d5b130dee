"""EEGProject, the flat network of UBP (Wu et al. 2025): channels and time points as one long vector.

B: rows, C: channels, T: time points, E: embedding dimension.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from trainer.distributed.batch_norm import NormKind
from trainer.models.encoders.base import Encoder, EncoderConfig, EncoderOutput, require_positive, require_share
from trainer.models.heads import ResidualBlock


@dataclass(frozen=True, kw_only=True)
class EEGProject(EncoderConfig):
    """Linear layer on the flattened trial, a residual GELU block, layer norm. The published model uses it without a head."""

    embedding_dim: int = 1024
    """Dimension of the embedding."""
    dropout: float = 0.3
    """Dropout inside the residual block."""

    def __post_init__(self) -> None:
        require_positive("EEGProject", embedding_dim=self.embedding_dim)
        require_share("EEGProject", dropout=self.dropout)

    def build(self, *, n_chans: int, n_times: int, sfreq: float, num_subjects: int, norm: NormKind = "batch") -> Encoder:
        """See :meth:`EncoderConfig.build`; only ``n_chans`` and ``n_times`` are used."""
        return EEGProjectModule(self, n_chans, n_times)


class EEGProjectModule(Encoder):
    """The module of :class:`EEGProject`."""

    def __init__(self, config: EEGProject, n_chans: int, n_times: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(n_chans * n_times, config.embedding_dim),
            ResidualBlock(config.embedding_dim, config.dropout),
            nn.LayerNorm(config.embedding_dim),
        )
        self.token_dim = self.embedding_dim = config.embedding_dim

    def forward(self, eeg_BCT: Tensor, subject_B: Tensor, positions_C3: Tensor | None = None) -> EncoderOutput:
        """One token (B, 1, E), the embedding itself."""
        embedding_BE = self.layers(eeg_BCT.flatten(1))
        return EncoderOutput(embedding_BE[:, None], embedding_BE)
