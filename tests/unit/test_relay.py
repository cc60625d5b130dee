"""What a quickstart shows of its steps, redirected and on a terminal."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

import pytest

from launch.quickstart import relay


def test_lines_pass_on_and_silence_is_broken(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(relay, "SILENCE_SECONDS", 0.3)
    program = "import sys, time; print('one', flush=True); time.sleep(1); print('two'); print('bad', file=sys.stderr); sys.exit(3)"
    assert relay.call([sys.executable, "-c", program], "train") == 3
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert lines[0].startswith("train: at work") or lines[0] == "one"
    assert lines[-1] == "two"
    between = lines[lines.index("one") + 1 : -1]
    assert between
    assert all(line.startswith("train: at work (") for line in between)
    assert said.err == "bad\n"


CHILD = "import os, sys, time; time.sleep(1); print(sys.stdout.isatty(), os.get_terminal_size(1).columns, 'é', flush=True)"
WATCHED = f"""
from launch.quickstart import relay
import sys
relay.SILENCE_SECONDS = 0.3
sys.exit(relay.call([sys.executable, "-c", {CHILD!r}], "train"))
"""


def test_silence_is_broken_on_a_terminal_too_and_the_child_has_one() -> None:
    outer, inner = pty.openpty()
    fcntl.ioctl(outer, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 123, 0, 0))
    process = subprocess.Popen([sys.executable, "-c", WATCHED], stdout=inner, stderr=inner)
    os.close(inner)
    said = b""
    with contextlib.suppress(OSError):  # what reading a terminal ends with
        while chunk := os.read(outer, 4096):
            said += chunk
    os.close(outer)
    assert process.wait(30) == 0
    lines = said.decode().splitlines()
    assert lines[0].startswith("train: at work (")
    assert lines[-1] == "True 123 é"
