"""What every rank would refuse is refused here, once, before there are any; and what their starter must know of the trainer's config."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from data_prep.contract.cli import parse
from data_prep.contract.errors import UserError
from launch.config import LaunchConfig
from launch.hostfile import read_hostfile
from trainer.__main__ import COMMANDS
from trainer.artifacts.generations import FACTS
from trainer.artifacts.text_export import find_text_export, read_text_export
from trainer.data.index import StudyIndex
from trainer.distributed.world import World, check_world_size
from trainer.generate.config import GenerateConfig
from trainer.training.config import FolderConfig, RunConfig
from trainer.training.owner import refuse_if_alive
from trainer.training.resume import find
from trainer.training.run_folder import RunFolder


def parse_trainers(config: LaunchConfig) -> Any:
    """The trainer's config that ``trainer_command`` gives."""
    name, *arguments = config.trainer_command
    importlib.import_module("trainer.callbacks")  # its names may stand in the config
    module, config_class = COMMANDS[name].config.split(":")
    return parse(getattr(importlib.import_module(module), config_class), arguments)


def check(command: Any, *, ranks: int, restarted: bool = False) -> None:
    """Refuse what every rank would refuse for itself, half a minute later.

    Parameters
    ----------
    command
        The trainer's config.
    ranks
        How many there will be.
    restarted
        Whoever starts it goes on with what there is, once its owner has ended.
    """
    if isinstance(command, GenerateConfig):
        export = find_text_export(command.export)
        changes = {name: value for name, value in (("study", command.study), ("split", command.split)) if value}
        asked = read_text_export(export).data_config(**changes)
        StudyIndex.open(asked.study).split(asked.split)
        return
    if not isinstance(command, FolderConfig):
        return
    check_world_size(World(size=ranks, local_size=ranks), command.train.world_size)
    if isinstance(command, RunConfig):
        command.train.rank_batch_size(ranks)
    folder = RunFolder(command.run)
    if not restarted:
        refuse_if_alive(Path(command.run))
    find(folder, "auto" if restarted and (folder.holds_a_run() or not command.resume) else command.resume)
    study = StudyIndex.open(command.data.study)
    study.split(command.data.split)
    study.embedding(command.data.embedding)


def facts(command: Any, *, ranks: int) -> dict[str, Any]:
    """What whoever starts the ranks must know: the run folder (none: it is no training), the file that success writes last, the world sizes
    up to ``ranks`` that the config allows, whether the folder is that of rank 0's host alone."""
    success = last_file(command)
    if not isinstance(command, FolderConfig):
        return {"run": None, "success": str(success), "worlds": list(range(1, ranks + 1)), "local": False}
    fixed = command.train.world_size
    worlds = [size for size in range(1, ranks + 1) if fixed in (None, size) and _fits(command, size)]
    local = isinstance(command, RunConfig) and command.run_folder == "local"
    return {"run": command.run, "success": str(success), "worlds": worlds, "local": local}


def last_file(command: Any) -> Path:
    """The file that success alone writes, last."""
    return RunFolder(command.run).completed if isinstance(command, FolderConfig) else Path(command.output) / FACTS


def num_ranks(config: LaunchConfig) -> int:
    """Ranks of the whole world."""
    if config.hostfile:
        return sum(host.slots for host in read_hostfile(config.hostfile))
    return config.num_processes * (config.nodes if config.chosen == "torchrun" else 1)


def _fits(command: FolderConfig, size: int) -> bool:
    try:
        if isinstance(command, RunConfig):
            command.train.rank_batch_size(size)
    except UserError:
        return False
    return True
