"""From what is known of all hosts to findings: each says what was found and, where something is wrong, what to do. Pure.

``bad`` would stop the training or change what it trains; ``warn`` costs time or shows later; ``ok`` is as it should be. Each check is a
function of the hosts; :data:`CHECKS` is their order.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from data_prep.contract.words import listed, short
from launch.doctor.config import DoctorConfig
from launch.doctor.facts import Asked, Bandwidth, Facts, Gpus, Machine, Model, Seen, Shards, Tracking
from launch.doctor.memory import STAGES, checkpoint_bytes, need
from trainer.distributed.agreement import differences

Level = Literal["ok", "warn", "bad"]
CLOCK_WARN_SECONDS, CLOCK_BAD_SECONDS = 1.0, 300.0
"""Above the first, lines of two hosts are not in their order; above the second, Kerberos and signed requests are refused."""
_LEAST_SHARED_BYTES = 2**30
"""What NVIDIA's containers are told to have (``--shm-size=1g``, NCCL's page on troubleshooting)."""
_LEAST_LINK_SHARE = 0.2
"""Of the speed that the system states for the interface."""
_MOST_NAMED = 3
_LOOPBACK = ("127.", "::1")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line."""

    check: str
    host: str
    level: Level
    found: str
    do: str = ""
    """What to do; empty where nothing is wrong."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """What the checks hold hosts against."""

    config: DoctorConfig
    environ: Mapping[str, str]
    """Of ranks, as far as it is known here: who names an interface there decides."""
    bandwidth: Bandwidth | None = None
    python: str = ""
    """Interpreter that is started on hosts."""
    folder: str = ""
    """In which it is started."""

    @property
    def remote(self) -> bool:
        """Whether hosts are reached over a network."""
        return bool(self.config.hostfile)


def findings(hosts: Sequence[Seen], context: Context) -> list[Finding]:
    """All of them, in the order of :data:`CHECKS`, and of the hosts within."""
    return [finding for check in CHECKS for finding in check(hosts, context)]


def grouped(found: Sequence[Finding]) -> list[tuple[Finding, list[str]]]:
    """Findings that say the same of several hosts as one, with the hosts."""
    groups: dict[tuple[str, str, str, str], tuple[Finding, list[str]]] = {}
    for finding in found:
        groups.setdefault((finding.check, finding.level, finding.found, finding.do), (finding, []))[1].append(finding.host)
    return list(groups.values())


# ------------------------------------------------------------------------------------------------------------------------ reached at all


def reached(hosts: Sequence[Seen], context: Context) -> Iterator[Finding]:
    """Whether ssh and the project's agent on the host answer."""
    if not context.remote:
        return
    for host in hosts:
        if host.lost:
            yield Finding(check="ssh", host=host.name, level="bad", found=host.lost, do=_what_to_do(host, context))
        else:
            yield Finding(check="ssh", host=host.name, level="ok", found="answers")


_REASONS = (
    ("permission denied", "let `ssh {host}` in without a password: `ssh-copy-id {host}`"),
    ("host key verification", "make the host known: `ssh-keyscan {host} >> ~/.ssh/known_hosts`"),
    ("could not resolve", "name the host in the hostfile as DNS or /etc/hosts do"),
    ("connection refused", "start sshd on {host}, or open its port"),
    ("timed out|no route|unreachable|nothing was heard|no answer", "look whether {host} is on and reachable: `ssh {host} true`"),
    ("no module named", "install the project on {host} as it is here, in the same environment: {python} does not find it there"),
    (
        "python|not found|no such file|can't cd|cannot access",
        "have folder and interpreter under the same paths on {host}: {folder}, {python}",
    ),
)


def _what_to_do(host: Seen, context: Context) -> str:
    words = {"host": host.name, "python": context.python, "folder": context.folder}
    for pattern, advice in _REASONS:
        if re.search(pattern, host.lost, re.IGNORECASE):
            return advice.format(**words)
    return f"`ssh {host.name} true` has to succeed without a question"


def answered(hosts: Sequence[Seen], context: Context) -> Iterator[Finding]:
    """Parts that did not come in time."""
    for host in hosts:
        if host.late:
            said = f"no answer within {context.config.timeout_seconds:g} seconds, at: {host.late}"
            do = "look for a mount or a server that hangs there, or raise timeout_seconds"
            yield Finding(check="answer", host=host.name, level="bad", found=said, do=do)
        for part in ("machine", "code", "GPUs", "model", "shards", "MLflow"):
            if part in host.refused:
                level: Level = "warn" if part in ("model", "MLflow") else "bad"
                do = f"`python -m launch doctor` on {host.name} says more"
                yield Finding(check="answer", host=host.name, level=level, found=f"{part}: {host.refused[part]}", do=do)


# --------------------------------------------------------------------------------------------------------------------------- the network


def own_name(hosts: Sequence[Seen], context: Context) -> Iterator[Finding]:
    """What the host's own name means to itself: gloo takes that address where no interface is named."""
    if not context.remote:
        return
    for host, machine in _with(hosts, Machine, "machine"):
        loopback = [address for address in machine.name_addresses if address.startswith(_LOOPBACK)]
        if loopback and len(hosts) > 1:
            said = f"{machine.name} is {listed(loopback)} to itself"
            do = f"harmless to `launch run`, which names the interface; for others take {loopback[0]} from {machine.name} in /etc/hosts"
            yield Finding(check="own name", host=host.name, level="warn", found=f"{said}, which others cannot reach", do=do)
        elif not machine.name_addresses:
            do = "harmless to `launch run`, which names the interface; for other launchers name it in /etc/hosts"
            yield Finding(check="own name", host=host.name, level="warn", found=f"{machine.name} cannot be resolved by itself", do=do)
        else:
            yield Finding(check="own name", host=host.name, level="ok", found="an address that others reach")


def interface(hosts: Sequence[Seen], context: Context) -> Iterator[Finding]:
    """By which interface ranks will talk, and whether it is there and like those of the others."""
    if not context.remote:
        return
    named = context.environ.get("GLOO_SOCKET_IFNAME") or context.config.interface
    mtus = {host.name: machine.interfaces[name].mtu for host, machine, name in _chosen(hosts, named) if name in machine.interfaces}
    for host, machine, name in _chosen(hosts, named):
        have = listed(sorted(machine.interfaces))
        if name not in machine.interfaces:
            said = f"{named!r} is not among {have}" if named else f"none has {host.address or 'the address'} by which ssh came in"
            do = "choose one that all hosts have: --interface NAME"
            yield Finding(check="interface", host=host.name, level="bad", found=said, do=do)
            continue
        own = machine.interfaces[name]
        if not own.up or not own.addresses:
            said = f"{name} is {'down' if not own.up else 'without an address'}"
            yield Finding(check="interface", host=host.name, level="bad", found=said, do="set it up, or choose another: --interface NAME")
        elif len(hosts) > 1 and host.address.startswith(_LOOPBACK):
            do = "name the host in the hostfile as the other hosts find it"
            yield Finding(
                check="interface", host=host.name, level="bad", found=f"reached by {host.address}, where others do not find it", do=do
            )
        elif len(set(mtus.values())) > 1:
            said = f"{name} has MTU {own.mtu}, others {listed(sorted({*mtus.values()} - {own.mtu}))}"
            do = "give all of them the same MTU: large packets between these may be lost without a word"
            yield Finding(check="interface", host=host.name, level="warn", found=said, do=do)
        else:
            speed = f", {own.megabits / 1000:g} Gbit/s" if own.megabits > 0 else ""
            yield Finding(check="interface", host=host.name, level="ok", found=f"{name}{speed}")


def _chosen(hosts: Sequence[Seen], named: str) -> Iterator[tuple[Seen, Machine, str]]:
    for host, machine in _with(hosts, Machine, "machine"):
        yield host, machine, named.lstrip("=^").partition(",")[0] or host.interface


def clock(hosts: Sequence[Seen], context: Context) -> Iterator[Finding]:
    """Clocks against the first host's, as far as the question's own time lets them be told apart."""
    first = next((host for host in hosts if host.clock_seconds is not None), None)
    if first is None or not context.remote:
        return
    for host in hosts:
        if host.clock_seconds is None:
            continue
        assert first.clock_seconds is not None
        skew, error = host.clock_seconds - first.clock_seconds, host.clock_error_seconds + first.clock_error_seconds
        certain = max(abs(skew) - error, 0.0)
        if certain <= CLOCK_WARN_SECONDS:
            yield Finding(check="clock", host=host.name, level="ok", found=f"within {CLOCK_WARN_SECONDS:g} s of {first.name}'s")
            continue
        said = f"{abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} {first.name}'s"
        bad = certain > CLOCK_BAD_SECONDS
        why = "signed requests (S3, Kerberos) are refused" if bad else "times in logs and events are out of order"
        do = f"set it by NTP (`chronyc makestep`): {why}"
        yield Finding(check="clock", host=host.name, level="bad" if bad else "warn", found=said, do=do)


def port(hosts: Sequence[Seen], context: Context) -> Iterator[Finding]:
    """Whether ranks could meet on the host; the first does it, another one after a restart without that."""
    for host in _alive(hosts):
        if host.port_refused:
            asked = context.config.master_port
            said = f"{asked} is taken" if asked else f"none is free ({host.port_refused})"
            do = "choose another one, or 0 for any that is free: --master_port 0" if asked else "look what holds ports 20000 to 29999 there"
            yield Finding(check="port", host=host.name, level="bad", found=said, do=do)
        elif host.port:
            yield Finding(check="port", host=host.name, level="ok", found=f"{context.config.master_port or 'one'} is free")


# ----------------------------------------------------------------------------------------------------------------------- what is installed


def system(hosts: Sequence[Seen], context: Context) -> Iterator[Finding]:
    """Python, the distributions, and what compiles kernels at first use."""
    for host, machine in _with(hosts, Machine, "machine"):
        old = tuple(int(number) for number in re.findall(r"\d+", machine.python)[:2]) < (3, 11)
        yield _line("Python", host, machine.python, bad=old, do="install Python 3.11 or newer, under the same path on all hosts")
        for name, version in machine.packages.items():
            do = f"install it: `pip install {name.replace('_', '-')}`"
            yield _line(name, host, version or "not installed", bad=not version, do=do)
        level: Level = "warn" if context.remote and context.config.accelerator == "cpu" else "bad"
        do = "install a C++ compiler (g++): kernels are compiled at first use"
        yield _line("g++", host, machine.compiler or "not found", bad=not machine.compiler, do=do, level=level)
        do = "install Python's headers (python3-dev): kernels are compiled at first use"
        yield _line("Python headers", host, "found" if machine.headers else "not found", bad=not machine.headers, do=do, level=level)
        yield _line("cores", host, str(machine.cores))
        if context.remote and host.slots * context.config.threads_per_process > machine.cores:
            said = f"{host.slots} ranks of {context.config.threads_per_process} threads on {machine.cores} cores"
            do = "take fewer slots or threads: ranks that wait for a core keep all others waiting"
            yield Finding(check="cores", host=host.name, level="warn", found=said, do=do)


def same_code(hosts: Sequence[Seen], context: Context) -> Iterator[Finding]:
    """Code and package versions, file by file, against the first host's; the facts are those that ranks compare before step 1."""
    yield from _compared(hosts, "code", Facts, "code", "packages")


def same_config(hosts: Sequence[Seen], context: Context) -> Iterator[Finding]:
    """The trainer's config as each host reads it, and what every rank would refuse."""
    for host in hosts:
        for part in ("config", "run"):
            if part in host.refused:
                do = "mend what it names; `launch run` would refuse it, too"
                yield Finding(check="config", host=host.name, level="bad", found=host.refused[part], do=do)
    yield from _compared(hosts, "config", Asked, "config")


def same_study(hosts: Sequence[Seen], context: Context) -> Iterator[Finding]:
    """The study, its split and embedding are there, and the same."""
    for host in hosts:
        if "study" in host.refused and host.refused["study"] not in (host.refused.get("config"), host.refused.get("run")):
            do = "bring study, split and embeddings to the same path, or mount the folder that has them"
            yield Finding(check="study", host=host.name, level="bad", found=host.refused["study"], do=do)
    yield from _compared(hosts, "study", Facts, "study")


def shards(hosts: Sequence[Seen], context: Context) -> Iterator[Finding]:
    """The bytes of the shards, as far as there was time to hash them."""
    for host, found in _with(hosts, Shards, "shards"):
        rate = f", {found.read_bytes / found.seconds / 1e6:,.0f} MB/s" if found.read_bytes > 1e8 and found.seconds else ""
        if found.wrong:
            more = f", and {len(found.wrong) - 1} more of {found.hashed}" if len(found.wrong) > 1 else ""
            do = "copy the study again: `python -m data_prep verify` names every file"
            yield Finding(check="shards", host=host.name, level="bad", found=f"{found.wrong[0]}{more}", do=do)
        elif found.hashed < found.total and context.config.hash_seconds:
            said = f"{found.hashed} of {found.total} hashed in {context.config.hash_seconds:g} s{rate}, all as written"
            yield Finding(
                check="shards", host=host.name, level="ok", found=f"{said}; the rest is hashed in training, when it is first read"
            )
        else:
            yield Finding(check="shards", host=host.name, level="ok", found=f"{found.hashed} of {found.total} hashed, as written{rate}")


def _compared(hosts: Sequence[Seen], part: str, kind: type[Facts] | type[Asked], *checks: str) -> Iterator[Finding]:
    """Findings about fields that differ from the first host's; of two checks the second is that of the packages."""
    have: list[tuple[Seen, Any]] = list(_with(hosts, kind, part))
    for host, found in have:
        first, expected = have[0]
        differing = differences(expected.facts, found.facts)
        for check in checks:
            fields = [field for field in differing if checks[field[0].startswith(_PACKAGES) and len(checks) > 1] == check]
            if not fields:
                yield Finding(check=check, host=host.name, level="ok", found="the same on all hosts" if len(have) > 1 else "read")
                continue
            shown = [f"{field} is {short(other, 40)}, on {first.name} {short(one, 40)}" for field, one, other in fields[:_MOST_NAMED]]
            more = f"; {len(fields) - _MOST_NAMED} more differ" if len(fields) > _MOST_NAMED else ""
            do = _SAME[check].format(first=first.name)
            yield Finding(check=check, host=host.name, level="bad", found="; ".join(shown) + more, do=do)


_PACKAGES = ("package ", "python")
_SAME = {
    "code": "bring the checkout to that of {first}: same commit, no changed file",
    "packages": "install the versions of {first}: `pip install -r requirements.lock.txt`",
    "config": "copy the config file from {first}: ranks refuse to train different things",
    "study": "copy study and split from {first}, or mount one folder: ranks refuse to train on different data",
}


# ------------------------------------------------------------------------------------------------------------- folders, memory, devices


def shared_folder(hosts: Sequence[Seen], context: Context) -> Iterator[Finding]:
    """Whether all hosts see the folder into which rank 0 writes."""
    looked = [host for host in hosts if host.marks is not None or host.marks_refused]
    if len(looked) < 2:
        return
    everyone = [host.name for host in looked if not host.marks_refused]
    local = any(asked.facts.get("run_folder") == "local" for _, asked in _with(hosts, Asked, "config"))
    for host in looked:
        if host.marks_refused:
            do = "let the user who trains write there, on all hosts"
            yield Finding(check="run folder", host=host.name, level="bad", found=f"{host.marks_refused}: cannot be written", do=do)
            continue
        assert host.marks is not None
        if local:
            others = [name for name in host.marks if name != host.name]
            said = (
                f"run_folder is local, but what {listed(others, _MOST_NAMED)} writes is seen"
                if others
                else "of its own, as run_folder: local says"
            )
            do = "set run_folder: shared"
            yield Finding(check="run folder", host=host.name, level="bad" if others else "ok", found=said, do=do if others else "")
            continue
        if missing := [name for name in everyone if name not in host.marks]:
            said = f"does not see what {listed(missing, _MOST_NAMED)} {'writes' if len(missing) == 1 else 'write'} there"
            do = "choose a run folder on a file system that all hosts mount under the same path, --run, or run_folder: local"
            yield Finding(check="run folder", host=host.name, level="bad", found=said, do=do)
        else:
            yield Finding(check="run folder", host=host.name, level="ok", found="one folder for all hosts")


def disk(hosts: Sequence[Seen], context: Context) -> Iterator[Finding]:
    """Room for the checkpoints that are kept, and for what else is written."""
    kept = max((checkpoint_bytes(model) * asked.kept_checkpoints for _, model, asked in _trained(hosts)), default=0)
    wanted = max(context.config.min_free_bytes, kept)
    for host, machine in _with(hosts, Machine, "machine"):
        needs = f", {wanted / 2**30:.1f} GiB wanted" + (f", {kept / 2**30:.1f} of them for checkpoints" if kept else "")
        asked = host.part(Asked, "config")
        folder, free = (asked.folder, asked.free_bytes) if asked is not None and asked.run else (machine.folder, machine.free_bytes)
        do = f"make room in {folder}, or write elsewhere"
        yield _line("free disk", host, f"{free / 2**30:.0f} GiB{needs if free < wanted else ''}", bad=free < wanted, do=do)


def shared_memory(hosts: Sequence[Seen], context: Context) -> Iterator[Finding]:
    """Room by which NCCL's ranks on one host talk; containers have 64 MB where nobody said otherwise."""
    for host, machine in _with(hosts, Machine, "machine"):
        if not context.remote or not machine.shared_bytes:
            continue
        used = context.config.accelerator == "cuda" and host.slots > 1
        few = used and machine.shared_free_bytes < _LEAST_SHARED_BYTES
        said = f"{machine.shared_free_bytes / 2**30:.2f} GiB free of {machine.shared_bytes / 2**30:.2f}" if few else "enough"
        do = "give the container more: `--shm-size=8g`, or kubernetes.shared_memory"
        yield _line("shared memory", host, said, bad=few, do=do, level="warn")


def gpus(hosts: Sequence[Seen], context: Context) -> Iterator[Finding]:
    """A device for each rank, and the same kind everywhere."""
    kinds = {name for _, found in _with(hosts, Gpus, "GPUs") for name in found.names}
    for host, found in _with(hosts, Gpus, "GPUs"):
        counted = [f"{len(list(group))} x {name}" for name, group in itertools.groupby(sorted(found.names))]
        wanted = context.config.accelerator == "cuda"
        if wanted and len(found.names) < host.slots:
            said = f"{listed(counted)}, for {host.slots} ranks"
            do = "lower slots in the hostfile, free the others (CUDA_VISIBLE_DEVICES), or look at `nvidia-smi`"
            yield Finding(check="GPUs", host=host.name, level="bad", found=said, do=do)
        elif wanted and len(kinds) > 1:
            do = "the slowest keeps all others waiting: train on hosts of one kind"
            yield Finding(
                check="GPUs", host=host.name, level="warn", found=f"{listed(counted)}, others have {listed(sorted(kinds))}", do=do
            )
        elif said := _other_device(host, context, len(found.names)):
            do = "`--accelerator cuda` trains on them, train.device cpu on the CPU: both must agree"
            yield Finding(check="GPUs", host=host.name, level="bad", found=f"{', '.join(counted) or 'none'}, but {said}", do=do)
        else:
            yield Finding(check="GPUs", host=host.name, level="ok", found=", ".join(counted) or "none: training runs on the CPU")


def _other_device(host: Seen, context: Context, count: int) -> str:
    """Why ranks would be refused: their launcher sets DeepSpeed up for one kind of device, and the trainer's config takes another."""
    asked = host.part(Asked, "config")
    device = asked.facts.get("train.device", "") if asked is not None else ""
    takes = ("cuda" if count >= host.slots else "cpu") if device == "auto" else device
    if takes in ("", context.config.accelerator):
        return ""
    return f"train.device {device} takes {takes}, and --accelerator is {context.config.accelerator}"


def operations(hosts: Sequence[Seen], context: Context) -> Iterator[Finding]:
    """DeepSpeed's compiled operations: training needs none, and one that overrides ask for is compiled where it is missing."""
    have = [(host, machine.operations) for host, machine in _with(hosts, Machine, "machine")]
    everywhere = {name for _, names in have for name in names}
    for host, names in have:
        if missing := sorted(everywhere - {*names}):
            said = f"{listed(missing)} compiled on other hosts, not here"
            do = "needed by deepspeed_overrides alone, and then compiled at first use, a minute each: share TORCH_EXTENSIONS_DIR"
            yield Finding(check="DeepSpeed ops", host=host.name, level="warn", found=said, do=do)
        else:
            yield Finding(check="DeepSpeed ops", host=host.name, level="ok", found=f"{listed(sorted(names))} compiled; training needs none")


def tracking(hosts: Sequence[Seen], context: Context) -> Iterator[Finding]:
    """Whether MLflow can be reached: rank 0 writes, and another host has it after a restart without the first."""
    have = list(_with(hosts, Tracking, "MLflow"))
    for host, found in have:
        if found.why_not:
            do = "start the server, open its port, or set mlflow.enabled false: training goes on without it, and sends nothing"
            level: Level = "bad" if host is have[0][0] else "warn"
            said = f"{found.where}: {found.why_not}"
            yield Finding(check="MLflow", host=host.name, level=level, found=said, do=do)
        else:
            yield Finding(check="MLflow", host=host.name, level="ok", found=found.where or "nothing is tracked")


def memory(hosts: Sequence[Seen], context: Context) -> Iterator[Finding]:
    """What weights, gradients and optimizer states take by ZeRO stage, against what is free."""
    trained = list(_trained(hosts))
    if not trained:
        return
    _, model, asked = trained[0]
    ranks = sum(host.slots for host in hosts)
    needs = {
        stage: need(
            model,
            stage=stage,
            ranks=ranks,
            bucket_elements=asked.bucket_elements,
            offload_optimizer=asked.offload_optimizer and stage > 0,
            offload_parameters=asked.offload_parameters and stage == 3,
        )
        for stage in STAGES
    }
    by_stage = " / ".join(_size(needs[stage].device) for stage in STAGES)
    for host, machine in _with(hosts, Machine, "machine"):
        devices = host.part(Gpus, "GPUs")
        on_gpu = context.config.accelerator == "cuda" and devices is not None and len(devices.free_bytes) >= host.slots
        shared_by = 1 if on_gpu else host.slots
        free = (min(devices.free_bytes[: host.slots]) if on_gpu else machine.memory_free_bytes) // shared_by
        wanted = needs[asked.stage]
        fits = [stage for stage in STAGES if _fits(needs[stage].device, needs[stage].host, free, machine, host, on_gpu)]
        said = f"{_size(wanted.device)} a rank at ZeRO {asked.stage} before activations, {_size(free)} free (ZeRO 0 to 3: {by_stage})"
        if asked.stage not in fits:
            better = (
                f"zero.stage {fits[0]} fits" if fits else "no stage fits: more ranks, a smaller or a quantised base, zero.offload_optimizer"
            )
            yield Finding(check="memory", host=host.name, level="bad", found=said, do=better)
        elif wanted.device > _CROWDED * free:
            do = "little is left for activations: a smaller micro-batch, a higher zero.stage, or free what else runs there"
            yield Finding(check="memory", host=host.name, level="warn", found=said, do=do)
        else:
            yield Finding(
                check="memory", host=host.name, level="ok", found=f"{_size(wanted.device)} a rank (ZeRO 0 to 3: {by_stage}), it fits"
            )


_CROWDED = 0.7


def _fits(device: int, on_host: int, free: int, machine: Machine, host: Seen, on_gpu: bool) -> bool:
    if not on_gpu:
        return device + on_host <= free
    return device <= free and on_host * host.slots <= machine.memory_free_bytes


def bandwidth(hosts: Sequence[Seen], context: Context) -> Iterator[Finding]:
    """What the ranks measured together."""
    found = context.bandwidth
    if found is None:
        return
    for name, why in found.failed.items():
        do = "open all ports between the hosts (gloo and NCCL choose any), or choose another --interface"
        yield Finding(check="bandwidth", host=name, level="bad", found=why, do=do)
    if found.failed:
        return
    who = hosts[0].name if len(hosts) == 1 else "all"
    said = (
        f"all-reduce {found.reduce_bytes_a_second / 1e9:.2f} GB/s, all-gather {found.gather_bytes_a_second / 1e9:.2f} GB/s a rank, "
        f"{found.latency_seconds * 1e3:.2f} ms at least, {found.ranks} ranks"
    )
    for _, model, _ in itertools.islice(_trained(hosts), 1):
        gradients = 4 * model.trained
        seconds = 2 * gradients * (found.ranks - 1) / found.ranks / max(found.reduce_bytes_a_second, 1.0)
        said += f"; gradients of {gradients / 1e6:.1f} MB: {seconds * 1e3:.1f} ms a step"
    named = context.environ.get("GLOO_SOCKET_IFNAME") or context.config.interface
    links = [machine.interfaces[name].megabits * 1e6 / 8 for _, machine, name in _chosen(hosts, named) if name in machine.interfaces]
    slowest = min(links, default=0.0)
    per_host = found.reduce_bytes_a_second
    if context.remote and len(hosts) > 1 and slowest > 0 and per_host < _LEAST_LINK_SHARE * slowest:
        do = (
            "look whether the link is shared or the interface the wrong one: --interface, NCCL_IB_HCA; the CPU's gloo is slow on busy cores"
        )
        yield Finding(check="bandwidth", host=who, level="warn", found=f"{said}; the link's own speed is {slowest / 1e9:.2f} GB/s", do=do)
    else:
        yield Finding(check="bandwidth", host=who, level="ok", found=said)


# ------------------------------------------------------------------------------------------------------------------------------ helpers


def _alive(hosts: Sequence[Seen]) -> list[Seen]:
    return [host for host in hosts if not host.lost]


def _with(hosts: Sequence[Seen], kind: type[T], part: str) -> Iterator[tuple[Seen, T]]:
    """Hosts of which a part is known, with it."""
    for host in hosts:
        if (found := host.part(kind, part)) is not None:
            yield host, found


def _trained(hosts: Sequence[Seen]) -> Iterator[tuple[Seen, Model, Asked]]:
    for host, model in _with(hosts, Model, "model"):
        if (asked := host.part(Asked, "config")) is not None:
            yield host, model, asked


def _line(check: str, host: Seen, found: str, *, bad: bool = False, do: str = "", level: Level = "bad") -> Finding:
    return Finding(check=check, host=host.name, level=level if bad else "ok", found=found, do=do if bad else "")


def _size(count: int) -> str:
    for unit, nbytes in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20)):
        if count >= nbytes:
            return f"{count / nbytes:.3g} {unit}"
    return f"{count / 2**10:.3g} KiB"


CHECKS: tuple[Callable[[Sequence[Seen], Context], Iterator[Finding]], ...] = (
    reached,
    answered,
    own_name,
    interface,
    clock,
    port,
    system,
    same_code,
    same_config,
    same_study,
    shards,
    shared_folder,
    disk,
    shared_memory,
    gpus,
    operations,
    tracking,
    memory,
    bandwidth,
)
