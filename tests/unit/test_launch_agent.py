"""The agent of a host, as a process: it starts ranks, tells what becomes of them, and lets none outlive it or whoever gave the orders."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from launch.link import over_ssh
from tests.distributed.launcher import ROOT
from tests.helpers.processes import ended

RANK = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (os.write(1, b"saved\\n"), os._exit(75)))
os.write(2, b"trouble\\n")
os.write(1, f"rank {os.environ['RANK']} {os.environ['MINE']}\\n".encode())
end = time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    time.sleep(0.05)  # a handler runs between two sleeps
sys.exit(int(sys.argv[2]))
"""


class Agent:
    """One that takes the other end for gone after ``lost`` seconds."""

    def __init__(self, lost: float = 60.0) -> None:
        program = f"import launch.agent as agent; agent.LOST_SECONDS = {lost}; agent.BEAT_SECONDS = 0.2; agent.Agent(None).run()"
        argv = [sys.executable, "-c", program]
        self.process = subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
        self.heard: list[dict[str, Any]] = []
        self.hello = self.until(lambda report: report["say"] == "hello")

    def order(self, do: str, **facts: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do, **facts}) + "\n")
        self.process.stdin.flush()

    def start(self, cwd: Path, *, ranks: int = 1, seconds: float = 60, status: int = 0, run: str | None = None) -> list[int]:
        argv = [sys.executable, "-c", RANK, str(seconds), str(status)]
        by_rank = [{"RANK": str(rank)} for rank in range(ranks)]
        self.order("start", argv=argv, environment={"MINE": "yes"}, by_rank=by_rank, cwd=str(cwd), grace=5, run=run)
        pids = [self.until(lambda report, rank=rank: report["say"] == "started" and report["rank"] == rank)["pid"] for rank in range(ranks)]
        for rank in range(ranks):
            self.until(lambda report, rank=rank: report.get("text") == f"rank {rank} yes\n")
        return pids

    def until(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first report that meets a condition."""
        assert self.process.stdout is not None
        for report in self.heard:
            if condition(report):
                return report
        for line in self.process.stdout:
            self.heard.append(json.loads(line))
            if condition(self.heard[-1]):
                return self.heard[-1]
        raise AssertionError(f"the agent ended: {self.heard}")


@pytest.fixture
def agent() -> Iterator[Agent]:
    one = Agent()
    yield one
    one.process.kill()
    one.process.wait()


def test_ranks_are_started_heard_and_their_ends_told(agent: Agent, tmp_path: Path) -> None:
    assert (agent.hello["host"], agent.hello["pid"]) == (socket.gethostname(), agent.process.pid)
    agent.start(tmp_path, ranks=2, seconds=0.5, status=3)
    for rank in (0, 1):
        assert agent.until(lambda report, rank=rank: report["say"] == "ended" and report["rank"] == rank)["status"] == 3
        assert any(report.get("stream") == 2 and report["rank"] == rank and report["text"] == "trouble\n" for report in agent.heard)
    assert not list(tmp_path.iterdir())
    agent.order("start", argv=["/nowhere/python"], environment={}, by_rank=[{"RANK": "0"}], cwd=str(tmp_path), grace=5, run=None)
    assert "/nowhere/python" in agent.until(lambda report: report["say"] == "refused")["why"]


def test_what_ranks_say_is_kept_once_the_run_has_begun(agent: Agent, tmp_path: Path) -> None:
    agent.start(tmp_path, run="run")
    log = tmp_path / "run" / "logs" / f"{socket.gethostname()}-rank-0.log"
    time.sleep(0.5)
    assert not (tmp_path / "run").exists(), "a start that is refused leaves no trace"
    (tmp_path / "run" / "heartbeat").mkdir(parents=True)
    (tmp_path / "run" / "heartbeat" / "0").write_text("now 1\n")
    agent.order("stop")
    assert agent.until(lambda report: report["say"] == "ended")["status"] == 75
    assert sorted(log.read_text().splitlines()) == ["rank 0 yes", "saved", "trouble"]


def test_ranks_save_and_end_when_whoever_gave_orders_is_gone(agent: Agent, tmp_path: Path) -> None:
    pids = agent.start(tmp_path, ranks=2)
    assert agent.process.stdin is not None
    agent.process.stdin.close()
    assert all(ended(pid) for pid in pids)
    assert agent.process.wait(15) == 0


def test_so_they_do_when_nothing_is_heard_of_it(tmp_path: Path) -> None:
    agent = Agent(lost=2.0)
    try:
        (pid,) = agent.start(tmp_path)
        for _ in range(15):  # beats keep it
            agent.order("beat")
            time.sleep(0.2)
        assert psutil.pid_exists(pid)
        assert ended(pid)
        assert agent.process.wait(15) == 0
    finally:
        agent.process.kill()
        agent.process.wait()


def test_the_kernel_ends_ranks_with_an_agent_that_is_killed(agent: Agent, tmp_path: Path) -> None:
    pids = agent.start(tmp_path, ranks=2)
    agent.process.kill()
    assert all(ended(pid) for pid in pids)


def test_an_earlier_agent_is_ended_by_number_and_start_time(agent: Agent, tmp_path: Path) -> None:
    earlier = Agent()
    try:
        (pid,) = earlier.start(tmp_path)
        agent.order("end", pid=earlier.process.pid, started=earlier.hello["started"] - 1, grace=0)
        agent.until(lambda report: report["say"] == "gone")
        assert psutil.pid_exists(pid), "another process has that number"
        agent.heard.clear()
        agent.order("end", pid=earlier.process.pid, started=earlier.hello["started"], grace=0)
        agent.until(lambda report: report["say"] == "gone")
        assert ended(pid)
    finally:
        earlier.process.kill()
        earlier.process.wait()


def test_a_port_is_held_for_rank_0_and_for_nobody_else(agent: Agent) -> None:
    agent.order("port", port=0)
    port = agent.until(lambda report: report["say"] == "port")["port"]
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("", port))
    import torch.distributed

    store = torch.distributed.TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
    agent.order("port", port=port)
    assert "in use" in agent.until(lambda report: report["say"] == "refused")["why"]
    del store


def test_ssh_gives_it_a_folder_and_nothing_that_ps_may_not_show() -> None:
    argv = over_ssh("node0", python="/venv/bin/python", folder="/lab/my data", root="/code")
    assert argv[0] == "ssh"
    assert {"BatchMode=yes", "ServerAliveInterval=5", "ServerAliveCountMax=3"} <= set(argv)
    assert argv[-2:] == ("node0", "cd '/lab/my data' && PYTHONPATH=/code PYTHONSAFEPATH=1 exec /venv/bin/python -m launch.agent")
    assert "PYTHONPATH" not in over_ssh("node0", python="python", folder="/lab", root="")[-1]


def test_it_begins_without_the_libraries_of_training() -> None:
    told = "import json, sys, launch.agent; print(json.dumps([name for name in sys.modules if '.' not in name]))"
    done = subprocess.run([sys.executable, "-c", told], cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=60, check=True)
    assert not {"torch", "numpy", "yaml", "jsonargparse", "rich", "trainer"} & set(json.loads(done.stdout))
