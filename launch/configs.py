"""Where the configs are, and ``eegvision init``: a copy of them in a folder of the user's own."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from data_prep.contract.errors import CommandError
from data_prep.contract.terminal import Terminal

DISTRIBUTION = "eeg-vision-stack"
_MARK = Path("launch") / "local_2_ranks.yaml"


@dataclass(frozen=True, kw_only=True)
class InitConfig:
    """Lay the configs out where they can be edited."""

    folder: str = "."
    """Folder that gets ``configs/``; made if missing."""


def installed_configs() -> Path:
    """The configs that came with the installation: in a checkout its own folder, else what the wheel put down.

    Raises
    ------
    CommandError
        They are not there.
    """
    checkout = Path(__file__).parents[1] / "configs"
    if (checkout / _MARK).is_file():
        return checkout
    for file in importlib.metadata.files(DISTRIBUTION) or ():
        if file.as_posix().endswith(f"configs/{_MARK.as_posix()}"):
            return Path(os.path.normpath(str(file.locate()))).parents[1]
    raise CommandError(f"the configs of {DISTRIBUTION} are not beside the installation: install its wheel again")


def configs() -> Path:
    """``configs`` in the present folder where it is laid out, else the installation's."""
    here = Path("configs")
    return here if (here / _MARK).is_file() else installed_configs()


def init(config: InitConfig) -> None:
    """``eegvision init``: copy the configs; nothing that is there is written over."""
    target = Path(config.folder) / "configs"
    if target.exists():
        raise CommandError(f"folder: {target} is there already, expected none: choose another folder, or delete it")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".configs.{os.getpid()}.partial")
    try:
        shutil.copytree(installed_configs(), partial)
        os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    Terminal(soft_wrap=True).print(
        f"{target}: {sum(1 for _ in target.rglob('*.yaml'))} configs; next, in {config.folder}: eegvision quickstart"
    )
