"""What ``doctor`` makes of the facts of several hosts: nothing bad where they agree, and every contradiction named, wherever it is."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from data_prep.contract.cli import from_plain, main, to_plain
from data_prep.contract.records import from_json, to_json
from launch.__main__ import COMMANDS, one_value
from launch.doctor.config import DoctorConfig
from launch.doctor.facts import PARTS, Asked, Bandwidth, Facts, Gpus, Interface, Machine, Model, Seen, Shards, Tracking
from launch.doctor.findings import Context, Finding, findings, grouped
from launch.doctor.memory import STAGES, need

GIB = 2**30
CODE = {"python": "3.12.1", "package torch": "2.15.0", "code": "abc", "code trainer/losses.py": "111", "code data_prep/split.py": "222"}


def host(name: str, number: int) -> Seen:
    """A host on which nothing is wrong."""
    machine = Machine(
        python="3.12.1",
        packages={"torch": "2.15.0", "deepspeed": "0.19.8"},
        compiler="/usr/bin/g++",
        headers=True,
        cores=16,
        name=name,
        name_addresses=[f"10.0.0.{number}"],
        interfaces={
            "lo": Interface(addresses=["127.0.0.1"], up=True, megabits=0, mtu=65536),
            "eth0": Interface(addresses=[f"10.0.0.{number}"], up=True, megabits=10_000, mtu=1500),
        },
        folder="/lab/runs",
        free_bytes=500 * GIB,
        memory_bytes=64 * GIB,
        memory_free_bytes=50 * GIB,
        shared_bytes=32 * GIB,
        shared_free_bytes=30 * GIB,
        operations=[],
    )
    parts: dict[str, Any] = {
        "machine": machine,
        "code": Facts(facts=dict(CODE)),
        "GPUs": Gpus(names=["H100", "H100"], free_bytes=[70 * GIB, 70 * GIB], cuda="12.8", nccl="2.27.3"),
        "config": Asked(
            facts={"optimizer.lr": "0.003", "train.device": "auto"},
            run="runs/x",
            folder="/lab/runs",
            free_bytes=500 * GIB,
            stage=1,
            bucket_elements=10**7,
            kept_checkpoints=4,
        ),
        "run": Facts(facts={}),
        "study": Facts(facts={"data.fingerprint": "f00", "data.split_hash": "5b1", "training items": "16540"}),
        "model": Model(trained=10_000_000, frozen_bytes=0, largest=1_000_000),
        "shards": Shards(hashed=5, total=5, read_bytes=10**9, seconds=1.0, wrong=[]),
        "MLflow": Tracking(where="http://tracker:5000", why_not=""),
    }
    seen = Seen(name=name, slots=2, address=f"10.0.0.{number}", interface="eth0", clock_seconds=0.1, clock_error_seconds=0.001, port=20123)
    seen.parts, seen.marks = parts, ["node0", "node1", "node2"]
    return seen


def cluster() -> list[Seen]:
    return [host(f"node{number}", number) for number in range(3)]


FAST = Bandwidth(ranks=6, reduce_bytes_a_second=1e9, gather_bytes_a_second=1e9, latency_seconds=1e-4)
CONFIG = DoctorConfig(hostfile="hosts", accelerator="cuda", trainer_command=["contrastive", "--run", "runs/x"])


def judged(hosts: list[Seen], *, config: DoctorConfig = CONFIG, bandwidth: Bandwidth | None = FAST) -> list[Finding]:
    return findings(hosts, Context(config=config, environ={}, bandwidth=bandwidth, python="/venv/bin/python", folder="/lab"))


def wrong(found: list[Finding]) -> set[tuple[str, str, str]]:
    """(check, host, level) of what is not as it should be."""
    return {(one.check, one.host, one.level) for one in found if one.level != "ok"}


def machine(**changes: Any) -> Callable[[Seen], None]:
    return lambda seen: seen.parts.update(machine=replace(seen.parts["machine"], **changes))


def part(name: str, **changes: Any) -> Callable[[Seen], None]:
    return lambda seen: seen.parts.update({name: replace(seen.parts[name], **changes)})


def facts(name: str, **changes: str) -> Callable[[Seen], None]:
    return lambda seen: seen.parts.update({name: replace(seen.parts[name], facts={**seen.parts[name].facts, **changes})})


def own(**changes: Any) -> Callable[[Seen], None]:
    def change(seen: Seen) -> None:
        for name, value in changes.items():
            setattr(seen, name, value)

    return change


def refused(name: str, sentence: str) -> Callable[[Seen], None]:
    def change(seen: Seen) -> None:
        seen.parts.pop(name)
        seen.refused[name] = sentence

    return change


def gone(why: str) -> Callable[[Seen], None]:
    def change(seen: Seen) -> None:
        seen.lost, seen.clock_seconds, seen.port, seen.marks = why, None, 0, None
        seen.parts.clear()

    return change


def eth0(**changes: Any) -> Callable[[Seen], None]:
    def change(seen: Seen) -> None:
        interfaces = seen.parts["machine"].interfaces
        machine(interfaces={**interfaces, "eth0": replace(interfaces["eth0"], **changes)})(seen)

    return change


# name: (what is wrong with one host, the check that says so, how bad it is, words of what is found, words of what to do)
WRONG: dict[str, tuple[Callable[[Seen], None], str, str, str, str]] = {
    "unread shards": (refused("shards", "OSError: Input/output error"), "answer", "bad", "Input/output", "doctor"),
    "no password": (gone("root@node: Permission denied (publickey)."), "ssh", "bad", "Permission denied", "ssh-copy-id"),
    "no such name": (gone("ssh: Could not resolve hostname node"), "ssh", "bad", "resolve", "hostfile"),
    "no sshd": (gone("ssh: connect to host node port 22: Connection refused"), "ssh", "bad", "refused", "sshd"),
    "switched off": (gone("ssh: connect to host node port 22: No route to host"), "ssh", "bad", "No route", "reachable"),
    "silent": (gone("no answer within 120 seconds"), "ssh", "bad", "120", "reachable"),
    "unknown key": (gone("Host key verification failed."), "ssh", "bad", "key", "known_hosts"),
    "no project": (gone("/usr/bin/python3: No module named launch"), "ssh", "bad", "launch", "install"),
    "no folder": (gone("sh: 1: cd: can't cd to /lab"), "ssh", "bad", "cd", "same paths on node{}: /lab, /venv/bin/python"),
    "hangs": (own(late="study"), "answer", "bad", "at: study", "mount"),
    "torch is broken": (refused("GPUs", "ImportError: libcuda.so"), "answer", "bad", "libcuda", "doctor"),
    "Debian": (machine(name_addresses=["127.0.1.1"]), "own name", "warn", "127.0.1.1", "/etc/hosts"),
    "no name": (machine(name_addresses=[]), "own name", "warn", "cannot be resolved", "/etc/hosts"),
    "other interface": (own(interface="ib7"), "interface", "bad", "none has 10.0.0.", "--interface"),
    "interface down": (eth0(up=False), "interface", "bad", "eth0 is down", "--interface"),
    "no address": (eth0(addresses=[]), "interface", "bad", "without an address", "--interface"),
    "loopback": (own(address="127.0.0.1"), "interface", "bad", "127.0.0.1", "hostfile"),
    "clock a little off": (own(clock_seconds=4.1), "clock", "warn", "4.0 s", "NTP"),
    "clock far off": (own(clock_seconds=-3600.0), "clock", "bad", "3600.1 s", "NTP"),
    "no port": (own(port=0, port_refused="in use"), "port", "bad", "in use", "20000"),
    "old Python": (machine(python="3.9.2"), "Python", "bad", "3.9.2", "3.11"),
    "no torch": (machine(packages={"torch": "", "deepspeed": "0.19.8"}), "torch", "bad", "not installed", "pip install torch"),
    "no compiler": (machine(compiler=""), "g++", "bad", "not found", "compiler"),
    "no headers": (machine(headers=False), "Python headers", "bad", "not found", "python3-dev"),
    "no cores": (machine(cores=1), "cores", "warn", "2 ranks of 1 threads on 1 cores", "slots"),
    "other code": (facts("code", **{"code trainer/losses.py": "999"}), "code", "bad", "trainer/losses.py is 999", "checkout"),
    "other package": (facts("code", **{"package torch": "2.14.0"}), "packages", "bad", "torch is 2.14.0", "requirements.lock.txt"),
    "other config": (facts("config", **{"optimizer.lr": "0.004"}), "config", "bad", "optimizer.lr is 0.004", "config file"),
    "other study": (facts("study", **{"data.fingerprint": "bad"}), "study", "bad", "data.fingerprint is bad", "study"),
    "other split": (facts("study", **{"data.split_hash": "bad"}), "study", "bad", "data.split_hash is bad", "split"),
    "no study": (refused("study", "/lab/study: no manifest.json"), "study", "bad", "no manifest.json", "mount"),
    "a run is there": (refused("run", "run: runs/x already holds a run"), "config", "bad", "already holds", "launch run"),
    "bad config": (refused("config", "no such field"), "config", "bad", "no such field", "mend"),
    "altered shard": (part("shards", wrong=["000001.tar: SHA-256 abc"]), "shards", "bad", "000001.tar", "verify"),
    "own folder": (own(marks=["node7"]), "run folder", "bad", "does not see", "mount"),
    "read-only": (own(marks=None, marks_refused="/lab: Read-only file system"), "run folder", "bad", "Read-only", "write"),
    "full disk": (part("config", free_bytes=GIB), "free disk", "bad", "1 GiB", "/lab/runs"),
    "container": (machine(shared_bytes=2**26, shared_free_bytes=2**26), "shared memory", "warn", "0.06 GiB", "shm-size"),
    "a GPU is lost": (part("GPUs", names=["H100"], free_bytes=[70 * GIB]), "GPUs", "bad", "1 x H100, for 2 ranks", "slots"),
    "server away": (part("MLflow", why_not="Connection refused"), "MLflow", "warn", "refused", "server"),
    "other device": (facts("config", **{"train.device": "cpu"}), "GPUs", "bad", "train.device cpu takes cpu", "agree"),
    "used GPU": (part("GPUs", free_bytes=[70 * GIB, 2**26]), "memory", "bad", "64 MiB free", "stage"),
    "crowded GPU": (part("GPUs", free_bytes=[70 * GIB, 170 * 2**20]), "memory", "warn", "170 MiB free", "micro-batch"),
}


def test_hosts_that_agree() -> None:
    found = judged(cluster())
    assert wrong(found) == set()
    checks = {one.check for one in found}
    assert {"ssh", "clock", "port", "code", "packages", "config", "study", "shards", "run folder", "memory", "bandwidth"} <= checks
    assert all(not one.do for one in found)
    one_line = [hosts for one, hosts in grouped(found) if one.check == "code"]
    assert one_line == [["node0", "node1", "node2"]]


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("which", [1, 2])
def test_what_is_wrong_with_one_host_is_named_with_it_and_with_what_to_do(name: str, which: int) -> None:
    change, check, level, words, advice = WRONG[name]
    hosts = cluster()
    change(hosts[which])
    found = judged(hosts)
    (named,) = [one for one in found if (one.check, one.host, one.level) == (check, f"node{which}", level)]
    assert words in named.found
    assert advice.format(which) in named.do
    others = {one for one in wrong(found) if one[1] != f"node{which}" and one[0] not in ("bandwidth",)}
    assert others <= {("run folder", f"node{other}", "bad") for other in range(3)}, (
        "no other host is blamed, but for a folder that two do not share"
    )


@pytest.mark.parametrize(
    ("one", "other"), [pair for pair in itertools.combinations(WRONG, 2) if WRONG[pair[0]][1] != WRONG[pair[1]][1]][::7]
)
def test_two_things_on_two_hosts_hide_neither(one: str, other: str) -> None:
    hosts = cluster()
    WRONG[one][0](hosts[1])
    WRONG[other][0](hosts[2])
    named = wrong(judged(hosts))
    assert (WRONG[one][1], "node1", WRONG[one][2]) in named
    assert (WRONG[other][1], "node2", WRONG[other][2]) in named


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_with_the_first_host_is_a_finding_too(name: str) -> None:
    hosts = cluster()
    WRONG[name][0](hosts[0])
    found = judged(hosts)
    assert any(one.level != "ok" and one.do for one in found)
    if name == "server away":
        assert ("MLflow", "node0", "bad") in wrong(found)  # rank 0 tracks


def test_all_hosts_gone_is_no_crash() -> None:
    hosts = cluster()
    for seen in hosts:
        gone("Connection refused")(seen)
    found = judged(hosts, bandwidth=None)
    assert wrong(found) == {("ssh", f"node{number}", "bad") for number in range(3)}


def test_a_folder_of_each_hosts_own_is_right_where_it_is_asked_for() -> None:
    hosts = cluster()
    for seen in hosts:
        facts("config", run_folder="local")(seen)
    assert wrong(judged(hosts)) == {("run folder", f"node{number}", "bad") for number in range(3)}
    for seen in hosts:
        seen.marks = [seen.name]
    assert wrong(judged(hosts)) == set()


def test_an_uncertain_clock_is_not_blamed() -> None:
    hosts = cluster()
    hosts[1].clock_seconds, hosts[1].clock_error_seconds = 2.0, 1.5
    assert wrong(judged(hosts)) == set()


def test_mtus_that_differ_and_devices_of_two_kinds() -> None:
    hosts = cluster()
    eth0(mtu=9000)(hosts[1])
    part("GPUs", names=["A100", "A100"])(hosts[2])
    named = wrong(judged(hosts))
    assert {("interface", f"node{number}", "warn") for number in range(3)} <= named
    assert ("GPUs", "node2", "warn") in named
    ops = cluster()
    machine(operations=["cpu_adam"])(ops[0])
    assert wrong(judged(ops)) == {("DeepSpeed ops", "node1", "warn"), ("DeepSpeed ops", "node2", "warn")}


def test_devices_that_are_there_and_not_asked_for_are_refused_as_ranks_would_be() -> None:
    on_cpu = replace(CONFIG, accelerator="cpu")
    assert {("GPUs", f"node{number}", "bad") for number in range(3)} <= wrong(judged(cluster(), config=on_cpu))
    hosts = cluster()
    for seen in hosts:
        facts("config", **{"train.device": "cpu"})(seen)
    assert wrong(judged(hosts, config=on_cpu)) == set()


def test_bandwidth_that_is_slow_or_was_not_measured() -> None:
    slow = replace(FAST, reduce_bytes_a_second=1e8)
    (found,) = [one for one in judged(cluster(), bandwidth=slow) if one.check == "bandwidth"]
    assert found.level == "warn"
    assert "the link's own speed is 1.25 GB/s" in found.found
    assert "gradients of 40.0 MB" in found.found
    failed = judged(cluster(), bandwidth=Bandwidth(ranks=6, failed={"node2": "ranks did not meet the others within 120 seconds"}))
    assert wrong(failed) == {("bandwidth", "node2", "bad")}


def test_memory_by_stage_falls_with_ranks_and_with_the_stage() -> None:
    model = Model(trained=10**9, frozen_bytes=16 * 10**9, largest=10**8)
    assert need(model, stage=0, ranks=64).device == 32 * 10**9  # 16 bytes a trained parameter, and the base
    for ranks in (2, 8, 64):
        sizes = [need(model, stage=stage, ranks=ranks, bucket_elements=10**6).device for stage in STAGES]
        assert sizes == sorted(sizes, reverse=True)
        assert all(need(model, stage=stage, ranks=2 * ranks).device < need(model, stage=stage, ranks=ranks).device for stage in (1, 2, 3))
    both = need(model, stage=1, ranks=8, offload_optimizer=True)
    assert both.device + both.host == need(model, stage=1, ranks=8).device
    assert both.host == 3 * 4 * 10**9 // 8


def test_a_model_that_fits_a_higher_stage_is_told_which() -> None:
    hosts = cluster()
    for seen in hosts:
        part("model", trained=4 * 10**9)(seen)
        part("config", stage=0)(seen)
    found = [one for one in judged(hosts) if one.check == "memory"]
    assert {one.level for one in found} == {"warn"}  # 59.6 of 70 GiB before any activation
    for seen in hosts:
        part("model", trained=6 * 10**9)(seen)
    found = [one for one in judged(hosts) if one.check == "memory"]
    assert {(one.level, one.do) for one in found} == {("bad", "zero.stage 1 fits")}


def test_records_survive_the_way() -> None:
    seen = host("node0", 0)
    for name, kind in PARTS.items():
        found = seen.parts[name]
        assert from_json(kind, json.loads(json.dumps(to_json(found))), name, written_by="doctor") == found
    assert from_plain(DoctorConfig, json.loads(json.dumps(to_plain(CONFIG)))) == CONFIG
    assert copy.deepcopy(seen) == seen


def test_this_machine_without_a_hostfile(capsys: pytest.CaptureFixture[str]) -> None:
    main("launch", "", COMMANDS, one_value(["doctor", "--min_free_bytes", "0", "--json"]))
    found = {one["check"]: one for one in json.loads(capsys.readouterr().out)}
    assert {"Python", "torch", "deepspeed", "g++", "cores", "free disk", "GPUs"} <= found.keys()
    assert {"ssh", "clock", "code", "study", "bandwidth"}.isdisjoint(found)
    status = main("launch", "", COMMANDS, one_value(["doctor", "--min_free_bytes", str(10**18)]))
    assert status == 1
    said = capsys.readouterr().out
    assert "bad" in said
    assert "make room" in said


def test_limits_and_targets_that_make_no_sense(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--timeout_seconds", "0"], ["--hash_seconds=-1"], ["--target", "slurm"], ["--hostfile", "nowhere"]):
        assert main("launch", "", COMMANDS, ["doctor", *words]) != 0
        assert capsys.readouterr().err.startswith("error: ")
