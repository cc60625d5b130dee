"""``python -m launch.doctor.host``: what a host has, as the trainer on it would see it; a JSON line for each part as soon as it is known.

It does what a rank does before its first step, by the rank's own code: reads the config, refuses what a rank refuses, opens the study, and
collects the facts that ranks compare. What it is asked stands in :data:`ASKED` as JSON, which no ``ps`` shows.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import socket
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from data_prep.contract.cli import begin_process, first_sentence, from_plain, leave
from data_prep.contract.errors import StudyError, UserError
from data_prep.contract.records import to_json
from launch.doctor.config import DoctorConfig
from launch.doctor.facts import PACKAGES, Asked, Facts, Gpus, Interface, Machine, Model, Shards, Tracking

ASKED = "EEGVISION_DOCTOR"
_SHARED_MEMORY = "/dev/shm"
_QUANTISED_BYTES = {"8bit": 1.0, "4bit": 0.52}
"""Of a parameter; NF4 with double quantisation adds 0.127 bits to its four."""


def main() -> int:
    """Say all parts; a part that cannot be found out ends none of the others."""
    asked = json.loads(os.environ[ASKED])
    config: DoctorConfig = from_plain(DoctorConfig, asked["config"])
    host = Host(config, asked["ranks"])
    parts: dict[str, Callable[[], Any]] = {"machine": lambda: machine(config.folder), "code": host.code, "GPUs": gpus}
    if config.trainer_command:
        parts |= {"config": host.config_facts, "run": host.run, "study": host.study, "model": host.model}
        parts |= {"shards": host.shards, "MLflow": host.tracking}
    for name, find in parts.items():
        print(json.dumps({"begins": name}), flush=True)
        try:
            found = find()
        except UserError as error:
            print(json.dumps({"part": name, "refused": str(error)}), flush=True)
        except Exception as error:
            print(json.dumps({"part": name, "refused": f"{type(error).__name__}: {first_sentence(error)}"}), flush=True)
        else:
            if found is not None:
                print(json.dumps({"part": name, "found": to_json(found)}), flush=True)
    print(json.dumps({"begins": ""}), flush=True)
    return 0


class Host:
    """What is asked of this host for one command; later parts build on earlier ones, and say nothing where these were refused."""

    def __init__(self, config: DoctorConfig, ranks: int) -> None:
        self.config, self.ranks = config, ranks
        self.command: Any = None
        self.task: Any = None

    def code(self) -> Facts:
        """Packages, and the code file by file."""
        from trainer.training.provenance import facts_of_the_code

        return Facts(facts=facts_of_the_code())

    def config_facts(self) -> Asked:
        """The command as this host reads it: its files, its defaults."""
        from launch.check import parse_trainers
        from trainer.training.config import FolderConfig, RunConfig
        from trainer.training.provenance import facts_of_the_code, facts_of_the_start

        self.command = command = parse_trainers(self.config)
        code = facts_of_the_code()
        every = facts_of_the_start(command, self.config.accelerator)
        own = {name: value for name, value in every.items() if name not in code}
        if not isinstance(command, FolderConfig):
            return Asked(facts=own, run="")
        folder = nearest_folder(command.run)
        asked = Asked(
            facts=own,
            run=command.run,
            folder=str(folder),
            free_bytes=shutil.disk_usage(folder).free,
            kept_checkpoints=command.checkpoint.keep_last + 2,  # the best, and the one that is being written
        )
        if not isinstance(command, RunConfig):
            return asked
        zero = command.zero
        return replace(
            asked,
            stage=zero.stage,
            bucket_elements=zero.bucket_elements,
            offload_optimizer=zero.offload_optimizer,
            offload_parameters=zero.offload_parameters,
        )

    def run(self) -> Facts | None:
        """What every rank would refuse, apart from the study, of which :meth:`study` speaks."""
        if self.command is None:
            return None
        from launch.check import check

        try:
            check(self.command, ranks=self.ranks)
        except StudyError:
            return None
        return Facts(facts={})

    def study(self) -> Facts | None:
        """The identity of data and experiment, from the task that a rank would train."""
        from trainer.training.config import FolderConfig
        from trainer.training.identity import make_identity
        from trainer.training.provenance import facts_of_the_data

        if not isinstance(self.command, FolderConfig):
            return None
        self.task = _task(self.command, self.ranks)
        return Facts(facts=facts_of_the_data(make_identity(self.command, self.task.study), self.task.num_items))

    def model(self) -> Model | None:
        """Its sizes, without loading a language model's weights; None: nothing is trained by steps."""
        from trainer.training.config import RunConfig

        if self.task is None or not isinstance(self.command, RunConfig):
            return None
        from trainer.tasks.text.config import TextConfig

        modules = _language_model(self.task) if isinstance(self.command, TextConfig) else [self.task.build_model()]
        parameters = [parameter for module in modules for parameter in module.parameters()]
        quantisation = self.command.base.quantisation if isinstance(self.command, TextConfig) else "none"
        nbytes = _QUANTISED_BYTES.get(quantisation)
        frozen = sum(parameter.numel() * (nbytes or parameter.element_size()) for parameter in parameters if not parameter.requires_grad)
        layers = (sum(own.numel() for own in layer.parameters(recurse=False)) for module in modules for layer in module.modules())
        trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
        return Model(trained=trained, frozen_bytes=int(frozen), largest=max(layers, default=0))

    def shards(self) -> Shards | None:
        """Hash shards until the time is up."""
        if self.task is None:
            return None
        index = self.task.index
        sizes = [shard.tar_bytes for shard in index.manifest.shards]
        begin, hashed, wrong = time.monotonic(), 0, []
        while hashed < len(sizes) and time.monotonic() - begin < self.config.hash_seconds:
            try:
                index.check_shard(hashed)
            except StudyError as error:
                wrong.append(str(error))
            hashed += 1
        seconds = time.monotonic() - begin
        return Shards(hashed=hashed, total=len(sizes), read_bytes=sum(sizes[:hashed]), seconds=seconds, wrong=wrong)

    def tracking(self) -> Tracking | None:
        """Whether a server answers, or a file can be written."""
        from trainer.training.config import FolderConfig

        if not isinstance(self.command, FolderConfig):
            return None
        tracked = self.command.mlflow
        if not tracked.enabled:
            return Tracking(where="", why_not="")
        uri = tracked.uri(Path(self.command.run))
        return Tracking(where=uri, why_not=why_not_reached(uri, tracked.timeout_seconds))


def machine(folder: str) -> Machine:
    """This host's system; ``folder`` is where it will write."""
    memory = psutil.virtual_memory()
    shared = shutil.disk_usage(_SHARED_MEMORY) if os.path.isdir(_SHARED_MEMORY) else None
    nearest = nearest_folder(folder)
    stats, addresses = psutil.net_if_stats(), psutil.net_if_addrs()
    interfaces = {
        name: Interface(
            addresses=[
                found.address.partition("%")[0] for found in addresses.get(name, []) if found.family in (socket.AF_INET, socket.AF_INET6)
            ],
            up=stat.isup,
            megabits=int(stat.speed),
            mtu=int(stat.mtu),
        )
        for name, stat in stats.items()
    }
    return Machine(
        python=platform.python_version(),
        packages={name: _version(name) for name in PACKAGES},
        compiler=shutil.which("g++") or "",
        headers=(Path(sysconfig.get_paths()["include"]) / "Python.h").is_file(),
        cores=os.cpu_count() or 1,
        name=socket.gethostname(),
        name_addresses=_addresses_of(socket.gethostname()),
        interfaces=interfaces,
        folder=str(nearest),
        free_bytes=shutil.disk_usage(nearest).free,
        memory_bytes=memory.total,
        memory_free_bytes=memory.available,
        shared_bytes=shared.total if shared else 0,
        shared_free_bytes=shared.free if shared else 0,
        operations=compiled_operations(),
    )


def gpus() -> Gpus:
    """CUDA devices of this host."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return Gpus(
        names=[torch.cuda.get_device_name(number) for number in range(count)],
        free_bytes=[torch.cuda.mem_get_info(number)[0] for number in range(count)],
        cuda=torch.version.cuda or "",
        nccl=".".join(map(str, torch.cuda.nccl.version())) if count else "",
    )


def nearest_folder(path: str) -> Path:
    """The path, or the nearest of its parents that is a folder."""
    here = Path(os.path.abspath(path))
    return next(folder for folder in (here, *here.parents) if folder.is_dir())


def compiled_operations() -> list[str]:
    """DeepSpeed's operations that were compiled: with the package, or at a first use on this host."""
    found: set[str] = set()
    package = importlib.util.find_spec("deepspeed")  # it is not imported
    for folder in package.submodule_search_locations or () if package else ():
        found |= {file.name.partition(".")[0].removesuffix("_op") for file in Path(folder, "ops").rglob("*_op*.so")}
    cache = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or Path.home() / ".cache" / "torch_extensions")
    found |= {file.stem for file in cache.glob("**/*.so")}
    return sorted(found)


def why_not_reached(uri: str, seconds: float) -> str:
    """Why a tracker's URI leads nowhere; empty: it does lead somewhere."""
    from trainer.training.tracking import sqlite_file

    if uri.startswith(("http://", "https://")):
        try:
            with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=seconds):
                return ""
        except urllib.error.HTTPError as error:
            return (
                "" if error.code in (401, 403, 404) else f"it answers with status {error.code}"
            )  # it is there, and wants to know who asks
        except (OSError, ValueError) as error:
            return str(getattr(error, "reason", error)) or type(error).__name__
    file = sqlite_file(uri)
    if file is None:
        return ""  # of a store of another kind only its own library could tell
    folder = nearest_folder(str(file.parent))
    return "" if os.access(file if file.exists() else folder, os.W_OK) else f"{file} cannot be written"


def _task(command: Any, ranks: int) -> Any:
    import torch

    from trainer.distributed.world import World
    from trainer.tasks.contrastive.config import ContrastiveConfig
    from trainer.tasks.encoding.config import EncodingConfig

    world = World(size=ranks, local_size=ranks)  # sizes are held against it; it talks to no other
    if isinstance(command, ContrastiveConfig):
        from trainer.tasks.contrastive.task import ContrastiveTask

        return ContrastiveTask(command, world, torch.device("cpu"))
    if isinstance(command, EncodingConfig):
        from trainer.tasks.encoding.task import EncodingTask

        return EncodingTask(command, world)
    from trainer.tasks.text.task import TextTask

    return TextTask(command, world, torch.device("cpu"))


def _language_model(task: Any) -> list[Any]:
    """Base with its adapter, encoder and projector; the base without memory for its weights."""
    import torch
    from transformers import AutoModelForCausalLM

    from trainer.models.language.adapter import attach_adapter
    from trainer.models.language.base import DTYPES, read_settings
    from trainer.models.language.llm import hidden_size

    config = task.config
    with torch.device("meta"):
        llm = AutoModelForCausalLM.from_config(read_settings(config.base), dtype=DTYPES[config.base.dtype])
        for parameter in llm.parameters():
            parameter.requires_grad_(False)
        llm = attach_adapter(llm, config.adapter)
        modules = [llm]
        if task.source is not None:
            encoder = task.encoder.model
            for parameter in encoder.parameters():
                parameter.requires_grad_(config.tune_encoder)
            width = encoder.proj_dim if config.prefix.features == "embedding" else encoder.encoder.token_dim
            modules += [encoder, config.prefix.build(width, hidden_size(llm), 1.0)]
    return modules


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _addresses_of(name: str) -> list[str]:
    try:
        return sorted({str(found[4][0]) for found in socket.getaddrinfo(name, None)})
    except OSError:
        return []


if __name__ == "__main__":
    begin_process()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    leave(main())
