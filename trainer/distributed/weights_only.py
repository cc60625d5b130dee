"""DeepSpeed reads a checkpoint without running what is in it.

It asks torch for whole pickles. In this context every ``torch.load`` builds tensors, plain containers and the few values of DeepSpeed's own
that stand beside them in its files; whatever else a file asks for is refused by name, and nothing of it is imported.
``python -m trainer.distributed.weights_only MODULE ARGUMENTS`` runs a module of DeepSpeed's so.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import runpy
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch

from data_prep.contract.errors import CommandError
from trainer.distributed.lean_deepspeed import import_deepspeed

SAFE = (
    ("deepspeed.runtime.fp16.loss_scaler", "LossScaler"),
    ("deepspeed.runtime.fp16.loss_scaler", "DynamicLossScaler"),
    ("deepspeed.runtime.zero.config", "ZeroStageEnum"),
    ("deepspeed.utils.tensor_fragment", "fragment_address"),
)
"""Numbers, an enumeration, and where a parameter lies in a flat buffer: none does anything when it is built."""


@contextlib.contextmanager
def weights_only() -> Iterator[None]:
    """Context in which ``torch.load`` runs no code of the file, whatever its caller asks for.

    Raises
    ------
    CommandError
        From ``torch.load``: the file, and what it asks for or why it cannot be read.
    """
    load: Callable[..., Any] = torch.load

    def plain(f: Any, *rest: Any, **options: Any) -> Any:
        name = getattr(f, "name", f)
        try:
            return load(f, *rest, **{**options, "weights_only": True, "pickle_module": None})
        except FileNotFoundError:
            raise
        except Exception as error:  # a damaged file can raise anything
            raise CommandError(f"{name}: {_why(error)}; expected a checkpoint of tensors and plain values") from error

    torch.load = plain
    try:
        with torch.serialization.safe_globals([getattr(importlib.import_module(module), name) for module, name in SAFE]):
            yield
    finally:
        torch.load = load


def _why(error: Exception) -> str:
    words = " ".join(str(error).split())
    if asked := re.search(r"\bGLOBAL (\S+)", words):
        return f"asks for {asked[1]}, which is not run"
    if type(error).__name__ == "UnpicklingError":
        return "holds a pickle that is not of tensors and plain values, which is not run"
    return f"cannot be read ({words.split('. ')[0][:200] or type(error).__name__})"


if __name__ == "__main__":
    del sys.argv[0]
    import_deepspeed()
    try:
        with weights_only():
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    except CommandError as refused:
        sys.exit(str(refused))
