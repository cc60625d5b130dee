"""What a redirected quickstart shows of its steps."""

from __future__ import annotations

import sys

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
