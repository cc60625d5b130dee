"""``python -m launch doctor``: what this machine has, and what would stop a run, one line each."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table
from rich.text import Text

from data_prep.contract.terminal import Terminal


@dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """Where the checks look."""

    folder: str = "."
    """Folder whose disk will hold studies and runs."""
    min_free_bytes: int = 10 * 2**30
    """Free disk below which the check fails, bytes."""


def checks(config: DoctorConfig) -> list[tuple[str, str, bool]]:
    """Rows of (what, found, good)."""
    import torch

    rows = [("Python", platform.python_version(), tuple(map(int, platform.python_version_tuple()[:2])) >= (3, 11))]
    for name in ("torch", "deepspeed", "webdataset", "mlflow", "open_clip_torch"):
        try:
            rows.append((name, importlib.metadata.version(name), True))
        except importlib.metadata.PackageNotFoundError:
            rows.append((name, "not installed", False))
    rows.append(("g++", shutil.which("g++") or "not found", shutil.which("g++") is not None))
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    rows.append(("Python headers", "found" if header.is_file() else "not found", header.is_file()))
    rows.append(("cores", str(os.cpu_count()), True))
    gpus = torch.cuda.device_count()
    rows.append(("GPUs", ", ".join(torch.cuda.get_device_name(i) for i in range(gpus)) or "none: training runs on the CPU", True))
    free = shutil.disk_usage(config.folder).free
    rows.append(("free disk", f"{free / 2**30:.0f} GiB", free >= config.min_free_bytes))
    return rows


def run(config: DoctorConfig) -> int:
    """Print the table; exit status 1 if any row is bad."""
    rows = checks(config)
    table = Table("check", "found", "")
    for what, found, good in rows:
        table.add_row(what, found, "ok" if good else Text("bad", style="red"))
    Terminal().print(table)
    return 0 if all(good for *_, good in rows) else 1
