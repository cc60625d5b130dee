"""Batch normalisation over the global batch, on any device, and the choice between kinds of normalisation.

A batch cut in two gives gradients 13 % off under ordinary batch normalisation, and torch's SyncBatchNorm refuses the CPU.
Here each rank sends (count, mean, sum of squared deviations) of its rows; combined by the parallel formula of Chan et al.
(1983) they are the statistics of the joined batch without the cancellation of a plain sum of squares.

B: rows of this rank, C: channels, R: ranks, *: any further dimensions.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_prep.contract.errors import UserError
from trainer.distributed import collectives

NormKind = Literal["batch", "group", "layer"]


class Chunks(Protocol):
    """Statistics of a batch of which a forward sees a chunk; see :mod:`trainer.distributed.chunked_norm`."""

    def normalize(self, norm: GlobalBatchNorm, x: Tensor, weight_C: Tensor, bias_C: Tensor) -> Tensor:
        """(N, C, *) -> (N, C, *), float32."""
        ...


class GlobalBatchNorm(nn.Module):
    """Batch normalisation of (B, C, *) whose statistics are those of all ranks' rows together.

    Statistics and arithmetic are float32 whatever autocast says; the output has the input's dtype. Running statistics
    (unbiased variance) are equal on all ranks and used in eval mode. Ranks may bring different numbers of rows.

    Parameters
    ----------
    num_features
        Channels, dimension 1 of the input.
    eps
        Added to the variance.
    momentum
        Share of the newest batch in the running statistics.
    """

    running_mean: Tensor
    running_var: Tensor
    chunks: Chunks | None = None
    """In training, whom to ask for statistics where the rows are not the whole batch of this rank."""

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *) -> (B, C, *), same dtype."""
        if x.ndim < 2 or x.shape[1] != self.num_features:
            raise UserError(f"GlobalBatchNorm has {self.num_features} channels, its input has shape {tuple(x.shape)}")
        with torch.autocast(x.device.type, enabled=False):
            x32, weight, bias = x.float(), self.weight.float(), self.bias.float()
            if not self.training:
                return F.batch_norm(x32, self.running_mean, self.running_var, weight, bias, False, 0.0, self.eps).to(x.dtype)
            if self.chunks is not None:
                return self.chunks.normalize(self, x32, weight, bias).to(x.dtype)
            if collectives.num_ranks() == 1:
                check_count(x.numel() // self.num_features)
                return F.batch_norm(x32, self.running_mean, self.running_var, weight, bias, True, self.momentum, self.eps).to(x.dtype)
            y: Tensor
            y, mean_C, var_C, count = _NormalizeAcrossRanks.apply(x32, weight, bias, self.eps)
            self.remember(mean_C, var_C, count)
            return y.to(x.dtype)

    @torch.no_grad()
    def remember(self, mean_C: Tensor, var_C: Tensor, count: Tensor) -> None:
        """Bring the running statistics up to date with a batch's (biased variance, values a channel)."""
        self.running_mean.lerp_(mean_C.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_((var_C * (count / (count - 1))).to(self.running_var.dtype), self.momentum)

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}"


class _NormalizeAcrossRanks(torch.autograd.Function):
    """y = (x - mean) / sqrt(var + eps) * weight + bias with statistics over all ranks: one gather forward, one sum backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_C: Tensor, bias_C: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        local = moments(x)
        mean_C, var_C, count = merge(collectives.gather_ids(local[None]))
        if x.numel() <= x.shape[1]:  # who brings two values need not ask, for which it would wait for the device
            check_count(int(count))
        scale_C = torch.rsqrt(var_C + eps)
        y, inner = normalized(x, mean_C, scale_C, weight_C, bias_C)
        ctx.save_for_backward(inner, weight_C, scale_C, count)
        ctx.mark_non_differentiable(mean_C, var_C, count)
        return y, mean_C, var_C, count

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        inner, weight_C, scale_C, count = ctx.saved_tensors
        grad = grads[0]
        over = [d for d in range(grad.ndim) if d != 1]
        grad_bias_C, grad_weight_C = grad.sum(over), (grad * inner).sum(over)
        means_2C = collectives.sum_across(torch.stack([grad_bias_C, grad_weight_C])) / count
        # Parameters get this rank's share only: DeepSpeed averages parameter gradients over ranks itself.
        return input_gradient(grad, inner, weight_C * scale_C, means_2C), grad_weight_C, grad_bias_C, None


def moments(x: Tensor) -> Tensor:
    """Values a channel, their means and biased variances of (B, C, *), in one vector (1 + 2 C,)."""
    num_features = x.shape[1]
    count = x.numel() // num_features
    if count:
        var_C, mean_C = torch.var_mean(x, [d for d in range(x.ndim) if d != 1], correction=0)
    else:
        var_C, mean_C = x.new_zeros(num_features), x.new_zeros(num_features)
    return torch.cat([x.new_full((1,), count), mean_C, var_C])


def merge(moments_RM: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (C,), biased variance (C,) and values a channel of all parts together, of a row of :func:`moments` for each."""
    num_features = moments_RM.shape[1] // 2
    counts_R, means_RC, vars_RC = torch.split(moments_RM, [1, num_features, num_features], dim=1)
    count = counts_R.sum()
    share_R = counts_R / count
    mean_C = (means_RC * share_R).sum(0)
    return mean_C, ((vars_RC + (means_RC - mean_C).square()) * share_R).sum(0), count


def normalized(x: Tensor, mean_C: Tensor, scale_C: Tensor, weight_C: Tensor, bias_C: Tensor) -> tuple[Tensor, Tensor]:
    """The output of (B, C, *), and it without weight and bias."""
    inner = (x - _wide(mean_C, x)) * _wide(scale_C, x)
    return torch.addcmul(_wide(bias_C, x), inner, _wide(weight_C, x)), inner


def input_gradient(grad: Tensor, inner: Tensor, factor_C: Tensor, means_2C: Tensor) -> Tensor:
    """Gradient with respect to the input, of that of the output.

    Parameters
    ----------
    inner
        The output without weight and bias.
    factor_C
        Weight / sqrt(variance + eps).
    means_2C
        Over the batch: of the output's gradient, and of it times ``inner``. They stand for what mean and variance have to do with it.
    """
    return (grad - _wide(means_2C[0], grad) - inner * _wide(means_2C[1], grad)) * _wide(factor_C, grad)


def check_count(count: int) -> None:
    """Refuse a batch of a single value a channel."""
    if count <= 1:
        raise UserError("batch normalisation needs more than one value a channel over all ranks: enlarge the batch, or norm: layer")


def _wide(value_C: Tensor, like: Tensor) -> Tensor:
    return value_C.reshape(1, -1, *[1] * (like.ndim - 2))


def build_norm(kind: NormKind, num_features: int) -> nn.Module:
    """Normalisation of (B, C, *): ``batch`` over the global batch, ``group`` of up to 8 channel groups, ``layer`` over all channels."""
    if kind == "batch":
        return GlobalBatchNorm(num_features)
    if kind == "group":
        return nn.GroupNorm(max(g for g in range(1, 9) if num_features % g == 0), num_features)
    if kind == "layer":
        return nn.GroupNorm(1, num_features)
    raise UserError(f"norm: {kind!r}, expected batch, group or layer")
