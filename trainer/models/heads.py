"""Heads from an embedding to the common space.

B: rows, I: input width, P: output width.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from data_prep.contract.errors import UserError
from trainer.models.dropout import Dropout

HeadKind = Literal["none", "linear", "mlp", "residual"]


def build_head(kind: HeadKind, in_dim: int, out_dim: int, hidden: int, dropout: float, *, field: str) -> nn.Module:
    """A head (B, I) -> (B, P).

    ``none`` is the identity, ``linear`` one layer, ``mlp`` Linear, GELU, dropout, Linear, and ``residual`` NICE's: Linear,
    a residual GELU-Linear-dropout block, layer norm. ``field`` names the config field in errors.
    """
    if kind == "none":
        if in_dim != out_dim:
            raise UserError(f"{field}: none, but its input has {in_dim} dimensions and the common space {out_dim}; choose linear or mlp")
        return nn.Identity()
    if kind == "linear":
        return nn.Linear(in_dim, out_dim)
    if kind == "mlp":
        return nn.Sequential(nn.Linear(in_dim, hidden), nn.GELU(), Dropout(dropout), nn.Linear(hidden, out_dim))
    if kind == "residual":
        return nn.Sequential(nn.Linear(in_dim, out_dim), ResidualBlock(out_dim, dropout), nn.LayerNorm(out_dim))
    raise UserError(f"{field}: {kind!r}, expected none, linear, mlp or residual")


class ResidualBlock(nn.Module):
    """x + dropout(Linear(GELU(x))), as in NICE and UBP."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.activation, self.linear, self.dropout = nn.GELU(), nn.Linear(width, width), Dropout(dropout)

    def forward(self, x_BP: Tensor) -> Tensor:
        """(B, P) -> (B, P)."""
        change_BP: Tensor = self.dropout(self.linear(self.activation(x_BP)))
        return x_BP + change_BP
