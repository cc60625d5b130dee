"""From a config and hosts to what is started on each: argv, environment and files, as a value. Nothing is run here."""

from __future__ import annotations

import base64
import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data_prep.contract.errors import UserError
from launch.clusters import kubernetes, slurm, torchrun
from launch.clusters.job import Job
from launch.commands import resumed, run_of
from launch.config import LaunchConfig
from launch.hostfile import Host

HERE = "localhost"
"""This machine, where no hostfile names any."""
DEEPSPEED_ENVIRONMENT = "deepspeed_env"
_LIBRARIES = ("AWS", "CUDA", "DS", "FI", "GLOO", "HF", "MKL", "MLFLOW", "NCCL", "OMP", "UCX")
_PASSED_ON = (*(f"{name}_" for name in _LIBRARIES), "LD_LIBRARY_PATH", "PYTHON", "TORCH")
"""How variables begin that ranks on other hosts get as they are here."""
_NOT_PASSED_ON = ("PYTHONHOME", "TORCHELASTIC_")
_TORCHRUN_PORT = 29500


@dataclass(frozen=True, kw_only=True)
class Start:
    """What is started on one host: ``argv`` once a rank (``by_rank``: the variables in which its ranks differ), or once."""

    host: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    by_rank: tuple[Mapping[str, str], ...] = ()
    passed_on: Mapping[str, str] = field(default_factory=dict)
    """Variables as they are on this machine: passwords may be among them, so that only their names are printed."""

    def __str__(self) -> str:
        lines = [_line({**self.environment, **own}, self.argv) for own in self.by_rank or ({},)]
        passed = sorted(self.passed_on.keys() - self.environment.keys())
        return "\n".join([*([f"# as here: {' '.join(passed)}"] if passed else []), *lines])


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is started on every host, and the files that this takes, by name."""

    starts: tuple[Start, ...]
    files: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        files = [f"# file {name}\n{text}" for name, text in self.files.items()]
        return "\n".join([*files, *(f"# on {start.host}\n{start}" for start in self.starts)])


@dataclass(frozen=True, kw_only=True)
class Meeting:
    """Where the ranks of one attempt find each other."""

    address: str
    port: int | str
    interfaces: Mapping[str, str] = field(default_factory=dict)
    """By host, the network interface by which the others reach it."""


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What of this machine goes into a plan."""

    python: str
    folder: str
    """The present folder."""
    root: str
    """Where the project's code is; empty: it is installed, and every interpreter finds it."""
    environ: Mapping[str, str]

    @classmethod
    def here(cls, python: str) -> Surroundings:
        """Of this process; ``python`` is the interpreter that the ranks have."""
        root = Path(__file__).resolve().parents[1]
        installed = {"site-packages", "dist-packages"} & {*root.parts}
        return cls(python=python, folder=os.getcwd(), root="" if installed else str(root), environ=dict(os.environ))

    @property
    def path(self) -> dict[str, str]:
        """PYTHONPATH of a child on this machine that must find the project's code; empty: it finds it."""
        return {"PYTHONPATH": os.pathsep.join([self.root, *filter(None, [self.environ.get("PYTHONPATH", "")])])} if self.root else {}


def plan(config: LaunchConfig, hosts: Sequence[Host], around: Surroundings, *, holds_a_run: bool = False) -> Plan:
    """What the config's target starts.

    Parameters
    ----------
    config
        What to start and where.
    hosts
        Of the hostfile; none: this machine.
    around
        Interpreter, folder and environment.
    holds_a_run
        A run has begun in the run folder: one that is restarted by itself goes on with it.
    """
    if not config.trainer_command:
        raise UserError("trainer_command: nothing after '--', expected e.g. -- contrastive --config configs/contrastive/quickstart.yaml")
    target, settings = config.chosen, settings_of(config, around)
    if target in ("local", "hosts"):
        address = "127.0.0.1" if target == "local" else f"ADDRESS-OF-{hosts[0].name}"
        meeting = Meeting(address=address, port=config.master_port or "FREE-PORT")
        return plan_of_ranks(config, hosts, around, meeting, holds_a_run=holds_a_run)
    if target == "deepspeed":
        launcher = of_hostfile(config.hostfile, config.master_port) if hosts else of_this_host(config.num_processes, config.master_port)
        argv = (around.python, "-m", *launcher, "--module", "trainer", *config.trainer_command)
        settings |= interface_settings(config.interface, {**around.environ, **config.environment}) if hosts else {}
        # All that DeepSpeed's runner takes along to other hosts; a line that is empty or a comment would be an error there.
        files = {DEEPSPEED_ENVIRONMENT: "".join(f"{name}={value}\n" for name, value in settings.items())} if hosts else {}
        return Plan(starts=(Start(host=HERE, argv=argv, environment=settings),), files=files)
    job = job_of(config, hosts, around)
    if target == "torchrun":
        names = [host.name for host in hosts] or ([HERE] if job.nodes == 1 else [f"node{number}" for number in range(job.nodes)])
        rendezvous = "" if names == [HERE] else f"{names[0]}:{config.master_port or _TORCHRUN_PORT}"
        named = Path(run_of(config.trainer_command) or "eegvision").name
        argv = torchrun.argv(job, rendezvous=rendezvous, min_nodes=min(config.min_nodes, job.nodes), run=named)
        return Plan(starts=tuple(Start(host=name, argv=argv, environment=settings) for name in names))
    if target == "slurm":
        file = f"{config.slurm.name}.sbatch"
        sbatch = Start(host=HERE, argv=("sbatch", file), environment={})
        return Plan(starts=(sbatch,), files={file: slurm.script(job, config.slurm)})
    file = f"{config.kubernetes.name}.yaml"
    apply = Start(host=HERE, argv=("kubectl", "apply", "-f", file), environment={})
    return Plan(starts=(apply,), files={file: kubernetes.manifest(job, config.kubernetes)})


def plan_of_ranks(
    config: LaunchConfig, hosts: Sequence[Host], around: Surroundings, meeting: Meeting, *, holds_a_run: bool = False
) -> Plan:
    """The ranks of targets ``local`` and ``hosts``, numbered host by host, without any launcher between."""
    hosts = hosts or (Host(name=HERE, slots=config.num_processes),)
    command = resumed(config.trainer_command, holds_a_run=holds_a_run) if config.max_restarts else tuple(config.trainer_command)
    argv = (around.python, "-u", "-m", "trainer", *command)
    settings = settings_of(config, around)
    theirs = passed_on(around.environ) if config.chosen == "hosts" else {}
    world, starts = sum(host.slots for host in hosts), []
    for number, host in enumerate(hosts):
        first = sum(before.slots for before in hosts[:number])
        where = {
            "WORLD_SIZE": str(world),
            "LOCAL_WORLD_SIZE": str(host.slots),
            "MASTER_ADDR": meeting.address,
            "MASTER_PORT": str(meeting.port),
            **interface_settings(config.interface or meeting.interfaces.get(host.name, ""), {**around.environ, **config.environment}),
        }
        by_rank = tuple({"RANK": str(first + local), "LOCAL_RANK": str(local)} for local in range(host.slots))
        starts.append(Start(host=host.name, argv=argv, environment={**settings, **where}, by_rank=by_rank, passed_on=theirs))
    return Plan(starts=tuple(starts))


def settings_of(config: LaunchConfig, around: Surroundings) -> dict[str, str]:
    """What every rank is told, whichever target starts it."""
    threads = str(config.threads_per_process)
    told = {"DS_ACCELERATOR": config.accelerator, "OMP_NUM_THREADS": threads}
    if around.root:
        theirs = [path for path in around.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != around.root]
        told["PYTHONPATH"] = os.pathsep.join([around.root, *theirs])
    if "HF_HUB_OFFLINE" in around.environ:
        told["HF_HUB_OFFLINE"] = around.environ["HF_HUB_OFFLINE"]
    return {**told, **config.environment}


def passed_on(environ: Mapping[str, str]) -> dict[str, str]:
    """Those of this machine's variables that ranks on other hosts need, too; they travel through ssh, never on a command line."""
    return {name: value for name, value in sorted(environ.items()) if name.startswith(_PASSED_ON) and not name.startswith(_NOT_PASSED_ON)}


def interface_settings(interface: str, environ: Mapping[str, str]) -> dict[str, str]:
    """By which interface gloo and nccl talk: without it gloo takes that of the host's own name, which Debian says is 127.0.1.1."""
    names = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
    return {name: interface for name in names if interface and name not in environ}


def job_of(config: LaunchConfig, hosts: Sequence[Host], around: Surroundings) -> Job:
    """The same command as a job of a cluster, whose machines are all alike.

    Raises
    ------
    UserError
        Hosts of the hostfile have different slots.
    """
    slots = {host.slots for host in hosts} or {config.num_processes}
    if len(slots) > 1:
        raise UserError(f"hostfile: hosts have {', '.join(map(str, sorted(slots)))} slots, target {config.chosen} expects as many on each")
    settings = settings_of(config, around)
    if config.chosen == "kubernetes":
        settings.pop("PYTHONPATH", None)  # the image has its own
    return Job(
        nodes=len(hosts) or config.nodes,
        ranks_per_node=slots.pop(),
        accelerator=config.accelerator,
        threads_per_rank=config.threads_per_process,
        grace_seconds=config.grace_seconds,
        max_restarts=config.max_restarts,
        python=around.python,
        folder=around.folder,
        command=tuple(config.trainer_command),
        environment=settings,
    )


def of_this_host(ranks: int, port: int) -> tuple[str, ...]:
    """Module and arguments of DeepSpeed's launcher of so many ranks here; ``--module`` and what they run come behind."""
    # What the runner would start on one host. It would import torch and DeepSpeed for that alone.
    devices = base64.urlsafe_b64encode(json.dumps({"localhost": list(range(ranks))}).encode()).decode()
    return ("deepspeed.launcher.launch", f"--world_info={devices}", "--master_addr=127.0.0.1", f"--master_port={port}")


def of_hostfile(hostfile: str, port: int) -> tuple[str, ...]:
    """Module and arguments of DeepSpeed's runner on the hosts of a hostfile, by pdsh."""
    # --quiet: of the launchers' own lines only errors; what the ranks say comes through as it is.
    return ("deepspeed.launcher.runner", "--quiet", "--hostfile", hostfile, "--master_port", str(port))


def _line(environment: Mapping[str, str], argv: Sequence[str]) -> str:
    return " ".join([*(f"{name}={shlex.quote(value)}" for name, value in environment.items()), shlex.join(argv)])
