"""``launch run`` on this machine or on those of a hostfile: what :mod:`launch.decide` decides is done here, and what is heard goes there.

One process, one loop: agents are read, signals, the run folder and requests to stop are looked at, and each becomes a report. It believes
``completed.json`` and what the run folder says; an exit status tells only that a rank has ended. It may itself be killed: agents then stop
their ranks, which save, and ``launch run`` again goes on.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from data_prep.contract.cli import to_plain
from data_prep.contract.errors import CommandError, UserError
from data_prep.contract.machine import this_machine
from data_prep.contract.secrets import masked, private
from launch import decide as d
from launch.agent import LOST_SECONDS
from launch.config import LaunchConfig
from launch.hostfile import Host, read_hostfile
from launch.link import Link, close_all, over_ssh
from launch.outcome import heartbeats, saved_step, stamp, stopped
from launch.plan import HERE, Meeting, Surroundings, plan_of_ranks
from launch.run_state import is_asked_to_stop, read_agents, supervised, write_agents, write_status
from launch.shown import Shown
from trainer.distributed.child import environment_of_its_own
from trainer.distributed.stop_signals import stop_signals
from trainer.training.owner import Claim, is_alive, newest_claim, owned
from trainer.training.run_folder import RunFolder

_LOOK_SECONDS = 0.2
_FILES_SECONDS = 1.0
_EARLIER_SECONDS = 10.0
_NOT_STARTED = 127
"""Status of a rank that could not be started, as shells have it."""
_LOOPBACK = ("127.", "::1")


def run(config: LaunchConfig) -> int:
    """Check the trainer's config, start its ranks, and see them to the end; exit status 0, or 75 when they were stopped and have saved.

    Raises
    ------
    CommandError
        What every rank would refuse; or the run ended without success.
    """
    around = Surroundings.here(config.python or sys.executable)
    hosts = read_hostfile(config.hostfile) if config.hostfile else (Host(name=HERE, slots=config.num_processes),)
    with _signals() as asked:
        found = _checked(config, asked)
        if isinstance(found, int):
            return found
        folder = Path(found["run"]) if found["run"] else None
        with supervised(folder) if folder else contextlib.nullcontext():
            if folder and config.max_restarts:
                _wait_for_owner(folder, config.grace_seconds, asked)
            return Supervisor(config, hosts, around, found, asked).run()


class Supervisor:
    """What is done, and what is heard.

    Parameters
    ----------
    found
        By :func:`launch.check.facts`.
    asked
        Names of the signals that have come.
    """

    def __init__(self, config: LaunchConfig, hosts: Sequence[Host], around: Surroundings, found: dict[str, Any], asked: deque[str]) -> None:
        self.config, self.around, self.asked = config, around, asked
        self.folder = Path(found["run"]) if found["run"] else None
        self.success = Path(found["success"])
        self.folder_is_local = bool(found["local"])
        self.logs = RunFolder(self.success.parent).logs
        self.task = d.Task(
            hosts=tuple(hosts),
            worlds=frozenset(found["worlds"]),
            max_restarts=config.max_restarts,
            min_nodes=config.min_nodes,
            grace_seconds=config.grace_seconds,
            backoff_seconds=config.backoff_seconds,
            stall_seconds=config.stall_seconds,
            what=str(self.success.parent),
            success=self.success.name,
            logs=str(self.logs),
        )
        self.local = config.chosen == "local"
        self.shown = Shown()
        self.links: dict[str, Link] = {}
        self.answered: set[str] = set()
        self.earlier: dict[str, Any] = read_agents(self.folder) if self.folder else {}
        """Agents that are not this process's any more, by host: they end before others start there."""
        self.of_others = set(self.earlier)
        """Hosts whose agent was an earlier supervisor's: it may be at saving."""
        self.ended_pids: set[tuple[str, int]] = set()
        """(machine, process) of ranks that are known to have ended."""
        self.pids: dict[int, tuple[str, int]] = {}
        self.reports: deque[d.Report] = deque()
        self.status: int | None = None
        self.why = ""
        self.before = stamp(self.success)
        self.logged = stamp(self.logs / "rank-0.log")
        self.beats: dict[int, tuple[int, int]] = {}
        self.looked = 0.0
        self.log: list[str] = []
        self.recording: threading.Thread | None = None

    def run(self) -> int:
        """To the end; exit status."""
        try:
            state, actions = d.begin(self.task, time.monotonic())
            self._do(actions, state)
            while self.status is None:
                self._hear()
                while self.reports and self.status is None:
                    phase = state.phase
                    state, actions = d.decide(self.task, state, self.reports.popleft(), time.monotonic())
                    if actions or state.phase != phase:
                        self._tell_others(state)
                    self._do(actions, state)
        finally:
            self._close()
        if self.status and self.why:
            raise CommandError(self.why)
        return self.status

    # ------------------------------------------------------------------------------------------------------------------ what is heard

    def _hear(self) -> None:
        with selectors.DefaultSelector() as selector:
            for link in self.links.values():
                selector.register(link.out, selectors.EVENT_READ)
            if self.links:
                selector.select(_LOOK_SECONDS)
            else:
                time.sleep(_LOOK_SECONDS)
        for host, link in list(self.links.items()):
            for report in link.read():
                self._translate(host, link, report)
            link.beat()
            if link.closed:
                self.reports.append(d.Lost(host, link.closed))
                self._drop(host)
        while self.asked:
            self.reports.append(d.Asked(self.asked.popleft()))
        if time.monotonic() - self.looked > _FILES_SECONDS:
            self.reports.append(self._progress())
            if self.folder and is_asked_to_stop(self.folder):
                self.reports.append(d.Asked("launch stop"))
        self.reports.append(d.Tick())

    def _translate(self, host: str, link: Link, report: dict[str, Any]) -> None:
        match report["say"]:
            case "hello":
                self._greet(host, link)
            case "gone":
                self.earlier.pop(host, None)
                self._welcome(host)
            case "port":
                self.reports.append(d.Port(report["port"]))
            case "refused" if "port" in report:
                use = f"master_port: {report['port']} is in use by another program: choose another one, or 0 for any that is free"
                self.reports.append(
                    d.Port(0, use if report["port"] else f"{host}: no port is free where ranks could meet: {report['why']}")
                )
            case "refused":
                self.reports.append(d.Refused(host, report["why"]))
                self.reports.append(d.Ended(report["rank"], _NOT_STARTED))
            case "started":
                assert link.hello is not None
                self.pids[report["rank"]] = link.hello["machine"], report["pid"]
            case "ended":
                self.ended_pids.add(self.pids[report["rank"]])
                self.reports.append(self._progress())
                self.reports.append(d.Ended(report["rank"], report["status"]))
                self._note(f"rank {report['rank']} on {host} exits with return code = {report['status']}")
            case "output":
                self.shown.take(report["rank"], report["stream"], report["text"])

    def _greet(self, host: str, link: Link) -> None:
        """An agent has begun: one that was there before it ends first, should it still be."""
        hello, before = link.hello or {}, self.earlier.get(host)
        if before and before["machine"] == hello["machine"]:
            grace = _EARLIER_SECONDS if host in self.of_others else 0.0
            link.order("end", pid=before["pid"], started=before["started"], grace=grace)
            return
        self.earlier.pop(host, None)
        self._welcome(host)

    def _welcome(self, host: str) -> None:
        if host in self.links:
            self.of_others.discard(host)
            self.answered.add(host)
            self._remember()
            self.reports.append(d.Hello(host))

    def _progress(self) -> d.Progress:
        self.looked = time.monotonic()
        if self.folder is None:
            return d.Progress(-1, -1)
        now = heartbeats(self.folder)
        steps = [step for rank, (step, at) in now.items() if self.beats.get(rank) != (step, at)]
        began = stamp(self.logs / "rank-0.log") != self.logged
        with contextlib.suppress(UserError):
            return d.Progress(max([0, *steps] if began else steps, default=-1), saved_step(self.folder))
        return d.Progress(-1, -1)

    # --------------------------------------------------------------------------------------------------------------- what is done

    def _do(self, actions: Sequence[d.Action], state: d.State) -> None:
        for action in actions:
            match action:
                case d.Connect(host):
                    self._connect(host)
                case d.Hold(host):
                    self.links[host].order("port", port=self.config.master_port)
                case d.Launch(hosts, port):
                    self._launch(hosts, port)
                case d.Stop() | d.Kill():
                    for host in {member.name for member in state.members} & self.links.keys():
                        self.links[host].order("stop" if isinstance(action, d.Stop) else "kill")
                case d.Drop(host):
                    self._drop(host)
                case d.Judge():
                    completed = stamp(self.success) not in (None, self.before)
                    self.reports.append(d.Judged(completed, self.folder is not None and stopped(self.folder)))
                case d.Record(why, restart):
                    self._record(why, restart)
                case d.Tell(line):
                    self._note(line)
                    if not self.local or state.restarts:
                        self.shown.line(line)
                case d.Finish(status, why):
                    self.status, self.why = status, why
                    if why:
                        self._note(why)

    def _connect(self, host: str) -> None:
        if host in self.links:
            return
        if self.local:
            environment = {**environment_of_its_own(), **self.around.path}
            outputs = tuple(os.dup(standard) for standard in (1, 2))  # ranks write where this process does
            try:
                self.links[host] = Link((sys.executable, "-m", "launch.agent"), environment, outputs)
            finally:
                for handle in outputs:
                    os.close(handle)
            return
        argv = over_ssh(host, python=self.around.python, folder=self.around.folder, root=self.around.root)
        self.links[host] = Link(argv, os.environ)

    def _drop(self, host: str) -> None:
        link = self.links.pop(host, None)
        if link is None:
            return
        link.close(now=True)
        self.answered.discard(host)
        if link.hello is not None:
            self.earlier[host] = {name: link.hello[name] for name in ("pid", "started", "machine")}
            self.of_others.discard(host)
        self._remember()

    def _launch(self, hosts: Sequence[Host], port: int) -> None:
        hellos = {host.name: self.links[host.name].hello or {} for host in hosts}
        first = hosts[0].name
        address = "127.0.0.1" if len(hosts) == 1 else hellos[first]["address"]
        if len(hosts) > 1 and address.startswith(_LOOPBACK):
            self.status = 1
            self.why = f"hostfile: {first} was reached by {address}, where other hosts do not find it: name it as they do"
            return
        if self.folder_is_local and len(hosts) > 1 and hellos[first]["machine"] != this_machine():
            self.status = 1
            self.why = f"run_folder: local, and rank 0 would be on {first}: start it there, where the run folder will be"
            return
        interfaces = {name: hello["interface"] for name, hello in hellos.items()} if len(hosts) > 1 else {}
        meeting = Meeting(address=address, port=port, interfaces=interfaces)
        holds = self.folder is not None and RunFolder(self.folder).holds_a_run()
        prepared = plan_of_ranks(self.config, hosts, self.around, meeting, holds_a_run=holds)
        self.before, self.logged = stamp(self.success), stamp(self.logs / "rank-0.log")
        self.beats = heartbeats(self.folder) if self.folder else {}
        self.pids.clear()
        run = None if self.folder is None else str(self.folder)
        for start in prepared.starts:
            settings = {**start.passed_on, **start.environment}
            self.links[start.host].order(
                "start",
                argv=start.argv,
                environment=settings,
                by_rank=[dict(own) for own in start.by_rank],
                cwd=self.around.folder,
                grace=self.config.grace_seconds,
                run=run,
            )

    def _record(self, why: str, restart: int) -> None:
        """Take the run folder, which fences whoever had it, and write down why it goes on; in a thread, as an owner may be waited for."""

        def record() -> None:
            try:
                if self.folder is not None and RunFolder(self.folder).holds_a_run():
                    self._write_event(self.folder, why, restart)
                self.reports.append(d.Recorded())
            except UserError as error:
                self.reports.append(d.Recorded(str(error)))

        self.recording = threading.Thread(target=record, name="event log", daemon=True)
        self.recording.start()

    def _write_event(self, folder: Path, why: str, restart: int) -> None:
        end = time.monotonic() + 3 * LOST_SECONDS + self.config.grace_seconds
        while True:
            try:
                with owned(folder, gone=self._is_gone) as owner:
                    owner.begin()
                    events = RunFolder(folder)
                    events.owner = owner
                    events.event("restart", because=why, restart=restart)
                return
            except CommandError:
                if time.monotonic() > end:  # a host that was lost and still writes into the folder ends within these
                    raise
                time.sleep(1)

    def _is_gone(self, claim: Claim) -> bool:
        return (claim.machine, claim.pid) in self.ended_pids

    # ------------------------------------------------------------------------------------------------------------------- for people

    def _note(self, line: str) -> None:
        """Into ``launcher.log``, once the run has a folder."""
        self.log.append(f"{datetime.now(UTC).isoformat(timespec='milliseconds')} {masked(line)}\n")
        if stamp(self.logs / "rank-0.log") is not None:
            with contextlib.suppress(OSError), open(self.logs / "launcher.log", "a", encoding="utf-8", opener=private) as file:
                file.writelines(self.log)
                self.log.clear()

    def _tell_others(self, state: d.State) -> None:
        if self.folder is not None:
            known = {
                "phase": state.phase,
                "hosts": {host.name: host.slots for host in self.task.hosts},
                "running_on": [host.name for host in state.members],
                "silent": dict(state.silent),
                "ranks": len(state.ranks),
                "restarts": state.restarts,
                "max_restarts": self.task.max_restarts,
                "cause": state.cause,
            }
            write_status(self.folder, known)

    def _remember(self) -> None:
        if self.folder is not None:
            names = ("pid", "started", "machine")
            now = {host: {name: link.hello[name] for name in names} for host, link in self.links.items() if link.hello}
            write_agents(self.folder, {**self.earlier, **now})

    def _close(self) -> None:
        close_all(self.links.values())
        self.shown.flush()
        if self.folder is not None:
            write_agents(self.folder, self.earlier)


@contextlib.contextmanager
def _signals() -> Iterator[deque[str]]:
    """Context that gives the names of signals to stop, as they come."""
    asked: deque[str] = deque()

    def hear(number: int, _: FrameType | None) -> None:
        asked.append(signal.Signals(number).name)

    previous = {number: signal.signal(number, hear) for number in stop_signals(signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _checked(config: LaunchConfig, asked: deque[str]) -> dict[str, Any] | int:
    """What the process found that knows the trainer's configs; or the exit status, where it refused, and said why, or a stop was asked."""
    reader, writer = os.pipe()
    with os.fdopen(reader) as found:
        try:
            argv = (sys.executable, "-m", "launch.check_child", json.dumps(to_plain(config)), str(writer))
            process = subprocess.Popen(argv, start_new_session=True, pass_fds=[writer])
        finally:
            os.close(writer)
        try:
            while process.poll() is None:
                time.sleep(0.05)
                if asked:
                    return d.STOPPED
        finally:
            process.kill()
            process.wait()
        if process.returncode < 0:
            raise CommandError(
                f"{config.trainer_command[0]}: the check of its config was ended by {signal.Signals(-process.returncode).name}"
            )
        if process.returncode:
            return process.returncode
        facts: dict[str, Any] = json.load(found)
        return facts


def _wait_for_owner(run: Path, grace_seconds: float, asked: deque[str]) -> None:
    """Ranks whose supervisor was killed save and end: they are waited for before others take their place.

    Raises
    ------
    CommandError
        Somebody else is at work there.
    """
    end = time.monotonic() + grace_seconds + LOST_SECONDS
    while (claim := newest_claim(run)) is not None and is_alive(run, claim) and not asked:
        if time.monotonic() > end:
            raise CommandError(f"run: {run} is in use by {claim}, which no `launch run` supervises: wait until it has ended, or stop it")
        time.sleep(0.5)
