"""One exchange of gradients an optimizer step, after several backward passes, under every ZeRO stage.

DeepSpeed's own accumulation exchanges them after each backward pass under ZeRO 2 and 3.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def reduced_once(engine: Any) -> Iterator[None]:
    """Context in which ``engine.backward`` sums gradients on this rank; at its end they are averaged over ranks, for ``engine.step``.

    The engine's config has ``gradient_accumulation_steps`` 1.
    """
    if engine.zero_optimization():
        with engine.coalesce_grad_reduction():
            yield
        return
    with engine.no_sync():
        yield
    engine.allreduce_gradients()
