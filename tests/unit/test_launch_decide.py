"""What ``launch run`` decides when something is heard, without a process: hosts that answer or not, ranks that end, stops, restarts."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from launch import decide as d
from launch.hostfile import Host

HOSTS = tuple(Host(name=f"node{number}", slots=1) for number in range(3))


class Told:
    """A supervisor that only remembers what it was told to do."""

    def __init__(self, hosts: Sequence[Host] = HOSTS, **settings: object) -> None:
        settings = {"worlds": frozenset({1, 2, 3}), "what": "runs/x", "logs": "runs/x/logs", **settings}
        self.task = d.Task(hosts=tuple(hosts), **settings)  # type: ignore[arg-type]
        self.now = 100.0
        self.state, self.did = d.begin(self.task, self.now)

    def hear(self, *reports: d.Report, after: float = 0.0) -> list[d.Action]:
        self.now += after
        self.did = []
        for report in reports:
            self.state, actions = d.decide(self.task, self.state, report, self.now)
            self.did += actions
        return self.did

    def run(self, *names: str, step: int = 5, saved: int = 0) -> None:
        """Until these hosts' ranks have made a step."""
        self.hear(
            *(d.Hello(name) for name in names), *(d.Lost(host.name, "no route") for host in HOSTS if host.name not in names), d.Tick()
        )
        self.hear(d.Port(20123), d.Progress(step, saved))
        assert self.state.phase == "running"
        assert [host.name for host in self.state.members] == list(names)


def of(kind: type[d.Action], actions: Sequence[d.Action]) -> list[d.Action]:
    return [action for action in actions if isinstance(action, kind)]


def test_ranks_start_once_all_hosts_answer_and_a_port_is_held() -> None:
    told = Told()
    assert told.did == [d.Connect("node0"), d.Connect("node1"), d.Connect("node2")]
    assert told.hear(d.Hello("node0"), d.Hello("node2"), d.Tick()) == []
    assert told.hear(d.Hello("node1")) == [d.Hold("node0")]
    assert told.hear(d.Port(20123)) == [d.Launch(HOSTS, 20123), d.Tell("3 ranks on node0, node1, node2")]
    assert told.hear(d.Ended(0, 0), d.Ended(2, 0), d.Tick()) == []
    assert told.hear(d.Ended(1, 0)) == [d.Judge()]
    assert told.hear(d.Judged(completed=True, stopped=False)) == [d.Finish(0)]


def test_without_restarts_every_host_must_answer() -> None:
    told = Told()
    why = "hostfile: no agent could be started on node1 (connection refused)"
    assert told.hear(d.Hello("node0"), d.Hello("node2"), d.Lost("node1", "connection refused")) == [d.Finish(1, why)]
    told = Told()
    told.hear(d.Hello("node0"), d.Hello("node2"))
    (end,) = told.hear(d.Tick(), after=d.GATHER_SECONDS + 1)
    assert end == d.Finish(1, "hostfile: no agent could be started on node1 (nothing heard for 15 seconds)")


def test_with_restarts_those_that_answer_begin_down_to_min_nodes() -> None:
    told = Told(max_restarts=1, min_nodes=2)
    told.hear(d.Hello("node0"), d.Hello("node2"))
    assert told.hear(d.Tick(), after=d.GATHER_SECONDS + 1) == [d.Hold("node0")]
    told = Told(max_restarts=1, min_nodes=2)
    (end,) = told.hear(d.Hello("node0"), d.Lost("node1", "x"), d.Lost("node2", "y"))
    assert end == d.Finish(1, "hostfile: no agent could be started on node1 (x), node2 (y)")


def test_an_attempt_takes_as_many_hosts_as_the_batch_allows() -> None:
    everyone = frozenset(host.name for host in HOSTS)
    assert d.choose(d.Task(hosts=HOSTS, worlds=frozenset({1, 2})), everyone) == HOSTS[:2]
    assert d.choose(d.Task(hosts=HOSTS, worlds=frozenset({3})), everyone - {"node1"}) == ()
    assert d.choose(d.Task(hosts=HOSTS, worlds=frozenset({1, 2, 3})), everyone - {"node0"}) == HOSTS[1:]
    assert d.choose(d.Task(hosts=HOSTS[:1], worlds=frozenset({1}), min_nodes=2), everyone) == HOSTS[:1]


def test_a_rank_that_fails_ends_the_others_who_have_time_for_their_own_words() -> None:
    told = Told()
    told.run("node0", "node1", "node2")
    assert told.hear(d.Ended(1, 1)) == []
    assert told.hear(d.Tick(), after=1) == []
    assert told.hear(d.Tick(), after=d.OWN_WORDS_SECONDS) == [d.Stop()]
    assert told.hear(d.Tick(), after=d.UNSAVED_SECONDS) == [d.Kill()]
    assert told.hear(d.Ended(0, -9), d.Ended(2, -9)) == [d.Judge()]
    (end,) = told.hear(d.Judged(completed=False, stopped=False))
    why = "runs/x: rank 1 on node1 ended with status 1 and did not write completed.json; what libraries said is in runs/x/logs"
    assert end == d.Finish(1, why)


def test_a_lost_host_is_done_without_and_comes_back_at_a_checkpoint() -> None:
    told = Told(max_restarts=3, backoff_seconds=2.0)
    told.run("node0", "node1", "node2")
    assert told.hear(d.Lost("node1", "nothing was heard for 20 seconds")) == []
    assert told.hear(d.Tick(), after=d.HUNG_SECONDS + 0.1) == [d.Kill()], "the others wait for it, and hear nothing"
    told.hear(d.Ended(0, -9), d.Ended(2, -9))
    why = "node1 was lost: nothing was heard for 20 seconds"
    said, record = told.hear(d.Judged(completed=False, stopped=False))
    assert (said, record) == (d.Tell(f"{why}: restart 1 of 3"), d.Record(why, 1))
    assert told.hear(d.Recorded()) == []
    assert told.hear(d.Tick(), after=1.0) == []
    assert told.hear(d.Tick(), after=1.5) == [d.Connect("node1")]
    assert told.hear(d.Lost("node1", "no route to host")) == [d.Hold("node0")]
    told.hear(d.Port(20124), d.Progress(-1, 5))
    assert [host.name for host in told.state.members] == ["node0", "node2"]
    assert told.hear(d.Tick(), after=d.PROBE_SECONDS + 1) == [d.Connect("node1")]
    assert told.hear(d.Hello("node1"), d.Tick()) == [], "nothing is interrupted before it has made a step"
    assert told.hear(d.Progress(6, 5), d.Tick()) == [d.Stop()]
    assert told.hear(d.Ended(0, d.STOPPED), d.Ended(1, d.STOPPED)) == [d.Judge()]
    assert told.hear(d.Judged(completed=False, stopped=True)) == [d.Record("node1 answers again", 1)], "it costs no restart"
    assert told.hear(d.Recorded(), d.Tick()) == []
    assert told.hear(d.Tick()) == [d.Hold("node0")]
    (launch, _) = told.hear(d.Port(20125))
    assert launch == d.Launch(HOSTS, 20125)


def test_restarts_in_a_row_are_counted_and_wait_longer_each_time() -> None:
    told = Told(HOSTS[:1], max_restarts=2, backoff_seconds=2.0)
    told.hear(d.Hello("node0"))
    for restart, wait in ((1, 2.0), (2, 4.0)):
        told.hear(d.Port(20123), d.Progress(7, 5), d.Ended(0, -9))
        assert of(d.Record, told.hear(d.Judged(completed=False, stopped=False))) == [
            d.Record("rank 0 on node0 was ended by SIGKILL", restart)
        ]
        told.hear(d.Recorded())
        assert told.hear(d.Tick(), after=wait - 0.1) == []
        assert told.hear(d.Tick(), after=0.2) == []
        assert told.hear(d.Tick()) == [d.Hold("node0")]
        if restart == 1:
            assert told.state.saved_before == 5
    told.hear(d.Port(20123), d.Progress(7, 5), d.Ended(0, -9))
    (end,) = told.hear(d.Judged(completed=False, stopped=False))
    assert end == d.Finish(1, "runs/x: rank 0 on node0 was ended by SIGKILL, after 2 restarts without a new checkpoint (max_restarts)")


def test_a_new_checkpoint_gives_the_restarts_back() -> None:
    told = Told(HOSTS[:1], max_restarts=1)
    told.hear(d.Hello("node0"))
    for saved in (5, 10, 15):
        told.hear(d.Port(20123), d.Progress(saved + 2, saved), d.Ended(0, 1))
        assert of(d.Record, told.hear(d.Judged(completed=False, stopped=False))) == [d.Record("rank 0 on node0 ended with status 1", 1)]
        told.hear(d.Recorded(), d.Tick())
        told.hear(d.Tick(), after=10)
        told.hear(d.Tick())
        assert told.state.phase == "meeting"


def test_a_host_whose_ranks_keep_failing_is_left_out_until_the_next_checkpoint() -> None:
    told = Told(max_restarts=5, backoff_seconds=0.0)
    told.run("node0", "node1", "node2")
    for _ in range(2):
        told.hear(d.Ended(1, 1), d.Ended(0, 1), d.Ended(2, 1), d.Judged(completed=False, stopped=False), d.Recorded())
        told.hear(d.Tick(), after=1)
        assert told.hear(d.Tick()) == [d.Hold("node0")]
        told.hear(d.Port(20124), d.Progress(6, 0), d.Tick())
    assert [host.name for host in told.state.members] == ["node0", "node2"]
    assert told.state.phase == "running", "it answers, and is left out all the same"
    assert told.hear(d.Progress(10, 10), d.Tick()) == [d.Stop()]
    assert told.state.cause == "node1 answers again"


def test_what_is_refused_before_the_first_step_is_not_tried_again() -> None:
    told = Told(HOSTS[:1], max_restarts=3)
    told.hear(d.Hello("node0"))
    told.hear(d.Port(20123), d.Ended(0, 1))
    (end,) = told.hear(d.Judged(completed=False, stopped=False))
    assert end == d.Finish(1, "runs/x: rank 0 on node0 ended with status 1 before its first step: it is not restarted")


@pytest.mark.parametrize(("saves", "end"), [(True, d.Finish(75)), (False, None)])
def test_a_stop_waits_for_the_checkpoint(saves: bool, end: d.Action | None) -> None:
    told = Told(grace_seconds=60, max_restarts=5)
    told.run("node0", "node1", "node2")
    assert told.hear(d.Asked("SIGTERM")) == [d.Stop()]
    assert told.hear(d.Tick(), after=59) == []
    if saves:
        told.hear(*(d.Ended(rank, 75) for rank in range(3)))
    else:
        assert told.hear(d.Tick(), after=2) == [d.Kill()]
        told.hear(*(d.Ended(rank, -9) for rank in range(3)))
    (did,) = told.hear(d.Judged(completed=False, stopped=saves))
    assert did == (end or d.Finish(1, "runs/x: stopped by SIGTERM, but it did not save a checkpoint before it ended"))


def test_a_stop_before_there_are_ranks_ends_at_once() -> None:
    for reports in ((), (d.Hello("node0"), d.Hello("node1"), d.Hello("node2"))):
        told = Told()
        told.hear(*reports)
        assert told.hear(d.Asked("SIGINT")) == [d.Finish(75)]
        assert told.hear(d.Tick()) == []


def test_ranks_that_a_signal_stopped_where_they_are_end_the_run() -> None:
    told = Told(max_restarts=5)
    told.run("node0", "node1", "node2")
    assert told.hear(d.Ended(1, 75), d.Tick(), d.Ended(0, 75)) == []
    assert told.hear(d.Ended(2, 75)) == [d.Judge()]
    assert told.hear(d.Judged(completed=False, stopped=True)) == [d.Finish(75)]


def test_one_that_hangs_behind_the_others_is_killed_but_not_while_results_are_written() -> None:
    told = Told()
    told.run("node0", "node1", "node2")
    told.hear(d.Ended(1, 0), d.Ended(2, 0))
    assert told.hear(d.Tick(), after=3600) == []
    told = Told()
    told.run("node0", "node1", "node2")
    told.hear(d.Ended(1, 75), d.Ended(2, 75))
    assert told.hear(d.Tick(), after=d.LAST_SECONDS + 1) == [d.Kill()]
    assert told.hear(d.Tick(), after=d.KILLED_SECONDS + 1) == [d.Drop("node0"), d.Judge()]


def test_a_run_that_stands_still_is_restarted_where_restarts_are_asked_for() -> None:
    told = Told(max_restarts=1, stall_seconds=600)
    told.run("node0", "node1", "node2")
    assert of(d.Stop, told.hear(d.Progress(6, 0), d.Tick(), after=500)) == []
    assert told.hear(d.Progress(6, 0), d.Tick(), after=599) == []
    told.hear(d.Progress(6, 0), d.Tick(), after=2)
    assert (told.state.phase, told.state.cause) == ("ending", "no rank has made a step for 600 seconds")


def test_ranks_that_cannot_be_started_end_the_others() -> None:
    told = Told(HOSTS[:2], max_restarts=3)
    told.hear(d.Hello("node0"), d.Hello("node1"), d.Tick())
    told.hear(d.Port(20123), d.Refused("node1", "no such file: /venv/bin/python"), d.Ended(1, 127))
    assert told.hear(d.Tick(), after=d.OWN_WORDS_SECONDS + 1) == [d.Stop()]
    assert told.hear(d.Ended(0, 75)) == [d.Judge()]
    (end,) = told.hear(d.Judged(completed=False, stopped=False))
    why = "a rank could not be started on node1: no such file: /venv/bin/python"
    assert end == d.Finish(1, f"runs/x: {why} before its first step: it is not restarted")


def test_without_restarts_a_lost_host_ends_the_run_with_its_name() -> None:
    told = Told()
    told.run("node0", "node1", "node2")
    told.hear(d.Lost("node1", "nothing was heard for 20 seconds"), d.Ended(0, 1), d.Ended(2, 1))
    (end,) = told.hear(d.Judged(completed=False, stopped=False))
    why = "runs/x: node1 was lost: nothing was heard for 20 seconds; completed.json was not written; what libraries said is in runs/x/logs"
    assert end == d.Finish(1, why)


def test_a_port_that_is_taken_is_said() -> None:
    told = Told(HOSTS[:1])
    told.hear(d.Hello("node0"))
    assert told.hear(d.Port(0, "master_port: 4000 is in use")) == [d.Finish(1, "master_port: 4000 is in use")]
