"""What a rank runs: code, packages, config and data, as short texts that hosts compare before they train together."""

from __future__ import annotations

import functools
import importlib.metadata
import os
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
    return {**fields, "device": device, **facts_of_the_code()}


def facts_of_the_code() -> dict[str, str]:
    """What runs, whatever it is asked to do: the packages that compute, and the code, file by file."""
    return {**_packages(), **_code()}


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
    modules = {name: str(getattr(module, "__file__", "")) for name, module in list(sys.modules.items())}
    files |= {f"module {name}": Path(file) for name, file in modules.items() if _is_a_users_own(file)}
    hashes = {f"code {name}": sha256_file(path)[:_SHOWN] for name, path in files.items()}
    return {"code": code_version(), **hashes}


def _is_a_users_own(file: str) -> bool:
    """Whether a module lies in a file that was neither installed nor is of this project; torch.ops says ``_ops.py``, which is nowhere."""
    # Most of some thousand modules are told by their names, without a look at the disk.
    if not file.endswith(".py") or not os.path.isabs(file) or file.startswith(_elsewhere()):
        return False
    if {"site-packages", "dist-packages"} & {*file.split(os.sep)} or not os.path.isfile(file):
        return False
    return not os.path.realpath(file).startswith(_elsewhere())


@functools.cache
def _elsewhere() -> tuple[str, ...]:
    """Beginnings of paths, as they are said and as they are, of Python's own modules and this project's."""
    folders = [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), str(_ROOT)]
    return tuple({path + os.sep for folder in folders for path in (folder, os.path.realpath(folder))})
