"""ChannelNet (Palazzo et al. 2021), the EEG encoder of Thought2Text: a trial as a picture of channels x time points.

B: rows, C: channels, T: time points, F: feature maps, H: height (what strides left of the channels), W: width (of the time
points), L = H * W: tokens, E: embedding dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.distributed.batch_norm import NormKind, build_norm
from trainer.models.dropout import Dropout
from trainer.models.encoders.base import Encoder, EncoderConfig, EncoderOutput, require_positive, require_share


@dataclass(frozen=True, kw_only=True)
class ChannelNet(EncoderConfig):
    """Parallel temporal and spatial convolutions, residual blocks that halve the map, one convolution, one linear layer.

    Sizes are the published ones, for 128 channels x 440 time points. A trial of any size fits: convolutions along time and
    channels keep what is there (padded), and where the map has become smaller than a halving convolution's kernel, it is
    padded, too. The published concept head (40 classes) is the model's, see ``loss.cross_entropy_weight``.
    """

    temporal_filters: int = 10
    """Feature maps of each temporal convolution."""
    kernel_samples: int = 33
    """Length of the temporal convolutions in time points, odd."""
    dilations: list[int] = field(default_factory=lambda: [1, 2, 4, 8])
    """One temporal convolution for each, side by side, its taps so many time points apart."""
    temporal_stride_samples: int = 2
    """Step of the temporal convolutions in time points."""
    spatial_filters: int = 50
    """Feature maps of each spatial convolution, and of the last one."""
    spatial_layers: int = 4
    """Spatial convolutions side by side; the n-th spans a n-th of the channels."""
    spatial_stride: int = 2
    """Step of the spatial convolutions in channels: the order of the channels matters."""
    residual_blocks: int = 4
    """Residual blocks, each followed by a convolution that halves height and width."""
    embedding_dim: int = 512
    """Dimension of the embedding."""
    dropout: float = 0.2
    """Dropout of whole feature maps after each convolution."""

    def __post_init__(self) -> None:
        name = "ChannelNet"
        require_positive(
            name,
            temporal_filters=self.temporal_filters,
            temporal_stride_samples=self.temporal_stride_samples,
            spatial_filters=self.spatial_filters,
            spatial_layers=self.spatial_layers,
            spatial_stride=self.spatial_stride,
            embedding_dim=self.embedding_dim,
        )
        require_share(name, dropout=self.dropout)
        if self.residual_blocks < 0:
            raise ValueError(f"{name}.residual_blocks: {self.residual_blocks}, expected 0 or more")
        if self.kernel_samples < 1 or self.kernel_samples % 2 == 0:
            raise ValueError(f"{name}.kernel_samples: {self.kernel_samples}, expected an odd positive length")
        if not self.dilations or min(self.dilations) < 1:
            raise ValueError(f"{name}.dilations: {self.dilations}, expected at least one, each at least 1")

    def build(self, *, n_chans: int, n_times: int, sfreq: float, num_subjects: int, norm: NormKind = "batch") -> Encoder:
        """See :meth:`EncoderConfig.build`; ``sfreq`` and ``num_subjects`` are not used."""
        return ChannelNetModule(self, n_chans, n_times, norm)


class ChannelNetModule(Encoder):
    """The module of :class:`ChannelNet`."""

    def __init__(self, config: ChannelNet, n_chans: int, n_times: int, norm: NormKind) -> None:
        super().__init__()
        filters, stride = config.temporal_filters, config.temporal_stride_samples
        wide = config.spatial_filters * config.spatial_layers
        # The published network rectifies its raw input, which throws half of every wave away; here the signal enters as it is.
        self.temporal = nn.ModuleList(
            _Layer(1, filters, (1, config.kernel_samples), (1, stride), config.dropout, norm, dilation=(1, dilation), rectify=False)
            for dilation in config.dilations
        )
        self.spatial = nn.ModuleList(
            _Layer(
                filters * len(config.dilations),
                config.spatial_filters,
                (max(1, n_chans // (number + 1)), 1),
                (config.spatial_stride, 1),
                config.dropout,
                norm,
            )
            for number in range(config.spatial_layers)
        )
        height, width = _steps(n_chans, config.spatial_stride), _steps(n_times, stride)
        blocks: list[nn.Module] = []
        for _ in range(config.residual_blocks):
            down = _Halving(wide, wide, (height, width), 2, config.dropout, norm)
            blocks += [_Residual(wide, norm), down]
            height, width = down.size
        self.blocks = nn.Sequential(*blocks)
        self.last = _Halving(wide, config.spatial_filters, (height, width), 1, config.dropout, norm)
        height, width = self.last.size
        self.to_embedding = nn.Linear(config.spatial_filters * height * width, config.embedding_dim)
        self.token_dim, self.embedding_dim = config.spatial_filters, config.embedding_dim

    def forward(self, eeg_BCT: Tensor, subject_B: Tensor, positions_C3: Tensor | None = None) -> EncoderOutput:
        """Tokens are the positions of the last feature map (B, L, F), row by row; the embedding is a linear map of it."""
        x_B1CT = eeg_BCT[:, None]
        x_BFCW = torch.cat([layer(x_B1CT) for layer in self.temporal], dim=1)
        x_BFHW = torch.cat([layer(x_BFCW) for layer in self.spatial], dim=1)
        x_BFHW = self.last(self.blocks(x_BFHW))
        return EncoderOutput(x_BFHW.flatten(2).transpose(1, 2), self.to_embedding(x_BFHW.flatten(1)))


class _Layer(nn.Module):
    """Normalisation, ReLU, convolution, dropout of whole maps; every axis is padded so that ceil(size / stride) steps are left."""

    def __init__(
        self,
        wide_in: int,
        wide_out: int,
        kernel: tuple[int, int],
        stride: tuple[int, int],
        dropout: float,
        norm: NormKind,
        *,
        dilation: tuple[int, int] = (1, 1),
        rectify: bool = True,
    ) -> None:
        super().__init__()
        self.norm = build_norm(norm, wide_in)
        self.rectify = rectify
        self.convolution = nn.Conv2d(wide_in, wide_out, kernel, stride, dilation=dilation)
        self.dropout = Dropout(dropout, whole_maps=True)
        # An even kernel needs one more on one side, which Conv2d's own padding cannot give.
        reach = [(k - 1) * d for k, d in zip(kernel, dilation, strict=True)]
        self.padding = [reach[1] // 2, reach[1] - reach[1] // 2, reach[0] // 2, reach[0] - reach[0] // 2]

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        maps: Tensor = self.dropout(self.convolution(F.pad(F.relu(x) if self.rectify else x, self.padding)))
        return maps


class _Halving(nn.Module):
    """Normalisation, ReLU, 3 x 3 convolution, dropout; an axis shorter than the kernel is padded, the others are not, as published."""

    size: Sequence[int]
    """Height and width it leaves."""

    def __init__(self, wide_in: int, wide_out: int, size: Sequence[int], stride: int, dropout: float, norm: NormKind) -> None:
        super().__init__()
        padding = [0 if length >= 3 else 1 for length in size]
        self.norm = build_norm(norm, wide_in)
        self.convolution = nn.Conv2d(wide_in, wide_out, 3, stride, padding=(padding[0], padding[1]))
        self.dropout = Dropout(dropout, whole_maps=True)
        self.size = [(length + 2 * extra - 3) // stride + 1 for length, extra in zip(size, padding, strict=True)]

    def forward(self, x_BFHW: Tensor) -> Tensor:
        maps_BFHW: Tensor = self.dropout(self.convolution(F.relu(self.norm(x_BFHW))))
        return maps_BFHW


class _Residual(nn.Module):
    """ReLU(x + norm(convolution(ReLU(norm(convolution(x))))))."""

    def __init__(self, wide: int, norm: NormKind) -> None:
        super().__init__()
        bias = norm != "batch"  # batch normalisation takes any constant away again
        self.first, self.second = (nn.Conv2d(wide, wide, 3, padding=1, bias=bias) for _ in range(2))
        self.norm_first, self.norm_second = build_norm(norm, wide), build_norm(norm, wide)

    def forward(self, x_BFHW: Tensor) -> Tensor:
        y_BFHW = F.relu(self.norm_first(self.first(x_BFHW)))
        return F.relu(x_BFHW + self.norm_second(self.second(y_BFHW)))


def _steps(length: int, stride: int) -> int:
    return -(-length // stride)
