"""From an EEG (or image) feature to prefix tokens of a language model.

B: items, S: feature tokens (1 for an embedding), D: their width, K: prefix tokens, H: hidden size of the language model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from data_prep.contract.errors import UserError
from trainer.models.dropout import Dropout, attend


@dataclass(frozen=True, kw_only=True)
class PrefixConfig:
    """The projector."""

    kind: Literal["linear", "mlp", "resampler"] = "mlp"
    """``linear`` and ``mlp`` read the mean of the feature tokens; ``resampler``: K learned queries attend to all of them (Perceiver)."""
    features: Literal["embedding", "tokens"] = "embedding"
    """What of the encoder is read: its ``embedding`` in the common space with images, or its ``tokens`` (an image then is one token)."""
    num_tokens: int = 4
    """K, prefix tokens."""
    hidden: int = 1024
    """Hidden width of ``mlp``."""
    dropout: float = 0.0
    """Dropout after the hidden layer of ``mlp``, and inside ``resampler``."""
    layers: int = 2
    """Blocks of ``resampler``."""
    heads: int = 8
    """Attention heads of ``resampler``; must divide the language model's hidden size."""

    def __post_init__(self) -> None:
        if self.kind not in ("linear", "mlp", "resampler"):
            raise ValueError(f"prefix.kind: {self.kind!r}, expected linear, mlp or resampler")
        if self.features not in ("embedding", "tokens"):
            raise ValueError(f"prefix.features: {self.features!r}, expected embedding or tokens")
        for name in ("num_tokens", "hidden", "layers", "heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"prefix.{name}: {getattr(self, name)}, expected at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"prefix.dropout: {self.dropout}, expected 0 to below 1")

    def build(self, feature_dim: int, hidden_size: int, embedding_rms: float) -> Projector:
        """The module, randomly initialised; ``embedding_rms`` is the scale of the language model's own token embeddings."""
        if self.kind == "resampler" and hidden_size % self.heads:
            raise UserError(f"prefix.heads: {self.heads}, expected a divisor of the language model's hidden size {hidden_size}")
        return Projector(self, feature_dim, hidden_size, embedding_rms)


class Projector(nn.Module):
    """features_BSD -> prefix_BKH, layer-normed and scaled like token embeddings, so that no prefix drowns the words or is drowned."""

    def __init__(self, config: PrefixConfig, feature_dim: int, hidden_size: int, embedding_rms: float) -> None:
        super().__init__()
        self.num_tokens, self.hidden_size, self.scale = config.num_tokens, hidden_size, embedding_rms
        # Unit-norm embeddings have values of 1 / sqrt(D): this brings any feature to unit variance.
        self.input_norm = nn.LayerNorm(feature_dim)
        self.resampler: Resampler | None = None
        self.net: nn.Module | None = None
        wide = config.num_tokens * hidden_size
        if config.kind == "linear":
            self.net = nn.Linear(feature_dim, wide)
        elif config.kind == "mlp":
            self.net = nn.Sequential(
                nn.Linear(feature_dim, config.hidden), nn.GELU(), Dropout(config.dropout), nn.Linear(config.hidden, wide)
            )
        else:
            self.resampler = Resampler(config, feature_dim, hidden_size)
        self.output_norm = nn.LayerNorm(hidden_size)

    def forward(self, features_BSD: Tensor) -> Tensor:
        """float32 or autocast (B, S, D) -> (B, K, H)."""
        normed_BSD = self.input_norm(features_BSD)
        if self.resampler is not None:
            found_BKH = self.resampler(normed_BSD)
        else:
            assert self.net is not None
            found_BKH = self.net(normed_BSD.mean(dim=1)).unflatten(-1, (self.num_tokens, self.hidden_size))
        prefix_BKH: Tensor = self.output_norm(found_BKH) * self.scale
        return prefix_BKH


class Resampler(nn.Module):
    """K learned queries that attend to the feature tokens, as in Perceiver (Jaegle et al. 2021).

    Not to each other: a token that stands alone, as an image's does, then counts like any number of copies of it.
    """

    def __init__(self, config: PrefixConfig, feature_dim: int, hidden_size: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(config.num_tokens, hidden_size) * 0.02)
        self.input = nn.Linear(feature_dim, hidden_size)
        self.blocks = nn.ModuleList(_Block(hidden_size, config.heads, config.dropout) for _ in range(config.layers))

    def forward(self, features_BSD: Tensor) -> Tensor:
        """(B, S, D) -> (B, K, H)."""
        source_BSH = self.input(features_BSD)
        x_BKH = self.queries.expand(len(features_BSD), -1, -1)
        for block in self.blocks:
            x_BKH = block(x_BKH, source_BSH)
        return x_BKH


class _Block(nn.Module):
    """Attention and feed-forward part.

    Written out because nn.MultiheadAttention reads its output layer's weight without calling it, behind the back of the
    hooks with which ZeRO-3 brings a layer's parameters.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.attention_dropout = heads, Dropout(dropout)
        self.query_norm, self.source_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_query, self.to_key_value, self.from_heads = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), Dropout(dropout), nn.Linear(4 * width, width))

    def forward(self, x_BKH: Tensor, source_BSH: Tensor) -> Tensor:
        query = self.to_query(self.query_norm(x_BKH)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        key, value = self.to_key_value(self.source_norm(source_BSH)).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        found = attend(query, key, value, self.attention_dropout)
        x_BKH = x_BKH + self.from_heads(found.transpose(1, 2).flatten(2))
        change_BKH: Tensor = self.mlp(self.mlp_norm(x_BKH))
        return x_BKH + change_BKH
