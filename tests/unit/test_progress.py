"""Progress lines: at once, at least every ten seconds, a count, flushed; a bar on a terminal."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time

import pytest

from data_prep.contract.progress import ProgressLines, progress, tracked


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_a_line_comes_at_once_and_then_every_ten_seconds() -> None:
    clock, stream = Clock(), io.StringIO()
    lines = ProgressLines("shards", 12, stream, clock, 10.0)
    assert stream.getvalue() == "shards 0/12\n"
    for second in range(1, 31):
        clock.seconds = second
        if second % 8 == 0:
            lines.advance()
        else:
            lines.beat()
    lines.finish()
    assert stream.getvalue().splitlines() == [
        "shards 0/12",
        "shards 1/12 (10 s, 0.1/s, 110 s left)",
        "shards 2/12 (20 s, 0.1/s, 100 s left)",
        "shards 3/12 (30 s, 0.1/s, 90 s left)",
        "shards 3/12 (30 s, 0.1/s, 90 s left)",
    ]


def test_many_quick_items_give_two_lines() -> None:
    stream = io.StringIO()
    assert list(tracked(range(1000), "trials", stream=stream)) == list(range(1000))
    assert stream.getvalue().splitlines() == ["trials 0/1000", "trials 1000/1000 (0 s)"]


def test_a_count_without_a_total() -> None:
    stream = io.StringIO()
    list(tracked(iter("abc"), "members", stream=stream))
    assert stream.getvalue().splitlines() == ["members 0", "members 3 (0 s)"]


def test_one_long_item_is_not_silent() -> None:
    stream = io.StringIO()
    with progress("fits", 1, stream=stream, every_seconds=0.05):
        deadline = time.monotonic() + 20
        while stream.getvalue().count("\n") < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert [line.split(" (")[0] for line in stream.getvalue().splitlines()[:3]] == ["fits 0/1"] * 3


def test_a_failure_is_not_reported_as_the_end() -> None:
    stream = io.StringIO()

    def job() -> None:
        for number in tracked(range(2), "shards", stream=stream):
            raise KeyError(number)

    with pytest.raises(KeyError):
        job()
    assert stream.getvalue().splitlines() == ["shards 0/2"]


def test_the_first_line_reaches_a_pipe_while_the_job_runs() -> None:
    program = (
        "import sys\nfrom data_prep.contract.progress import tracked\n"
        "for _ in tracked(range(2), 'shards', stream=sys.stdout): sys.stdin.readline()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == "shards 0/2\n"  # the child waits for us: the line was flushed, not left in a buffer
        rest, _ = child.communicate("\n\n", timeout=60)
    assert rest.startswith("shards 2/2")
    assert "\x1b" not in rest


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "w") as stream:
        list(tracked(range(3), "shards", stream=stream))
        shown = ""
        while "3/3" not in shown:  # a terminal hands its output on in pieces
            shown += os.read(ours, 65536).decode()
    os.close(ours)
    assert "\x1b[" in shown
    assert "shards" in shown
