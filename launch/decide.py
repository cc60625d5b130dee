"""What to do when something is heard of hosts and ranks: a state machine without a clock, a file or a process of its own.

::

    gathering --all, or those that answer in time--> meeting --port--> running --a rank or a host is lost, or a stop is asked--> ending
        ^                                                                 |                                                        |
        |                                                                 '--every rank has ended--------------> judging <---------'
        '------ waiting <------ recording <------ something was lost, and restarts are left -------------------------'
                                                  else: over, with an exit status

:func:`decide` is given what was heard and the time; :mod:`launch.supervisor` does what it says.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from launch.hostfile import Host

STOPPED = 75
"""Exit status of ranks that a signal stopped, and of ``launch run`` with them: to be gone on with."""
GATHER_SECONDS = 15.0
"""How long hosts may take to answer."""
GATHER_AGAIN_SECONDS = 5.0
"""The same for a restart: who is later than that is taken in when it answers."""
OWN_WORDS_SECONDS = 5.0
"""How long ranks have to end by themselves when another one is gone, each with its own sentence, before they are told to."""
UNSAVED_SECONDS = 15.0
"""How long they have in all, as they cannot save without the one that is gone."""
HUNG_SECONDS = 2.0
"""How long ranks of other hosts have when a host is lost: they wait for it in a collective, where they hear nothing."""
MOST_BLAMED = 2
"""How often in a row a host's rank may be the first to fail before the others go on without it, until the next checkpoint."""
KILLED_SECONDS = 10.0
"""How long a host may take to tell that what was killed there has ended, before it is taken for lost."""
PROBE_SECONDS = 10.0
"""How often hosts that were lost are asked whether they are back."""
LAST_SECONDS = 120.0
"""How long the last ranks may take after the first that a signal stopped."""
MOST_BACKOFF_SECONDS = 300.0


# ------------------------------------------------------------------------------------------------------------------ what is heard


@dataclass(frozen=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True)
class Hello:
    """An agent runs on a host."""

    host: str


@dataclass(frozen=True)
class Lost:
    """A host's agent is gone, or never came."""

    host: str
    why: str


@dataclass(frozen=True)
class Port:
    """A host holds a port where ranks may meet; 0: it refuses, and says why."""

    number: int
    why: str = ""


@dataclass(frozen=True)
class Refused:
    """A host could not start a rank."""

    host: str
    why: str


@dataclass(frozen=True)
class Ended:
    """A rank has ended, with its status; negative: by that signal."""

    rank: int
    status: int


@dataclass(frozen=True)
class Progress:
    """What the run folder says: last step of any rank's heartbeat (-1: none in this attempt), and of the newest checkpoint (-1: none)."""

    step: int
    saved: int


@dataclass(frozen=True)
class Asked:
    """Somebody asked for a stop."""

    by: str


@dataclass(frozen=True)
class Judged:
    """How the run folder stands after all ranks have ended."""

    completed: bool
    stopped: bool
    """Its last word is that a signal stopped it, and that it saved."""


@dataclass(frozen=True)
class Recorded:
    """What happened stands in the run's event log, and whoever was lost can write nothing more there; ``why``: not so."""

    why: str = ""


Report = Tick | Hello | Lost | Port | Refused | Ended | Progress | Asked | Judged | Recorded


# -------------------------------------------------------------------------------------------------------------------- what to do


@dataclass(frozen=True)
class Connect:
    """Start an agent on a host."""

    host: str


@dataclass(frozen=True)
class Hold:
    """Let a host hold a port."""

    host: str


@dataclass(frozen=True)
class Launch:
    """Start the ranks on these hosts, which meet at that port of the first."""

    hosts: tuple[Host, ...]
    port: int


@dataclass(frozen=True)
class Stop:
    """SIGTERM to all ranks."""


@dataclass(frozen=True)
class Kill:
    """SIGKILL to all ranks."""


@dataclass(frozen=True)
class Drop:
    """Forget the agent of a host, which does not answer."""

    host: str


@dataclass(frozen=True)
class Judge:
    """Look how the run folder stands."""


@dataclass(frozen=True)
class Record:
    """Write into the run's event log why it is restarted, once nobody else can write there."""

    why: str
    restart: int


@dataclass(frozen=True)
class Tell:
    """A line for people."""

    line: str


@dataclass(frozen=True)
class Finish:
    """The end, with an exit status; ``why`` where it is an error."""

    status: int
    why: str = ""


Action = Connect | Hold | Launch | Stop | Kill | Drop | Judge | Record | Tell | Finish


# ----------------------------------------------------------------------------------------------------------------------- the state


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is to be run, which does not change."""

    hosts: tuple[Host, ...]
    worlds: frozenset[int]
    """World sizes that the trainer's config allows."""
    max_restarts: int = 0
    min_nodes: int = 1
    grace_seconds: float = 60.0
    backoff_seconds: float = 2.0
    stall_seconds: float = 0.0
    what: str = "the run"
    """In sentences: the run folder."""
    success: str = "completed.json"
    """File that success alone writes, last."""
    logs: str = ""
    """Folder of logs, in sentences."""


@dataclass(frozen=True, kw_only=True)
class State:
    """How far it is."""

    phase: str = "gathering"
    since: float = 0.0
    """When the phase began, seconds of whatever clock reports are timed by."""
    asked_at: Mapping[str, float] = field(default_factory=dict)
    """By host, when an agent was last started there."""
    agents: frozenset[str] = frozenset()
    """Hosts whose agent answers."""
    silent: Mapping[str, str] = field(default_factory=dict)
    """Hosts that do not, and why."""
    members: tuple[Host, ...] = ()
    """Hosts of this attempt."""
    ended: Mapping[int, int] = field(default_factory=dict)
    """Status by rank, of those that have ended."""
    step: int = -1
    """Last step in this attempt; -1: none yet."""
    stepped_at: float = 0.0
    """When it was first seen."""
    saved: int = -1
    """Step of the newest checkpoint."""
    saved_before: int = -1
    """As of the last restart."""
    ever_began: bool = False
    restarts: int = 0
    """In a row, without a new checkpoint between."""
    blamed: Mapping[str, int] = field(default_factory=dict)
    """How often since the last checkpoint a rank of a host was the first to fail."""
    cause: str = ""
    """Why the attempt ends; empty: its ranks ended by themselves."""
    rank_failed: bool = False
    """It ends as a rank failed."""
    host_lost: bool = False
    """It ends as a host was lost."""
    hopeless: bool = False
    """What ended it would do so again: ranks refused to start."""
    purpose: str = ""
    """``asked``: somebody wants it stopped; ``grow``: hosts are back; empty: something was lost."""
    told: str = ""
    """What ranks were told last while it ends: ``stop`` or ``kill``."""

    @property
    def ranks(self) -> dict[int, str]:
        """Host of each rank of this attempt."""
        hosts = [host.name for host in self.members for _ in range(host.slots)]
        return dict(enumerate(hosts))

    @property
    def running(self) -> list[int]:
        """Ranks that have not ended, as far as anybody can tell."""
        return [rank for rank, host in self.ranks.items() if rank not in self.ended and host in self.agents]


Step = tuple[State, list[Action]]


def begin(task: Task, now: float) -> Step:
    """The first state."""
    return _gather(task, State(), now)


def decide(task: Task, state: State, report: Report, now: float) -> Step:
    """What follows from a report."""
    state, heard = _take_note(task, state, report, now)
    if state.phase == "over":
        return state, []
    if isinstance(report, Asked) and state.phase in ("gathering", "meeting", "waiting", "recording"):
        return replace(state, phase="over"), [Finish(STOPPED)]
    state, actions = _PHASES[state.phase](task, state, report, now)
    return state, heard + actions


def choose(task: Task, agents: frozenset[str], blamed: Mapping[str, int] | None = None) -> tuple[Host, ...]:
    """The hosts on which an attempt runs: of those that answer as many as the trainer's config allows; none: it allows none.

    Those to be blamed for failures are left out, if the others suffice.
    """
    bad = {host for host, count in (blamed or {}).items() if count >= MOST_BLAMED}
    if bad and (without := choose(task, agents - bad)):
        return without
    there = [host for host in task.hosts if host.name in agents]
    for count in range(len(there), min(task.min_nodes, len(task.hosts)) - 1, -1):
        if sum(host.slots for host in there[:count]) in task.worlds:
            return tuple(there[:count])
    return ()


def said_of_status(status: int) -> str:
    """``ended with status 1``, ``was killed (SIGKILL)``."""
    return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"


def _take_note(task: Task, state: State, report: Report, now: float) -> Step:
    actions: list[Action] = []
    match report:
        case Hello(host):
            silent = {name: why for name, why in state.silent.items() if name != host}
            state = replace(state, agents=state.agents | {host}, silent=silent)
        case Lost(host, why):
            state = replace(state, agents=state.agents - {host}, silent={**state.silent, host: why})
        case Ended(rank, status):
            state = replace(state, ended={**state.ended, rank: status})
        case Progress(step, saved):
            at = now if step > state.step else state.stepped_at
            blamed = {} if saved > state.saved else state.blamed
            state = replace(state, step=step, saved=saved, stepped_at=at, blamed=blamed, ever_began=state.ever_began or step >= 0)
    if isinstance(report, Tick) and task.max_restarts and state.phase != "gathering":
        for name in (host.name for host in task.hosts):
            if name not in state.agents and now - state.asked_at.get(name, 0.0) > PROBE_SECONDS:
                state = replace(state, asked_at={**state.asked_at, name: now})
                actions.append(Connect(name))
    return state, actions


# ---------------------------------------------------------------------------------------------------------------------- the phases


def _gather(task: Task, state: State, now: float) -> Step:
    """Begin an attempt: ask all hosts that are not there."""
    missing = [host.name for host in task.hosts if host.name not in state.agents]
    state = replace(
        state,
        phase="gathering",
        since=now,
        asked_at={**state.asked_at, **dict.fromkeys(missing, now)},
        silent={},
        members=(),
        ended={},
        step=-1,
        cause="",
        rank_failed=False,
        host_lost=False,
        hopeless=False,
        purpose="",
        told="",
    )
    return state, [Connect(host) for host in missing]


def _gathering(task: Task, state: State, report: Report, now: float) -> Step:
    missing = [host.name for host in task.hosts if host.name not in state.agents]
    known = all(name in state.silent for name in missing)
    if not known and now - state.since <= (GATHER_AGAIN_SECONDS if state.ever_began and state.agents else GATHER_SECONDS):
        return state, []
    members = choose(task, state.agents, state.blamed)
    if (missing and not task.max_restarts) or not members:
        why = _said_of(missing, state) if missing else f"no world of {sum(host.slots for host in task.hosts)} ranks or fewer fits its batch"
        if not task.max_restarts or not state.ever_began:
            return replace(state, phase="over"), [Finish(1, why)]
        return _lost(task, replace(state, cause=why), now)
    return replace(state, phase="meeting", since=now, members=members), [Hold(members[0].name)]


def _said_of(missing: Sequence[str], state: State) -> str:
    said = [f"{name} ({state.silent.get(name, f'nothing heard for {GATHER_SECONDS:g} seconds')})" for name in missing[:4]]
    more = f" and {len(missing) - 4} more" if len(missing) > 4 else ""
    return f"hostfile: no agent could be started on {', '.join(said)}{more}"


def _meeting(task: Task, state: State, report: Report, now: float) -> Step:
    first = state.members[0].name
    match report:
        case Port(number, why) if number:
            names = ", ".join(host.name for host in state.members)
            world = len(state.ranks)
            line = f"{world} rank{'s' if world > 1 else ''} on {names}"
            return replace(state, phase="running", since=now), [Launch(state.members, number), Tell(line)]
        case Port(number, why):
            return replace(state, phase="over"), [Finish(1, why)]
        case Lost(host, why) if host in {member.name for member in state.members}:
            return _gather(task, state, now)
        case Tick() if now - state.since > GATHER_SECONDS:
            return _gather(task, replace(state, agents=state.agents - {first}), now)[0], [Drop(first), Connect(first)]
    return state, []


def _running(task: Task, state: State, report: Report, now: float) -> Step:
    match report:
        case Asked(by):
            return _end(state, now, f"stopped by {by}", purpose="asked")
        case Refused(host, why):
            return _end(state, now, f"a rank could not be started on {host}: {why}", hopeless=True)
        case Lost(host, why) if host in state.ranks.values():
            return _end(replace(state, host_lost=True), now, f"{host} was lost: {why}")
        case Ended(rank, status) if status not in (0, STOPPED):
            refused = status > 0 and state.step < 0 and not state.ever_began
            host = state.ranks[rank]
            state = replace(state, rank_failed=True, blamed={**state.blamed, host: state.blamed.get(host, 0) + 1})
            return _end(state, now, f"rank {rank} on {state.ranks[rank]} {said_of_status(status)}", hopeless=refused)
        case Ended():
            if not state.running:
                return replace(state, phase="judging"), [Judge()]
            return _end(state, now, "", told="stop")
        case Tick() if state.step >= 0 and task.max_restarts and 0 < task.stall_seconds < now - state.stepped_at:
            return _end(state, now, f"no rank has made a step for {task.stall_seconds:g} seconds")
        case Tick() if state.step >= 0 and task.max_restarts:
            larger = choose(task, state.agents, state.blamed)
            if sum(host.slots for host in larger) > len(state.ranks):
                back = [host.name for host in larger if host not in state.members]
                return _end(state, now, f"{', '.join(back)} answer{'s' if len(back) == 1 else ''} again", purpose="grow")
    return state, []


def _end(state: State, now: float, cause: str, *, purpose: str = "", hopeless: bool = False, told: str = "") -> Step:
    told = "stop" if purpose else told
    state = replace(state, phase="ending", since=now, cause=cause, purpose=purpose, hopeless=hopeless, told=told)
    actions: list[Action] = [Stop()] if purpose else []
    return _judge_if_over(state, actions)


def _judge_if_over(state: State, actions: list[Action]) -> Step:
    if state.running:
        return state, actions
    return replace(state, phase="judging"), [*actions, Judge()]


def _ending(task: Task, state: State, report: Report, now: float) -> Step:
    if isinstance(report, Asked) and state.purpose != "asked":
        state = replace(state, purpose="asked", cause=state.cause or f"stopped by {report.by}", since=now, told="stop")
        return _judge_if_over(state, [Stop()])
    if isinstance(report, Ended) and report.status not in (0, STOPPED) and not state.cause:
        state = replace(
            state,
            cause=f"rank {report.rank} on {state.ranks[report.rank]} {said_of_status(report.status)}",
            rank_failed=True,
            since=now,
            told="",
        )
    if isinstance(report, Lost) and report.host in state.ranks.values() and not state.cause:
        state = replace(state, cause=f"{report.host} was lost: {report.why}", host_lost=True, since=now, told="")
    passed = now - state.since
    if state.told == "kill":
        if passed > KILLED_SECONDS and state.running:
            lost = {state.ranks[rank] for rank in state.running}
            silent = {**state.silent, **dict.fromkeys(lost, "it does not tell of the end of what was killed there")}
            state = replace(state, agents=state.agents - lost, silent=silent)
            return _judge_if_over(state, [Drop(host) for host in sorted(lost)])
        return _judge_if_over(state, [])
    unsaved = HUNG_SECONDS if state.host_lost else UNSAVED_SECONDS
    limit = task.grace_seconds if state.purpose else unsaved if state.cause else LAST_SECONDS
    if not state.cause and not any(state.ended.values()):
        limit = math.inf  # what is done has time to be written
    if passed > limit and state.running:
        return replace(state, told="kill", since=now), [Kill()]
    if not state.told and passed > OWN_WORDS_SECONDS and state.running:
        return replace(state, told="stop"), [Stop()]
    return _judge_if_over(state, [])


def _judging(task: Task, state: State, report: Report, now: float) -> Step:
    if not isinstance(report, Judged):
        return state, []
    if report.completed:
        return replace(state, phase="over"), [Finish(0)]
    if state.purpose == "asked" and (report.stopped or not state.ever_began):
        return replace(state, phase="over"), [Finish(STOPPED)]
    if not state.cause and report.stopped:
        return replace(state, phase="over"), [Finish(STOPPED)]
    if state.purpose == "asked":
        return replace(state, phase="over"), [Finish(1, f"{task.what}: {state.cause}, but it did not save a checkpoint before it ended")]
    if state.purpose == "grow" and report.stopped:
        return replace(state, phase="recording", since=now), [Record(state.cause, state.restarts)]
    return _lost(task, state, now)


def _lost(task: Task, state: State, now: float) -> Step:
    """An attempt has failed: once more, or that was it."""
    status = max([abs(status) for status in state.ended.values() if status not in (0, STOPPED)], default=0)
    if not task.max_restarts:
        logs = f"; what libraries said is in {task.logs}" if state.step >= 0 and task.logs else ""
        if state.cause and not state.rank_failed:
            return replace(state, phase="over"), [Finish(1, f"{task.what}: {state.cause}; {task.success} was not written{logs}")]
        ended = state.cause if any(status < 0 for status in state.ended.values()) else f"the ranks ended with status {status}"
        return replace(state, phase="over"), [Finish(1, f"{task.what}: {ended} and did not write {task.success}{logs}")]
    why = state.cause or f"the ranks ended with status {status} and did not write {task.success}"
    if state.hopeless:
        return replace(state, phase="over"), [Finish(1, f"{task.what}: {why} before its first step: it is not restarted")]
    restarts = 1 if state.saved > state.saved_before else state.restarts + 1
    if restarts > task.max_restarts:
        tried = f"after {task.max_restarts} restart{'s' if task.max_restarts > 1 else ''} without a new checkpoint (max_restarts)"
        return replace(state, phase="over"), [Finish(1, f"{task.what}: {why}, {tried}")]
    state = replace(state, phase="recording", since=now, restarts=restarts, saved_before=state.saved, cause=why)
    return state, [Tell(f"{why}: restart {restarts} of {task.max_restarts}"), Record(why, restarts)]


def _recording(task: Task, state: State, report: Report, now: float) -> Step:
    match report:
        case Recorded(why) if why:
            return replace(state, phase="over"), [Finish(1, why)]
        case Recorded():
            return replace(state, phase="waiting", since=now), []
    return state, []


def _waiting(task: Task, state: State, report: Report, now: float) -> Step:
    wait = 0.0 if state.purpose == "grow" else min(task.backoff_seconds * 2 ** (state.restarts - 1), MOST_BACKOFF_SECONDS)
    if now - state.since >= wait:
        return _gather(task, state, now)
    return state, []


_PHASES = {
    "gathering": _gathering,
    "meeting": _meeting,
    "running": _running,
    "ending": _ending,
    "judging": _judging,
    "recording": _recording,
    "waiting": _waiting,
}
