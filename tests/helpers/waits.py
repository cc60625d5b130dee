"""Who waits for a GPU, found without one: on tensors that are on it in name only."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

GPU = torch.device("cuda", 0)
READS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "item", "equal")


class Waits(TorchDispatchMode):
    """Operations that would wait for a device other than the CPU, in ``seen``: what ``torch.cuda.set_sync_debug_mode`` would report.

    A value read on the host, a size that depends on values, a copy between host and device that is not asked for in the background.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        tensors = [each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)]
        chosen = name == "index" and any(each is not None and each.dtype in (torch.bool, torch.uint8) for each in args[1])
        if (chosen or name in READS) and any(tensor.device.type != "cpu" for tensor in tensors):
            self.seen.append(name)
        places = {tensor.device.type for tensor in tensors if tensor.ndim or name != "copy_"}
        if name in ("_to_copy", "copy_"):
            places |= {kwargs["device"].type} if kwargs.get("device") is not None else set()
            in_background = kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2])
            if len(places) > 1 and not in_background:
                self.seen.append(f"{name} between {' and '.join(sorted(places))}")
        return func(*args, **kwargs)


@contextlib.contextmanager
def named_gpu() -> Iterator[Waits]:
    """Context in which tensors are on :data:`GPU` in name only, without values, and what would wait for it is seen."""
    with FakeTensorMode(allow_non_fake_inputs=True), Waits() as waits:
        yield waits
