"""One shape for every measured number: a row of ``bench.json`` and a line of the printed table.

A benchmark module has ``run(folder) -> list[dict]`` made of :func:`row`, and ends with :func:`main`.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

FIELDS = ("name", "value", "unit", "target", "holds", "peer", "peer_value", "machine")


def row(
    name: str,
    value: float | None,
    unit: str,
    target: float | None = None,
    holds: bool | None = None,
    peer: str | None = None,
    peer_value: float | None = None,
) -> dict[str, Any]:
    """One measured number.

    Parameters
    ----------
    name
        What was measured, in words.
    value, unit
        The measurement; ``x`` for a ratio.
    target
        What the value is held against, in the same unit; None where nothing is promised.
    holds
        Whether the promise is kept; None where nothing is promised.
    peer, peer_value
        What was measured beside it in the same run, and its value in the same unit.
    """
    value, target, peer_value = (None if number is None else float(number) for number in (value, target, peer_value))
    holds = None if holds is None else bool(holds)  # not numpy's: JSON has no place for it
    return dict(zip(FIELDS, (name, value, unit, target, holds, peer, peer_value, machine()), strict=True))


def machine() -> str:
    """The machine in a few words: ``2 x AMD EPYC, 24 GB, no GPU, torch 2.15.0``."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    gpu = f"{len(gpus)} x {gpus[0]}" if gpus else "no GPU"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return f"{len(os.sched_getaffinity(0))} x {_processor()}, {memory:.0f} GB, {gpu}, torch {torch.__version__.split('+')[0]}"


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print measured rows as one table, and the machine under it."""
    table = Table(title="Benchmarks")
    for heading, justify in (("what", "left"), ("value", "right"), ("target", "right"), ("holds", "left"), ("beside it", "left")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    for r in rows:
        holds = {True: "yes", False: "[bold red]NO[/]", None: ""}[r["holds"]]
        peer = "" if r["peer"] is None else f"{r['peer']}: {_number(r['peer_value'])}"
        target = "" if r["target"] is None else _number(r["target"])
        table.add_row(r["name"], f"{_number(r['value'])} {r['unit']}", target, holds, peer)
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(table)
    for name in dict.fromkeys(r["machine"] for r in rows):
        console.print(f"on {name}")


def write_json(rows: list[dict[str, Any]], path: Path) -> None:
    """Write ``bench.json`` under a temporary name, then rename."""
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(json.dumps(rows, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    temporary.replace(path)


def main(run: Callable[[Path], list[dict[str, Any]]]) -> int:
    """Run one benchmark module alone: print its table; 1 if a promise is broken."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        rows = run(Path(folder))
    print_table(rows)
    return int(any(r["holds"] is False for r in rows))


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
