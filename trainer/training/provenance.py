"""What a rank runs: code, packages, config and data, as short texts that hosts compare before they train together."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_prep.contract.cli import to_plain
from data_prep.contract.files import sha256_file
from data_prep.contract.version import code_version
from trainer.training.identity import flat

PACKAGES = ("torch", "deepspeed", "numpy", "scipy", "safetensors", "transformers", "tokenizers", "peft", "bitsandbytes")
"""Those that compute what is trained."""
_ROOT = Path(__file__).resolve().parents[2]
_SHOWN = 12


def facts_of_the_start(config: Any, device: str) -> dict[str, str]:
    """What is known before anything is opened: resolved config, device, code, packages."""
    fields = {name: str(value) for name, value in flat(to_plain(config)).items()}
    return {**fields, "device": device, **_packages(), **_code()}


def facts_of_the_data(identity: Mapping[str, Any], num_items: int) -> dict[str, str]:
    """What is known once the study is open: its hashes, those of split and embedding, and all else that makes a run's identity."""
    return {**{name: str(value) for name, value in flat(dict(identity)).items()}, "training items": str(num_items)}


def _packages() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[f"package {name}"] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[f"package {name}"] = "not installed"
    return found


def _code() -> dict[str, str]:
    """The commit, and a hash a file: of this project's, and of a user's own modules, as encoders and callbacks by import path are."""
    files = {path.relative_to(_ROOT).as_posix(): path for part in ("data_prep", "trainer") for path in (_ROOT / part).rglob("*.py")}
    modules = {name: Path(str(getattr(module, "__file__", ""))) for name, module in list(sys.modules.items())}
    files |= {f"module {name}": path for name, path in modules.items() if _is_a_users_own(path)}
    hashes = {f"code {name}": sha256_file(path)[:_SHOWN] for name, path in files.items()}
    return {"code": code_version(), **hashes}


def _is_a_users_own(path: Path) -> bool:
    """Whether a module lies in a file that was neither installed nor is of this project; torch.ops says ``_ops.py``, which is nowhere."""
    if path.suffix != ".py" or not path.is_absolute() or not path.is_file() or {"site-packages", "dist-packages"} & {*path.parts}:
        return False
    elsewhere = (Path(sysconfig.get_path("stdlib")).resolve(), Path(sysconfig.get_path("platstdlib")).resolve(), _ROOT)
    return not any(path.resolve().is_relative_to(folder) for folder in elsewhere)
