"""Asking all hosts at once, through the agents by which ranks are started; a host that does not answer keeps no other waiting."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import selectors
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from data_prep.contract.cli import to_plain
from data_prep.contract.errors import UserError
from data_prep.contract.records import from_json
from launch.doctor.config import DoctorConfig
from launch.doctor.facts import PARTS, Asked, Bandwidth, Seen
from launch.hostfile import Host
from launch.link import Link, close_all, over_ssh
from launch.plan import Meeting, Surroundings, passed_on, plan_of_ranks, settings_of
from trainer.distributed.child import environment_of_its_own
from trainer.training.owner import SHARED_SECONDS

ASKED = "EEGVISION_DOCTOR"
_LOOK_SECONDS = 0.1
_QUESTIONS = 5
"""Of the clock; the quickest answer counts."""
_END_SECONDS = 10.0
_LOOPBACK = ("127.", "::1")


@dataclass(kw_only=True)
class _Program:
    """What runs on one host: its ranks that have not ended, what they said."""

    running: set[int] = field(default_factory=set)
    output: str = ""
    errors: str = ""
    statuses: list[int] = field(default_factory=list)

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The objects that it has printed."""
        found = []
        for line in self.output.split("\n")[:-1]:
            with contextlib.suppress(ValueError):
                value = json.loads(line)
                if isinstance(value, dict):
                    found.append(value)
        return found

    @property
    def reason(self) -> str:
        """The last line of its errors."""
        lines = [line.strip() for line in self.errors.splitlines() if line.strip()]
        return lines[-1].removeprefix("error: ") if lines else f"ended with status {max(self.statuses, default=0)}"


class Gathering:
    """The hosts, and what is known of them so far.

    Parameters
    ----------
    hosts
        In the order of their ranks.
    around
        Of this machine.
    """

    def __init__(self, config: DoctorConfig, hosts: Sequence[Host], around: Surroundings) -> None:
        self.config, self.hosts, self.around = config, hosts, around
        self.seen = {host.name: Seen(name=host.name, slots=host.slots) for host in hosts}
        self.links: dict[str, Link] = {}
        self.programs: dict[str, _Program] = {}
        self.clocks: dict[str, list[tuple[float, float]]] = {host.name: [] for host in hosts}
        self.asked_at: dict[str, float] = {}
        self.bandwidth: Bandwidth | None = None

    def run(self) -> tuple[list[Seen], Bandwidth | None]:
        """All of it."""
        steps: dict[str, Callable[[], None]] = {
            "connecting": self._connect,
            "clocks and ports": self._ask_clocks_and_ports,
            "what they have": self._ask_facts,
            "whether the run folder is one": self._look_at_the_folder,
            "bandwidth": self._measure,
        }
        try:
            for name, ask in steps.items():
                if self.config.hostfile:
                    print(f"doctor: {len(self.alive) or len(self.hosts)} hosts: {name}", file=sys.stderr, flush=True)
                ask()
        finally:
            close_all(self.links.values())
        return list(self.seen.values()), self.bandwidth

    @property
    def alive(self) -> list[Host]:
        """Hosts that answer."""
        return [host for host in self.hosts if host.name in self.links]

    # -------------------------------------------------------------------------------------------------------------------------- the parts

    def _connect(self) -> None:
        begin = time.monotonic()
        for host in self.hosts:
            if self.config.hostfile:
                argv = over_ssh(host.name, python=self.around.python, folder=self.around.folder, root=self.around.root)
                self.links[host.name] = Link(argv, os.environ)
            else:
                self.links[host.name] = Link((sys.executable, "-m", "launch.agent"), {**environment_of_its_own(), **self.around.path})
        self._until(lambda: all(link.hello for link in self.links.values()))
        for name, link in list(self.links.items()):
            if link.hello is None:
                self._lose(name, f"no answer within {self.config.timeout_seconds:g} seconds")
            else:
                self.seen[name].address, self.seen[name].interface = link.hello["address"], link.hello["interface"]
                self.seen[name].connect_seconds = time.monotonic() - begin

    def _ask_clocks_and_ports(self) -> None:
        def all_told() -> bool:
            told = (len(self.clocks[name]) >= _QUESTIONS for name in self.links)
            return all(told) and all(self.seen[name].port or self.seen[name].port_refused for name in self.links)

        for name, link in self.links.items():
            link.order("port", port=self.config.master_port)
            self._ask_clock(name)
        self._until(all_told)
        for name, answers in self.clocks.items():
            if answers:
                error, skew = min(answers)
                self.seen[name].clock_seconds, self.seen[name].clock_error_seconds = skew, error

    def _ask_clock(self, name: str) -> None:
        self.asked_at[name] = time.time()
        self.links[name].order("clock")

    def _ask_facts(self) -> None:
        asked = {"config": to_plain(self.config), "ranks": sum(host.slots for host in self.hosts)}
        self._start("launch.doctor.host", {host.name: asked for host in self.alive})
        self._finish()
        for name, program in self.programs.items():
            seen, at = self.seen[name], "start"
            for line in program.lines:
                at = line.get("begins", at)
                part = str(line.get("part"))
                if part in PARTS and "refused" in line:
                    seen.refused[part] = str(line["refused"])
                elif part in PARTS:
                    with contextlib.suppress(UserError):  # another version's; its code is told to differ
                        seen.parts[part] = from_json(PARTS[part], line["found"], name, written_by="doctor")
            if at and name in self.links:
                seen.late = at if program.running else ""
                if not program.running:
                    seen.refused.setdefault("machine" if at == "start" else at, program.reason)

    def _look_at_the_folder(self) -> None:
        runs = [asked.run for seen in self.seen.values() if (asked := seen.part(Asked, "config")) is not None and asked.run]
        ready = [host.name for host in self.alive if not self.seen[host.name].late]
        if not runs or len(ready) < 2:
            return
        same: dict[str, Any] = {"run": runs[0], "nonce": secrets.token_hex(8), "hosts": len(ready), "seconds": SHARED_SECONDS}
        self._start("launch.doctor.marks", {name: {**same, "me": number} for number, name in enumerate(ready)})
        self._until(lambda: all(program.lines or not program.running for program in self.programs.values()))
        for name in ready:
            if name in self.links:
                self.links[name].order("stop")
        self._finish(_END_SECONDS)
        for name, program in self.programs.items():
            for line in program.lines[:1]:
                self.seen[name].marks_refused = line.get("refused", "")
                self.seen[name].marks = [ready[number] for number in line["marks"]] if "marks" in line else None
            if not program.lines and name in self.links:
                self.seen[name].marks_refused = program.reason

    def _measure(self) -> None:
        hosts = [host for host in self.alive if not self.seen[host.name].late]
        ranks = sum(host.slots for host in hosts)
        if ranks < 2 or not self.config.bandwidth_bytes:
            return
        first = self.seen[hosts[0].name]
        address = "127.0.0.1" if len(hosts) == 1 else first.address
        if not first.port or (len(hosts) > 1 and address.startswith(_LOOPBACK)):
            return  # findings of their own
        interfaces = {host.name: self.seen[host.name].interface for host in hosts} if len(hosts) > 1 else {}
        meeting = Meeting(address=address, port=first.port, interfaces=interfaces)
        starts = plan_of_ranks(replace(self.config, max_restarts=0), hosts, self.around, meeting).starts
        asked = {"device": self.config.accelerator, "bytes": self.config.bandwidth_bytes, "seconds": self.config.timeout_seconds / 2}
        self.programs.clear()
        for start in starts:
            start = replace(start, argv=(self.around.python, "-u", "-m", "launch.doctor.bandwidth"))
            self._order(start.host, start.argv, {**start.passed_on, **start.environment}, start.by_rank, asked)
        self._finish()
        found = [line["bandwidth"] for program in self.programs.values() for line in program.lines if "bandwidth" in line]
        if found:
            self.bandwidth = from_json(Bandwidth, found[0], "bandwidth", written_by="doctor")
            return
        failed = {name: self._why_not_measured(name, program) for name, program in self.programs.items()}
        self.bandwidth = Bandwidth(ranks=ranks, failed={name: why for name, why in failed.items() if why})

    def _why_not_measured(self, name: str, program: _Program) -> str:
        if name not in self.links:
            return f"was lost meanwhile: {self.seen[name].lost}"
        if program.running:
            return f"ranks did not meet the others within {self.config.timeout_seconds:g} seconds"
        return program.reason if any(program.statuses) else ""

    # ------------------------------------------------------------------------------------------------------------------- programs on hosts

    def _start(self, module: str, asked: Mapping[str, Mapping[str, Any]]) -> None:
        """One process of a module on each of these hosts, started as ranks are; what it is asked is in no command line."""
        theirs = passed_on(self.around.environ) if self.config.hostfile else {}
        alone = ({"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"},)
        self.programs.clear()
        for name, own in asked.items():
            argv = (self.around.python, "-u", "-m", module)
            self._order(name, argv, {**theirs, **settings_of(self.config, self.around)}, alone, own)

    def _order(
        self,
        host: str,
        argv: Sequence[str],
        environment: Mapping[str, str],
        by_rank: Sequence[Mapping[str, str]],
        asked: Mapping[str, Any],
    ) -> None:
        self.programs[host] = _Program(running={int(own["RANK"]) for own in by_rank})
        told = {**environment, ASKED: json.dumps(asked)}
        own = [dict(variables) for variables in by_rank]
        self.links[host].order("start", argv=argv, environment=told, by_rank=own, cwd=self.around.folder, grace=5.0, run=None)

    def _finish(self, seconds: float | None = None) -> None:
        """Until all programs have ended, on hosts that answer; those that do not end in time are ended, and stay known as running."""
        self._until(lambda: not any(self.programs[name].running for name in self.programs if name in self.links), seconds)
        late = [name for name in self.programs if name in self.links and self.programs[name].running]
        unfinished = {name: set(self.programs[name].running) for name in late}
        for name in late:
            self.links[name].order("kill")
        if late:
            self._until(lambda: not any(self.programs[name].running for name in late if name in self.links), _END_SECONDS)
        for name, running in unfinished.items():
            self.programs[name].running = running

    # --------------------------------------------------------------------------------------------------------------------- hearing of them

    def _until(self, done: Callable[[], bool], seconds: float | None = None) -> None:
        end = time.monotonic() + (self.config.timeout_seconds if seconds is None else seconds)
        while not done() and self.links and time.monotonic() < end:
            with selectors.DefaultSelector() as selector:
                for link in self.links.values():
                    selector.register(link.out, selectors.EVENT_READ)
                selector.select(_LOOK_SECONDS)
            for name, link in list(self.links.items()):
                for report in link.read():
                    self._hear(name, report)
                link.beat()
                if link.closed:
                    self._lose(name, link.closed)

    def _hear(self, name: str, report: Mapping[str, Any]) -> None:
        seen, program = self.seen[name], self.programs.get(name) or _Program()
        match report["say"]:
            case "clock":
                now = time.time()
                error = (now - self.asked_at[name]) / 2
                self.clocks[name].append((error, report["at"] - (self.asked_at[name] + error)))
                if len(self.clocks[name]) < _QUESTIONS:
                    self._ask_clock(name)
            case "port":
                seen.port = report["port"]
            case "refused" if "port" in report:
                seen.port_refused = report["why"]
            case "refused":
                program.errors += f"{report['why']}\n"
                program.running.discard(report["rank"])
                program.statuses.append(127)
            case "output" if report["stream"] == 1:
                program.output += report["text"]
            case "output":
                program.errors += report["text"]
            case "ended":
                program.running.discard(report["rank"])
                program.statuses.append(report["status"])

    def _lose(self, name: str, why: str) -> None:
        self.seen[name].lost = why
        self.links.pop(name).close(now=True)
