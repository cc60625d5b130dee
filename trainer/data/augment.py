"""Augmentation of a batch on the training device, the same for an item whatever batch, rank or device it is in.

Every random number is a hash of (seed, data pass, item, operation, element): see :mod:`trainer.data.random`. An item is
augmented anew in every data pass, and equally when a run is resumed or cut over other ranks.

Shapes: B items, C channels, T time points.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trainer.data import random

_SHIFT, _NOISE, _MASK, _MASK_START, _DROP = (
    random.word(f"augment {name}") for name in ("time shift", "noise", "time mask", "time mask start", "channel drop")
)


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Augmentation of training batches; everything is off by default. Applied in the order of the fields."""

    time_shift_ms: float = 0.0
    """Largest shift in time, in milliseconds: each item moves by a uniform draw from [-this, this], between time points by
    linear interpolation; the first and last value are held. 0 is off."""
    noise: float = 0.0
    """Standard deviation of added white Gaussian noise, as a fraction of each channel's standard deviation over the item's own
    time points. 0 is off."""
    time_mask_probability: float = 0.0
    """Probability that an item has one stretch of time set to 0 in all channels."""
    time_mask_ms: float = 100.0
    """Length of that stretch, in milliseconds; at most the whole item. Used with time_mask_probability."""
    channel_drop_probability: float = 0.0
    """Probability with which each channel of an item is set to 0. An item that would lose all its channels keeps them."""

    def __post_init__(self) -> None:
        for name in ("time_shift_ms", "noise"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise ValueError(f"augment.{name} is {value}, expected a number from 0 on")
        if not 0 < self.time_mask_ms < float("inf"):
            raise ValueError(f"augment.time_mask_ms is {self.time_mask_ms}, expected a positive number of milliseconds")
        for name in ("time_mask_probability", "channel_drop_probability"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"augment.{name} is {value}, expected a probability from 0 to 1")

    @property
    def enabled(self) -> bool:
        """Whether any operation is on."""
        return any((self.time_shift_ms, self.noise, self.time_mask_probability, self.channel_drop_probability))


@torch.no_grad()
def augment(
    eeg_BCT: torch.Tensor, item_B: torch.Tensor, data_pass_B: torch.Tensor, *, seed: int, sfreq: float, config: AugmentConfig
) -> torch.Tensor:
    """Augment a batch where it lies.

    Parameters
    ----------
    eeg_BCT
        float32; left as it is.
    item_B, data_pass_B
        int64 on the device of ``eeg_BCT``: which item of the part, in which data pass.
    seed
        Of the run.
    sfreq
        Hz, which turns milliseconds into time points.

    Returns
    -------
    torch.Tensor
        float32 (B, C, T).
    """
    if not config.enabled:
        return eeg_BCT
    key_B = random.hash_torch(seed, data_pass_B, item_B, device=eeg_BCT.device)
    if config.time_shift_ms:
        eeg_BCT = _shift(eeg_BCT, key_B, config.time_shift_ms * sfreq / 1000)
    if config.noise:
        eeg_BCT = _add_noise(eeg_BCT, key_B, config.noise)
    if config.time_mask_probability:
        eeg_BCT = _mask_time(eeg_BCT, key_B, config.time_mask_probability, round(config.time_mask_ms * sfreq / 1000))
    if config.channel_drop_probability:
        eeg_BCT = _drop_channels(eeg_BCT, key_B, config.channel_drop_probability)
    return eeg_BCT


def _key(key_B: torch.Tensor, operation: int, *elements: torch.Tensor) -> torch.Tensor:
    return random.hash_torch(key_B.reshape(-1, *[1] * len(elements)), operation, *elements, device=key_B.device)


def _shift(eeg_BCT: torch.Tensor, key_B: torch.Tensor, most_points: float) -> torch.Tensor:
    batch, channels, n_times = eeg_BCT.shape
    shift_B1 = ((2 * random.uniform_torch(_key(key_B, _SHIFT)) - 1) * most_points).unsqueeze(1)
    source_BT = (torch.arange(n_times, device=eeg_BCT.device) - shift_B1).clamp_(0, n_times - 1)
    left_BT = source_BT.floor()
    weight_B1T = (source_BT - left_BT).unsqueeze(1)
    left = left_BT.to(torch.int64)
    right = (left + 1).clamp_(max=n_times - 1)
    eeg_left_BCT = eeg_BCT.gather(2, left.unsqueeze(1).expand(batch, channels, n_times))
    eeg_right_BCT = eeg_BCT.gather(2, right.unsqueeze(1).expand(batch, channels, n_times))
    return torch.lerp(eeg_left_BCT, eeg_right_BCT, weight_B1T)


def _add_noise(eeg_BCT: torch.Tensor, key_B: torch.Tensor, fraction: float) -> torch.Tensor:
    batch, channels, n_times = eeg_BCT.shape
    scale_BC1 = eeg_BCT.std(dim=2, keepdim=True, correction=0) * fraction
    noise = random.normal_torch(_key(key_B, _NOISE), channels * n_times).view(batch, channels, n_times)
    return torch.addcmul(eeg_BCT, noise, scale_BC1)


def _mask_time(eeg_BCT: torch.Tensor, key_B: torch.Tensor, probability: float, points: int) -> torch.Tensor:
    n_times = eeg_BCT.shape[2]
    points = min(max(points, 1), n_times)
    masked_B1 = (random.uniform_torch(_key(key_B, _MASK)) < probability).unsqueeze(1)
    start_B1 = (random.uniform_torch(_key(key_B, _MASK_START)) * (n_times - points + 1)).floor().unsqueeze(1)
    time_T = torch.arange(n_times, device=eeg_BCT.device)
    inside_BT = masked_B1 & (time_T >= start_B1) & (time_T < start_B1 + points)
    return eeg_BCT.masked_fill(inside_BT.unsqueeze(1), 0.0)


def _drop_channels(eeg_BCT: torch.Tensor, key_B: torch.Tensor, probability: float) -> torch.Tensor:
    channel_C = torch.arange(eeg_BCT.shape[1], device=eeg_BCT.device)
    drop_BC = random.uniform_torch(_key(key_B, _DROP, channel_C)) < probability
    drop_BC = drop_BC & ~drop_BC.all(dim=1, keepdim=True)
    return eeg_BCT.masked_fill(drop_BC.unsqueeze(2), 0.0)
