"""Output that is lost, before or while a command writes, never costs its result."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
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
    process = subprocess.Popen(argv, stdout=writers[0], stderr=writers[1])
    for writer in writers:
        os.close(writer)
    for how, reader in zip((out, err), readers, strict=True):
        if reader is not None:
            if how == "gone later":
                os.read(reader, 1)
            os.close(reader)
    assert process.wait(60) == 0
    expected = "whole No space left on device" if out == "full" else "whole nothing lost"
    assert (tmp_path / "result").read_text() == expected


def test_a_pipe_that_is_full_and_does_not_block_is_waited_for(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(tmp_path / "result"), "4", "60000"], stdout=writer, stderr=subprocess.DEVNULL
    )
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read()
    assert process.wait(60) == 0
    assert (said.count(b"o"), said.count(b"p")) == (4 * 60000, 4 * 60000)


def test_streams_that_lead_elsewhere_stay_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr
    keep_output()
    assert (sys.stdout, sys.stderr) == before


HANGUP = """
import signal, sys
from trainer.distributed.child import run_in_group
child = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(75)); print('at work', flush=True); time.sleep(60)"
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
    assert stop_signals(signal.SIGINT) == (signal.SIGTERM, signal.SIGINT)
