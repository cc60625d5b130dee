"""``import deepspeed`` without what no run here uses: MLflow, which its autotuner looks for, and torch's compiler, for Muon's kernels.

Both are imported on every rank and take seconds; who wants MLflow or the compiler imports them later, as ever. An optimizer would
import the compiler at its first step, to be told that nothing of it is compiled.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any


def import_deepspeed() -> Any:
    """The package ``deepspeed``; the accelerator is chosen now."""
    with _hidden("mlflow"):
        import deepspeed
    with contextlib.suppress(ImportError), _uncompiled():
        importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")
    _leave_optimizers_uncompiled()
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


def _leave_optimizers_uncompiled() -> None:
    from torch import set_grad_enabled
    from torch.optim import Adam, Optimizer

    plain = getattr(Adam.step, "__wrapped__", None)
    if plain is None or "torch._dynamo" in sys.modules or hasattr(Adam.step, "hooked"):  # another torch; nothing to save; in use
        return

    @functools.wraps(plain)
    def step(optimizer: Any, closure: Any = None) -> Any:
        with set_grad_enabled(optimizer.defaults["differentiable"]):
            return plain(optimizer, closure)

    Adam.step = step  # type: ignore[method-assign, assignment]
    for method in filter(inspect.isfunction, vars(Optimizer).values()):
        if wrapped := getattr(method, "__wrapped__", None):
            wrapped.__dynamo_disable = wrapped  # where torch keeps what the compiler has made of it
