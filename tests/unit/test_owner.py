"""One owner of a run folder, whichever processes on whichever hosts want it, and what becomes of one that was taken for dead."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from data_prep.contract.errors import CommandError, UserError
from trainer.training import owner as owners
from trainer.training.owner import Claim, LostOwnershipError, Owner, newest_claim, owned, refuse_if_alive
from trainer.training.run_folder import RunFolder

BEAT, DEAD = 0.1, 3.0

PROCESS = """
import sys
from pathlib import Path
from data_prep.contract.errors import CommandError
from trainer.training import owner
owner.BEAT_SECONDS, owner.DEAD_SECONDS = 0.1, 3.0
owner.this_machine = lambda: sys.argv[2]
owner.socket.gethostname = lambda: sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
try:
    with owner.owned(Path(sys.argv[1])) as mine:
        print("owner", mine.claim.number, flush=True)
        for line in sys.stdin:
            try:
                mine.begin() if line == "begin\\n" else mine.check()
                print("still", flush=True)
            except CommandError as error:
                print(error, flush=True)
except CommandError as error:
    print("refused:", error, flush=True)
"""


class Process:
    """A process on a host of its own, as far as it knows."""

    def __init__(self, run: Path, host: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(run), host], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        assert self.line() == "ready"

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")

    def ask(self, line: str = "") -> str:
        self.tell(line)
        return self.line()

    def stop(self) -> None:
        """As by SIGSTOP, until it has stopped; its latest beat may be on the way until then."""
        os.kill(self.process.pid, signal.SIGSTOP)
        while psutil.Process(self.process.pid).status() != psutil.STATUS_STOPPED:
            time.sleep(0.01)

    def end(self) -> None:
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(30)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[object]:
    begun: list[Process] = []

    def one(run: Path, host: str) -> Process:
        begun.append(Process(run, host))
        return begun[-1]

    yield one
    for process in begun:
        process.end()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owners, "BEAT_SECONDS", BEAT)
    monkeypatch.setattr(owners, "DEAD_SECONDS", DEAD)


@pytest.mark.long
def test_of_many_that_start_at_once_one_owns_the_run(tmp_path: Path, start) -> None:  # type: ignore[no-untyped-def]
    run = tmp_path / "runs" / "one"
    processes = [start(run, host) for host in ("node0", "node0", "node1", "node2", "node3", "node3")]
    for process in processes:
        process.tell("go")
    said = [process.line() for process in processes]
    assert sorted(line.split(":")[0] for line in said) == ["owner 1", *["refused"] * 5], said
    claim = newest_claim(run)
    assert claim is not None
    assert all(f"is in use by process {claim.pid} on {claim.host}, since {claim.since}" in line for line in said if "refused" in line)


def test_a_run_that_never_began_leaves_no_trace(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "one"
    with pytest.raises(RuntimeError), owned(run):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_refused_start_leaves_the_mark_of_the_run_before(tmp_path: Path) -> None:
    with owned(tmp_path) as first:
        first.begin()
    left = newest_claim(tmp_path)
    assert left is not None
    assert left.left
    assert left.token == first.claim.token
    with owned(tmp_path):
        pass
    assert newest_claim(tmp_path) == left
    with owned(tmp_path) as second:
        second.begin()
    assert [path.name for path in (tmp_path / "owner").iterdir()] == ["00000002.json"]


@pytest.mark.parametrize("began", [True, False])
def test_who_was_taken_for_dead_ends_with_a_sentence_and_touches_nothing(tmp_path: Path, start, began: bool) -> None:  # type: ignore[no-untyped-def]
    """Stopped as by SIGSTOP, a laptop's lid, or a cut link; then it wakes up, while another one owns the run, or after that is gone."""
    first = start(tmp_path, "node1")
    assert first.ask("go") == "owner 1"
    if began:
        assert first.ask("begin") == "still"
    first.stop()
    with owned(tmp_path) as second:
        second.begin()
        os.kill(first.process.pid, signal.SIGCONT)
        assert f"{tmp_path}: was taken over by process {os.getpid()} on " in first.ask()
        before = {path.name: path.read_bytes() for path in (tmp_path / "owner").glob("*.json")}
        first.process.stdin.close()
        first.process.wait(30)
        assert {path.name: path.read_bytes() for path in (tmp_path / "owner").glob("*.json")} == before
        second.check()
    claim = newest_claim(tmp_path)
    assert claim is not None
    assert claim.token == second.claim.token
    assert claim.left


@pytest.mark.long
def test_who_was_taken_for_dead_does_not_come_back_when_nobody_is_there(tmp_path: Path, start) -> None:  # type: ignore[no-untyped-def]
    first = start(tmp_path, "node1")
    assert first.ask("go") == "owner 1"
    first.stop()
    with owned(tmp_path) as second:
        second.begin()
    os.kill(first.process.pid, signal.SIGCONT)
    assert "was taken over by" in first.ask()


@pytest.mark.long
def test_a_live_one_on_another_host_is_never_taken(tmp_path: Path, start) -> None:  # type: ignore[no-untyped-def]
    first = start(tmp_path, "node1")
    assert first.ask("go") == "owner 1"
    time.sleep(1.5 * DEAD)
    with pytest.raises(CommandError, match=r"is in use by process .* on node1"), owned(tmp_path):
        pass
    assert first.ask() == "still"


def test_a_process_that_is_gone_from_this_host_is_no_owner(tmp_path: Path) -> None:
    """At once, without waiting for beats: killed, its number used again by another process, or a zombie."""
    with owned(tmp_path) as before:
        before.begin()
        mark = tmp_path / "owner" / "00000001.json"
        claim = json.loads(mark.read_text())
    zombie = subprocess.Popen([sys.executable, "-c", ""])
    time.sleep(0.5)
    for gone in ({"pid": 2**22 + 1}, {"started": claim["started"] - 100}, {"pid": zombie.pid}):
        number = (newest_claim(tmp_path) or before.claim).number + 1
        (tmp_path / "owner" / f"{number:08}.json").write_text(json.dumps(claim | {"left": "", "token": "other"} | gone))
        begin = time.monotonic()
        with owned(tmp_path) as now:
            now.begin()
        assert time.monotonic() - begin < DEAD
    zombie.wait()


def test_a_start_refuses_at_once_what_this_machine_knows_is_alive(tmp_path: Path) -> None:
    refuse_if_alive(tmp_path)
    with owned(tmp_path) as mine:
        with pytest.raises(CommandError, match=f"is in use by process {os.getpid()} on"):
            refuse_if_alive(tmp_path)
        mine.begin()
    refuse_if_alive(tmp_path)


def test_every_file_of_a_run_is_guarded(tmp_path: Path) -> None:
    """Lines, pointers, heartbeats: none is written by a process that lost the run."""
    folder = RunFolder(tmp_path)
    with owned(tmp_path) as mine:
        other = replace(mine.claim, token="another", number=mine.claim.number + 1)
        folder.owner = Owner(tmp_path, mine.claim)
        (tmp_path / "owner" / "00000002.json").write_text(json.dumps({**vars(other)}))
        before = sorted(tmp_path.rglob("*"))
        for write in (
            lambda: folder.event("start"),
            lambda: folder.metrics(1, {"loss": 1.0}),
            lambda: folder.items(1, [1]),
            lambda: folder.heartbeat(1),
            lambda: folder.point("latest", folder.checkpoint(1)),
        ):
            with pytest.raises(LostOwnershipError, match="was taken over by"):
                write()
        assert sorted(path for path in tmp_path.rglob("*") if path.suffix != ".alive") == [p for p in before if p.suffix != ".alive"]


def test_a_damaged_mark_is_named(tmp_path: Path) -> None:
    with owned(tmp_path) as mine:
        mine.begin()
    (mark,) = (tmp_path / "owner").glob("*.json")
    for damage in ("", "{}", "[]", '{"host": 3}'):
        mark.write_text(damage)
        with pytest.raises(UserError, match=str(mark)), owned(tmp_path):
            pass


def test_a_claim_says_who_it_is() -> None:
    claim = Claim.of_this_process()
    assert str(claim).startswith(f"process {os.getpid()} on ")
    assert Claim.of_this_process().token != claim.token
