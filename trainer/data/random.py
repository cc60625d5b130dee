"""Random numbers by counting: a hash of integers instead of a generator's state.

``hash(seed, data_pass, item, operation, element)`` needs no state, so a number depends neither on how many were drawn
before nor on who draws it: order and augmentation are the same on any number of ranks, after a restart, and on any
device. The numpy functions give uint64; the torch functions compute the very same bits in int64, whose products wrap
around alike, with the logical shift that torch lacks written as an arithmetic shift and a mask.

The mixer is SplitMix64's finaliser (Steele, Lea and Flood, 2014), chained over the words.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch

_GOLDEN = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB
_UNIFORM_BITS = 24
"""A float32 holds 24 bits exactly: more would round, and could round up to 1."""


def word(text: str) -> int:
    """A 64-bit word for a name (an operation, a split's hash), the same in every process."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def hash_numpy(*words: int | np.ndarray) -> np.ndarray:
    """Hash integers or integer arrays, broadcast against each other, to uint64.

    Negative numbers count as their two's complement. The order of the words matters.
    """
    with np.errstate(over="ignore"):
        state = np.zeros((), np.uint64)
        for value in words:
            state = _mix_numpy(state ^ _as_uint64(value))
        return np.asarray(state)


def hash_torch(*words: int | torch.Tensor, device: torch.device | str = "cpu") -> torch.Tensor:
    """The bits of :func:`hash_numpy`, as int64 on ``device``."""
    state = torch.zeros((), dtype=torch.int64, device=device)
    for value in words:
        state = _mix_torch(state ^ (_signed(value) if isinstance(value, int) else value))
    return state


def uniform_numpy(bits: np.ndarray) -> np.ndarray:
    """Float32 in [0, 1) from the high 24 bits of a hash."""
    return (bits >> np.uint64(64 - _UNIFORM_BITS)).astype(np.float32) * np.float32(2.0**-_UNIFORM_BITS)


def uniform_torch(bits: torch.Tensor) -> torch.Tensor:
    """Float32 in [0, 1), equal to :func:`uniform_numpy` of the same hash."""
    return _shift_right(bits, 64 - _UNIFORM_BITS).to(torch.float32) * 2.0**-_UNIFORM_BITS


def normal_torch(key: torch.Tensor, count: int) -> torch.Tensor:
    """Standard normal numbers: ``count`` for every key, by Box and Muller's transform of one hash for two of them.

    Parameters
    ----------
    key
        int64 (...,), a hash.

    Returns
    -------
    torch.Tensor
        float32 (..., count). The integers behind it are equal on all devices; logarithm and cosine to float32 rounding.
    """
    half = (count + 1) // 2
    bits = _mix_torch(key.unsqueeze(-1) ^ torch.arange(half, dtype=torch.int64, device=key.device))
    mask = (1 << _UNIFORM_BITS) - 1
    # + 1 keeps the logarithm finite: (0, 1] instead of [0, 1).
    radius = (_shift_right(bits, 64 - _UNIFORM_BITS).to(torch.float32) + 1.0).mul_(2.0**-_UNIFORM_BITS).log_().mul_(-2.0).sqrt_()
    angle = (bits & mask).to(torch.float32).mul_(2.0 * math.pi * 2.0**-_UNIFORM_BITS)
    return torch.cat((radius * angle.cos(), radius * angle.sin()), dim=-1)[..., :count]


def _mix_numpy(state: np.ndarray) -> np.ndarray:
    state = state + np.uint64(_GOLDEN)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(_FIRST)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(_SECOND)
    mixed: np.ndarray = state ^ (state >> np.uint64(31))
    return mixed


def _mix_torch(state: torch.Tensor) -> torch.Tensor:
    state = state + _signed(_GOLDEN)
    state = (state ^ _shift_right(state, 30)) * _signed(_FIRST)
    state = (state ^ _shift_right(state, 27)) * _signed(_SECOND)
    return state ^ _shift_right(state, 31)


def _shift_right(bits: torch.Tensor, places: int) -> torch.Tensor:
    return (bits >> places) & ((1 << (64 - places)) - 1)


def _signed(value: int) -> int:
    value &= 0xFFFFFFFFFFFFFFFF
    return value - (1 << 64) if value >> 63 else value


def _as_uint64(value: int | np.ndarray) -> np.ndarray:
    if isinstance(value, int):
        return np.asarray(value & 0xFFFFFFFFFFFFFFFF, np.uint64)
    return value.astype(np.int64, copy=False).view(np.uint64) if value.dtype != np.uint64 else value
