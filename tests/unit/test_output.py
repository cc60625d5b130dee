"""Output that is lost, before or while a command writes, never costs its result."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from data_prep.contract.output import keep_output
from trainer.distributed.stop_signals import stop_signals

COMMAND = """
import os, subprocess, sys
from data_prep.contract.output import keep_output, lost_output
keep_output()
from rich.console import Console
lines, size = int(sys.argv[2]), int(sys.argv[3])
out, err = Console(file=sys.stdout, highlight=False, soft_wrap=True), Console(file=sys.stderr, highlight=False, soft_wrap=True)
for n in range(lines):
    out.print("o" * size)
    err.print("e" * size)
    print("p" * size, flush=True)
    sys.stderr.write("w" * size)
    if n == 0:
        sys.stdin.readline()  # until the readers are gone: a child may write before this process has seen it
    if n == lines // 2:
        subprocess.run(["sh", "-c", "echo a child && echo a child >&2"], check=True)
lost = lost_output()
with open(sys.argv[1], "w") as result:
    result.write("whole " + (lost.strerror if lost else "nothing lost"))
"""
LOSSES = ("gone at once", "gone later", "full", "closed")


def lose(how: str) -> tuple[int, int | None]:
    """Where a stream leads, and the end of the pipe that a reader holds."""
    if how in ("full", "closed"):
        return os.open("/dev/full" if how == "full" else os.devnull, os.O_WRONLY), None
    reader, writer = os.pipe()
    return writer, reader


@pytest.mark.parametrize(("out", "err"), list(itertools.product(LOSSES, repeat=2)))
def test_a_result_is_written_whatever_becomes_of_the_output(tmp_path: Path, out: str, err: str) -> None:
    draw = random.Random(f"{out} {err}")
    size, unbuffered = draw.choice([1, 90, 5000]), draw.choice([[], ["-u"]])
    (writers, readers) = zip(*map(lose, (out, err)), strict=True)
    closed = " ".join(f"{number}>&-" for number, how in ((1, out), (2, err)) if how == "closed")
    argv = ["sh", "-c", f'"$0" "$@" {closed}', sys.executable, *unbuffered, "-c", COMMAND, str(tmp_path / "result"), "20", str(size)]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=writers[0], stderr=writers[1])
    for writer in writers:
        os.close(writer)
    for how, reader in zip((out, err), readers, strict=True):
        if reader is not None:
            if how == "gone later":
                os.read(reader, 1)
            os.close(reader)
    process.communicate(b"\n", timeout=60)
    assert process.returncode == 0
    expected = "whole No space left on device" if out == "full" else "whole nothing lost"
    assert (tmp_path / "result").read_text() == expected


def test_a_pipe_that_is_full_and_does_not_block_is_waited_for(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(tmp_path / "result"), "4", "60000"],
        stdin=subprocess.DEVNULL, stdout=writer, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read()
    assert process.wait(60) == 0
    assert (said.count(b"o"), said.count(b"p")) == (4 * 60000, 4 * 60000)


UNREAD = """
import os, sys
from data_prep.contract.output import keep_output, waiting_at_most
keep_output()
with waiting_at_most(0.1):
    for stream in (sys.stdout, sys.stderr):
        for n in range(3000):
            print("x" * 90, n, file=stream, flush=True)
    open(sys.argv[1], "w").write("whole")
    sys.stdin.readline()
    print("the last line", flush=True)
"""


def test_what_nobody_reads_is_waited_for_no_longer_than_asked_for(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", UNREAD, str(tmp_path / "result")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        end = time.monotonic() + 30
        while not (tmp_path / "result").exists():
            assert time.monotonic() < end, "still waiting for a reader"
            time.sleep(0.02)
        first = os.read(process.stdout.fileno(), 2**16)
        process.stdin.write(b"\n")
        process.stdin.flush()
        rest = process.stdout.read()
    assert (tmp_path / "result").read_text() == "whole"
    assert process.returncode == 0
    lines = (first + rest).decode().splitlines()
    assert lines[0] == f"{'x' * 90} 0"
    assert lines[-1] == "the last line"
    assert lines[-2].endswith("(what came here was dropped: nobody read it)")


def test_streams_that_lead_elsewhere_stay_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr
    keep_output()
    assert (sys.stdout, sys.stderr) == before


HANGUP = """
import signal, sys
from trainer.distributed.child import run_in_group
child = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(75)); print('at work', flush=True)\\n"
child += "for _ in range(600): time.sleep(0.1)"  # a signal that comes just before one long sleep is handled after it
print(*run_in_group([sys.executable, "-c", child], {}, grace_seconds=20))
"""


@pytest.mark.usefixtures("hangups_are_heard")
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_a_hang_up_asks_a_child_to_stop_as_sigterm_does(number: signal.Signals) -> None:
    process = subprocess.Popen([sys.executable, "-c", HANGUP], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "at work\n"
    process.send_signal(number)
    assert process.communicate(timeout=30)[0] == f"75 {int(signal.SIGTERM)}\n"


@pytest.mark.usefixtures("hangups_are_heard")
def test_under_nohup_a_hang_up_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert signal.SIGHUP in stop_signals()
    ignored: Any = lambda number: signal.SIG_IGN  # noqa: E731
    monkeypatch.setattr(signal, "getsignal", ignored)
    assert stop_signals(signal.SIGINT) == (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
