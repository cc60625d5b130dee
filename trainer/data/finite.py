"""Whether numbers are numbers: what no model is to see, found where it enters and named."""

from __future__ import annotations

import torch
from torch import Tensor


def all_finite(x: Tensor) -> bool:
    """Whether no value is NaN or infinite: one pass, no copy. Waits for the device of ``x``."""
    if not x.numel():
        return True
    if x.element_size() == 1:  # 8-bit floats have no minimum
        x = x.float()
    # A sum would overflow in half precision; NaN reaches both ends.
    return bool(torch.isfinite(torch.stack(torch.aminmax(x))).all())


def first_not_finite(x: Tensor) -> tuple[int, ...] | None:
    """Place of the first value that is NaN or infinite, None where all are finite. Waits for the device of ``x``."""
    if all_finite(x):
        return None
    return tuple(torch.nonzero(~torch.isfinite(x))[0].tolist())
