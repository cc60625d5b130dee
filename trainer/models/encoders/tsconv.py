"""TSConv, the temporal-spatial convolution of NICE (Song et al. 2024), with its pooling folded into the convolution.

B: rows, C: channels, T: time points, F: filters, L: time steps after pooling.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_prep.contract.errors import UserError
from trainer.distributed.batch_norm import NormKind, build_norm
from trainer.models.dropout import Dropout
from trainer.models.encoders.base import Encoder, EncoderConfig, EncoderOutput, require_positive, require_share


@dataclass(frozen=True, kw_only=True)
class TSConv(EncoderConfig):
    """Temporal convolution, average pooling, spatial convolution; embedding is the flattened filters x time steps.

    Sizes are NICE's, chosen there for 250 Hz. Its residual projection head is ``eeg_head: residual`` of the model.
    """

    num_filters: int = 40
    """Temporal and spatial filters."""
    kernel_samples: int = 25
    """Length of the temporal convolution in time points."""
    pool_samples: int = 51
    """Length of the average pooling in time points."""
    stride_samples: int = 5
    """Step of the average pooling in time points."""
    dropout: float = 0.5
    """Dropout after the spatial convolution."""

    def __post_init__(self) -> None:
        require_positive(
            "TSConv",
            num_filters=self.num_filters,
            kernel_samples=self.kernel_samples,
            pool_samples=self.pool_samples,
            stride_samples=self.stride_samples,
        )
        require_share("TSConv", dropout=self.dropout)

    def build(self, *, n_chans: int, n_times: int, sfreq: float, num_subjects: int, norm: NormKind = "batch") -> Encoder:
        """See :meth:`EncoderConfig.build`; ``sfreq`` and ``num_subjects`` are not used."""
        return TSConvModule(self, n_chans, n_times, norm)


class TSConvModule(Encoder):
    """The module of :class:`TSConv`."""

    def __init__(self, config: TSConv, n_chans: int, n_times: int, norm: NormKind) -> None:
        super().__init__()
        shortest = config.kernel_samples + config.pool_samples - 1
        if n_times < shortest:
            raise UserError(
                f"TSConv: kernel_samples {config.kernel_samples} and pool_samples {config.pool_samples} need at least {shortest} "
                f"time points, the data have n_times {n_times}: shorten them or widen the window"
            )
        bias = norm != "batch"  # batch normalisation takes any constant away again
        self.temporal = _TemporalPooled(config, bias)
        self.temporal_norm = build_norm(norm, config.num_filters)
        self.spatial = nn.Conv2d(config.num_filters, config.num_filters, (n_chans, 1), bias=bias)
        self.spatial_norm = build_norm(norm, config.num_filters)
        self.dropout = Dropout(config.dropout)
        self.token_dim = config.num_filters
        self.embedding_dim = config.num_filters * ((n_times - shortest) // config.stride_samples + 1)

    def forward(self, eeg_BCT: Tensor, subject_B: Tensor, positions_C3: Tensor | None = None) -> EncoderOutput:
        """Tokens are the L time steps (B, L, F); the embedding is (B, F * L)."""
        x_BFCL = F.elu(self.temporal_norm(self.temporal(eeg_BCT)))
        x_BFL = F.elu(self.spatial_norm(self.spatial(x_BFCL))).squeeze(2)
        tokens_BLF = self.dropout(x_BFL).transpose(1, 2)
        return EncoderOutput(tokens_BLF, tokens_BLF.flatten(1))


class _TemporalPooled(nn.Conv2d):
    """Convolution (1, kernel) followed by average pooling (1, pool) / stride, computed as one strided convolution.

    Both are linear, so their composition is a convolution with the kernel smoothed by the box: the same result and the
    same gradients from a fifth of the output positions. The parameters stay those of the plain convolution.
    """

    def __init__(self, config: TSConv, bias: bool) -> None:
        super().__init__(1, config.num_filters, (1, config.kernel_samples), bias=bias)
        self.pool_samples, self.stride_samples = config.pool_samples, config.stride_samples

    def forward(self, eeg_BCT: Tensor) -> Tensor:
        """(B, C, T) -> (B, F, C, L)."""
        with torch.autocast(eeg_BCT.device.type, enabled=False):  # smooth in float32, round once
            box = self.weight.new_full((1, 1, 1, self.pool_samples), 1 / self.pool_samples)
            smoothed = F.conv2d(self.weight, box, padding=(0, self.pool_samples - 1))
        return F.conv2d(eeg_BCT[:, None], smoothed, self.bias, stride=(1, self.stride_samples))
