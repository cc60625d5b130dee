"""The architecture of EEG-CLIP: dilated convolutions over time, then a pre-norm transformer.

B: rows, C: channels, T = L: time points, D: model width, H: heads, E: embedding dimension.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_prep.contract.errors import UserError
from trainer.distributed.batch_norm import NormKind, build_norm
from trainer.models.dropout import Dropout, attend
from trainer.models.encoders.base import Encoder, EncoderConfig, EncoderOutput, require_positive, require_share


@dataclass(frozen=True, kw_only=True)
class CnnTransformer(EncoderConfig):
    """Convolutions C -> 64 -> 128 -> 128, a linear layer, a transformer over time points, pooling, a linear layer.

    EEG-CLIP's projection head is the model's ``eeg_head: mlp`` with ``eeg_head_hidden: 1024``.
    """

    d_model: int = 256
    """Width of the transformer."""
    num_layers: int = 4
    """Transformer layers; 0 leaves the convolutions alone."""
    num_heads: int = 8
    """Attention heads; must divide d_model."""
    feedforward: int = 1024
    """Hidden width of a layer's feed-forward part."""
    pooling: Literal["cls", "mean", "max"] = "mean"
    """From tokens to one vector: a learned class token, the mean or the maximum over time."""
    embedding_dim: int = 512
    """Dimension of the encoder's embedding."""
    dropout: float = 0.1
    """Dropout in convolutions, attention and feed-forward parts."""
    conv_widths: list[int] = field(default_factory=lambda: [64, 128, 128])
    """Output channels of the convolutions; one is residual where its width equals its input's."""
    kernel_samples: list[int] = field(default_factory=lambda: [7, 5, 3])
    """Kernel lengths in time points, odd, one a convolution."""
    dilations: list[int] = field(default_factory=lambda: [1, 2, 4])
    """Dilations, one a convolution."""
    downsample: int = 1
    """Keep every n-th time point between convolutions and transformer (their mean); 1 keeps all. Attention costs its square."""
    time_code: Literal["sinusoidal", "learned", "none"] = "sinusoidal"
    """What tells time points apart."""

    def __post_init__(self) -> None:
        name = "CnnTransformer"
        require_positive(
            name,
            d_model=self.d_model,
            num_heads=self.num_heads,
            feedforward=self.feedforward,
            embedding_dim=self.embedding_dim,
            downsample=self.downsample,
        )
        require_share(name, dropout=self.dropout)
        if self.num_layers < 0:
            raise ValueError(f"{name}.num_layers: {self.num_layers}, expected 0 or more")
        if self.d_model % self.num_heads or self.d_model % 2:
            raise ValueError(f"{name}.d_model: {self.d_model}, expected an even multiple of num_heads {self.num_heads}")
        if self.pooling not in ("cls", "mean", "max"):
            raise ValueError(f"{name}.pooling: {self.pooling!r}, expected cls, mean or max")
        if self.time_code not in ("sinusoidal", "learned", "none"):
            raise ValueError(f"{name}.time_code: {self.time_code!r}, expected sinusoidal, learned or none")
        if self.pooling == "cls" and not self.num_layers:
            raise ValueError(f"{name}.pooling: cls with num_layers 0, expected mean or max: no layer would fill the class token")
        if not len(self.conv_widths) == len(self.kernel_samples) == len(self.dilations) >= 1:
            raise ValueError(
                f"{name}: {len(self.conv_widths)} conv_widths, {len(self.kernel_samples)} kernel_samples and {len(self.dilations)} "
                "dilations, expected equally many and at least one"
            )
        if any(kernel < 1 or kernel % 2 == 0 for kernel in self.kernel_samples):
            raise ValueError(f"{name}.kernel_samples: {self.kernel_samples}, expected odd positive lengths")
        if min(*self.conv_widths, *self.dilations) < 1:
            raise ValueError(f"{name}: conv_widths {self.conv_widths} and dilations {self.dilations}, expected positive numbers")

    def build(self, *, n_chans: int, n_times: int, sfreq: float, num_subjects: int, norm: NormKind = "batch") -> Encoder:
        """See :meth:`EncoderConfig.build`; ``sfreq`` and ``num_subjects`` are not used."""
        return CnnTransformerModule(self, n_chans, n_times, norm)


class CnnTransformerModule(Encoder):
    """The module of :class:`CnnTransformer`."""

    def __init__(self, config: CnnTransformer, n_chans: int, n_times: int, norm: NormKind) -> None:
        super().__init__()
        reach = max((kernel - 1) * dilation + 1 for kernel, dilation in zip(config.kernel_samples, config.dilations, strict=True))
        shortest = max(reach, config.downsample)
        if n_times < shortest:
            raise UserError(
                f"CnnTransformer: kernel_samples {config.kernel_samples} with dilations {config.dilations} and downsample "
                f"{config.downsample} need at least {shortest} time points, the data have n_times {n_times}"
            )
        widths = [n_chans, *config.conv_widths]
        self.convolutions = nn.ModuleList(
            _ConvBlock(wide_in, wide_out, kernel, dilation, config.dropout, norm)
            for wide_in, wide_out, kernel, dilation in zip(widths[:-1], widths[1:], config.kernel_samples, config.dilations, strict=True)
        )
        self.pooling, self.downsample = config.pooling, config.downsample
        self.to_model = nn.Linear(widths[-1], config.d_model)
        n_tokens = n_times // config.downsample
        self.time = _TimeCode(config.time_code, n_tokens, config.d_model)
        self.class_token = nn.Parameter(torch.randn(1, 1, config.d_model) * 0.02) if config.pooling == "cls" else None
        self.layers = nn.ModuleList(
            _TransformerLayer(config.d_model, config.num_heads, config.feedforward, config.dropout) for _ in range(config.num_layers)
        )
        self.norm = nn.LayerNorm(config.d_model)
        self.to_embedding = nn.Linear(config.d_model, config.embedding_dim)
        self.token_dim, self.embedding_dim = config.d_model, config.embedding_dim

    def forward(self, eeg_BCT: Tensor, subject_B: Tensor, positions_C3: Tensor | None = None) -> EncoderOutput:
        """Tokens are the (downsampled) time points (B, L, D), without the class token."""
        x_BCT = eeg_BCT
        for convolution in self.convolutions:
            x_BCT = convolution(x_BCT)
        if self.downsample > 1:
            x_BCT = F.avg_pool1d(x_BCT, self.downsample)
        x_BLD = self.time(self.to_model(x_BCT.transpose(1, 2)))
        if self.class_token is not None:
            x_BLD = torch.cat([self.class_token.expand(len(x_BLD), -1, -1).to(x_BLD.dtype), x_BLD], dim=1)
        for layer in self.layers:
            x_BLD = layer(x_BLD)
        x_BLD = self.norm(x_BLD)
        if self.pooling == "cls":
            pooled_BD, x_BLD = x_BLD[:, 0], x_BLD[:, 1:]
        elif self.pooling == "mean":
            pooled_BD = x_BLD.mean(1)
        else:
            pooled_BD = x_BLD.amax(1)
        return EncoderOutput(x_BLD, self.to_embedding(pooled_BD))


class _ConvBlock(nn.Module):
    """Convolution of unchanged length, normalisation, GELU, dropout; residual where widths match."""

    def __init__(self, wide_in: int, wide_out: int, kernel: int, dilation: int, dropout: float, norm: NormKind) -> None:
        super().__init__()
        padding = (kernel - 1) * dilation // 2
        bias = norm != "batch"  # batch normalisation takes any constant away again
        self.convolution = nn.Conv1d(wide_in, wide_out, kernel, dilation=dilation, padding=padding, bias=bias)
        self.norm = build_norm(norm, wide_out)
        self.dropout = Dropout(dropout)
        self.residual = wide_in == wide_out

    def forward(self, x_BCT: Tensor) -> Tensor:
        y_BCT: Tensor = self.dropout(F.gelu(self.norm(self.convolution(x_BCT))))
        return x_BCT + y_BCT if self.residual else y_BCT


class _TimeCode(nn.Module):
    """Adds what tells time points apart to (B, L, D)."""

    code_LD: Tensor

    def __init__(self, kind: str, n_tokens: int, width: int) -> None:
        super().__init__()
        if kind == "learned":
            self.code_LD = nn.Parameter(torch.randn(n_tokens, width) * 0.02)
        else:
            code_LD = torch.zeros(n_tokens, width)
            if kind == "sinusoidal":
                angle_LD = torch.arange(n_tokens)[:, None] * torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
                code_LD[:, 0::2], code_LD[:, 1::2] = angle_LD.sin(), angle_LD.cos()
            self.register_buffer("code_LD", code_LD, persistent=False)

    def forward(self, x_BLD: Tensor) -> Tensor:
        return x_BLD + self.code_LD.to(x_BLD.dtype)


class _TransformerLayer(nn.Module):
    """Pre-norm attention and feed-forward part.

    Written out because nn.MultiheadAttention reads its output layer's weight without calling it, behind the back of the
    hooks with which ZeRO-3 brings a layer's parameters.
    """

    def __init__(self, width: int, num_heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm_attention, self.norm_feedforward = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_qkv, self.from_heads = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feedforward = nn.Sequential(
            nn.Linear(width, feedforward), nn.GELU(), Dropout(dropout), nn.Linear(feedforward, width), Dropout(dropout)
        )
        self.attention_dropout, self.dropout = Dropout(dropout), Dropout(dropout)

    def forward(self, x_BLD: Tensor) -> Tensor:
        q_BHLK, k_BHLK, v_BHLK = self.to_qkv(self.norm_attention(x_BLD)).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        heads_BHLK = attend(q_BHLK, k_BHLK, v_BHLK, self.attention_dropout)
        x_BLD = x_BLD + self.dropout(self.from_heads(heads_BHLK.transpose(1, 2).flatten(2)))
        change_BLD: Tensor = self.feedforward(self.norm_feedforward(x_BLD))
        return x_BLD + change_BLD
