"""What is known of a host: the records that its programs write and that findings are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

PACKAGES = ("torch", "deepspeed", "webdataset", "mlflow", "open_clip_torch")
"""Distributions without which a command of the README does not run."""


@dataclass(frozen=True, kw_only=True)
class Interface:
    """A network interface."""

    addresses: list[str]
    up: bool
    megabits: int
    """Speed that the system states, Mbit/s; 0: it does not."""
    mtu: int


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A host's system."""

    python: str
    packages: dict[str, str]
    """Version by distribution; empty: not installed."""
    compiler: str
    """Path of g++; empty: there is none."""
    headers: bool
    """Whether Python.h is there."""
    cores: int
    name: str
    name_addresses: list[str]
    """What the host's own name means to itself; empty: nothing."""
    interfaces: dict[str, Interface]
    folder: str
    """Nearest folder that is there, of the one that is asked about."""
    free_bytes: int
    memory_bytes: int
    memory_free_bytes: int
    shared_bytes: int
    """Size of /dev/shm; 0: there is none."""
    shared_free_bytes: int
    operations: list[str]
    """DeepSpeed's operations that are compiled."""


@dataclass(frozen=True, kw_only=True)
class Gpus:
    """CUDA devices, in order."""

    names: list[str]
    free_bytes: list[int]
    cuda: str
    nccl: str


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The trainer's command as this host reads it."""

    facts: dict[str, str]
    """Every field of its config, and the device."""
    run: str
    """Run folder; empty: it is no training."""
    folder: str = ""
    """It, or the nearest of its parents that is there."""
    free_bytes: int = 0
    """Of that folder's disk."""
    stage: int = 0
    bucket_elements: int = 0
    offload_optimizer: bool = False
    offload_parameters: bool = False
    kept_checkpoints: int = 0


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Short texts that must be the same on all hosts, by field."""

    facts: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Model:
    """Sizes of what is trained; weights that are trained, gradients and optimizer states are float32."""

    trained: int
    """Parameters that are trained."""
    frozen_bytes: int
    """Of weights that are not."""
    largest: int
    """Parameters of the largest module with weights of its own, which ZeRO 3 holds whole."""


@dataclass(frozen=True, kw_only=True)
class Shards:
    """What of a study's shards was hashed."""

    hashed: int
    total: int
    read_bytes: int
    seconds: float
    wrong: list[str]
    """A sentence for each that is not the one that was written."""


@dataclass(frozen=True, kw_only=True)
class Tracking:
    """Whether the tracker can be reached."""

    where: str
    """Its URI; empty: nothing is tracked."""
    why_not: str
    """Empty: it can."""


PARTS: Mapping[str, type[Any]] = {
    "machine": Machine,
    "code": Facts,
    "GPUs": Gpus,
    "config": Asked,
    "run": Facts,
    "study": Facts,
    "model": Model,
    "shards": Shards,
    "MLflow": Tracking,
}
"""What a host is asked, in this order."""


@dataclass(kw_only=True)
class Seen:
    """All that is known of one host. What is None or missing could not be found out; :attr:`late` or :attr:`refused` say why."""

    name: str
    """As the hostfile has it."""
    slots: int
    lost: str = ""
    """Why the host does not answer; empty: it does."""
    connect_seconds: float = 0.0
    address: str = ""
    """By which ssh reached it."""
    interface: str = ""
    """Which of its interfaces has that address."""
    clock_seconds: float | None = None
    """Its clock minus this machine's."""
    clock_error_seconds: float = 0.0
    """Half of the time that the question took."""
    port: int = 0
    """Free port where ranks could meet; 0: see :attr:`port_refused`."""
    port_refused: str = ""
    parts: dict[str, Any] = field(default_factory=dict)
    """Of :data:`PARTS`, those that were found out."""
    refused: dict[str, str] = field(default_factory=dict)
    """By part, the sentence with which it was refused."""
    late: str = ""
    """Part that the host was at when the time was up."""
    marks: list[str] | None = None
    """Hosts whose marks are seen in the folder beside the run's; None: not looked."""
    marks_refused: str = ""

    def part(self, kind: type[Any], name: str) -> Any:
        """A part, or None."""
        found = self.parts.get(name)
        return found if isinstance(found, kind) else None


@dataclass(frozen=True, kw_only=True)
class Bandwidth:
    """What the ranks measured, as nccl-tests counts it: bytes that pass each rank's link, a second."""

    ranks: int = 0
    reduce_bytes_a_second: float = 0.0
    gather_bytes_a_second: float = 0.0
    latency_seconds: float = 0.0
    """Of an all-reduce of one number."""
    failed: dict[str, str] = field(default_factory=dict)
    """By host, why it was not measured; empty: it was."""
