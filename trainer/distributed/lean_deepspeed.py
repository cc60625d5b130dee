"""``import deepspeed`` without what no run here uses: MLflow, which its autotuner looks for, and torch's compiler, for Muon's kernels.

Both are imported on every rank and take seconds; who wants MLflow or the compiler imports them later, as ever.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator
from typing import Any


def import_deepspeed() -> Any:
    """The package ``deepspeed``; the accelerator is chosen now."""
    with _hidden("mlflow"):
        import deepspeed
    with contextlib.suppress(ImportError), _uncompiled():
        importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")
    return deepspeed


@contextlib.contextmanager
def _hidden(name: str) -> Iterator[None]:
    """Context in which a module that is not imported yet cannot be."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # the import system's own sign for it
    try:
        yield
    finally:
        del sys.modules[name]


@contextlib.contextmanager
def _uncompiled() -> Iterator[None]:
    """Context in which DeepSpeed's ``@compiler.compile()`` leaves a function as it is."""
    from deepspeed.runtime import compiler

    def leave(*_: Any, **__: Any) -> Callable[[Any], Any]:
        return lambda function: function

    before, compiler.compile = compiler.compile, leave
    try:
        yield
    finally:
        compiler.compile = before
