"""Processes that launchers start are ended with all their children, and signals reach them all."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from launch.plan import HERE, Start
from launch.supervise import supervise
from tests.helpers.processes import ended
from trainer.distributed.child import run_in_group, run_while_it_works

FAMILY = "import subprocess, sys; p = subprocess.Popen(['sleep', '60']); open(sys.argv[1], 'w').write(str(p.pid)); p.wait()"


def gone(file: Path, seconds: float = 10.0) -> bool:
    """Whether the process whose number is in ``file`` is no more."""
    return ended(int(file.read_text()), seconds)


def test_a_child_that_takes_too_long_is_ended_with_its_own_children(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", FAMILY, str(tmp_path / "pid")]
    _, asked = run_in_group(argv, os.environ, grace_seconds=5, timeout_seconds=2)
    assert asked == signal.SIGALRM
    assert gone(tmp_path / "pid")
    assert run_in_group([sys.executable, "-c", "raise SystemExit(7)"], os.environ, grace_seconds=5) == (7, None)


def test_a_signal_reaches_the_childs_whole_group(tmp_path: Path) -> None:
    program = (
        "import os, sys; from trainer.distributed.child import run_in_group; "
        f"print(run_in_group([sys.executable, '-c', {FAMILY!r}, sys.argv[1]], os.environ, grace_seconds=5)[1])"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "pid")], stdout=subprocess.PIPE, text=True)
    try:
        end = time.monotonic() + 20
        while not (tmp_path / "pid").is_file() or not (tmp_path / "pid").read_text():
            assert time.monotonic() < end
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=20)[0].strip() == str(int(signal.SIGTERM))
        assert gone(tmp_path / "pid")
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()


def test_supervise_ends_children_that_outlive_their_launcher(tmp_path: Path) -> None:
    script = "import subprocess, sys; p = subprocess.Popen(['sleep', '60']); open(sys.argv[1], 'w').write(str(p.pid))"
    status = supervise(Start(host=HERE, argv=(sys.executable, "-c", script, str(tmp_path / "pid")), environment={}), grace_seconds=5)
    assert status == 0
    assert gone(tmp_path / "pid", seconds=20), "the child outlived its launcher"


def test_a_child_may_take_its_time_while_it_does_something(tmp_path: Path) -> None:
    counts = {
        "writes": "import time\nfor n in range(16): open('f', 'a').write('x' * 9000); time.sleep(0.25)",
        "computes": "import time\nend = time.monotonic() + 4\nwhile time.monotonic() < end: pass",
        "fails": "import sys, time\ntime.sleep(0.5); print('a line', file=sys.stderr); sys.exit('no room')",
    }
    file = tmp_path / "f"
    for what, program in counts.items():
        argv = [sys.executable, "-c", f"import os\nos.chdir({str(tmp_path)!r})\n{program}"]
        found = run_while_it_works(argv, os.environ, lambda: file.stat().st_size if file.exists() else 0, stuck_seconds=2)
        assert found == ((1, "no room") if what == "fails" else (0, "no message")), what


def test_one_that_does_nothing_is_ended() -> None:
    began = time.monotonic()
    argv = [sys.executable, "-c", "import sys, time; print('waits', file=sys.stderr, flush=True); time.sleep(100)"]
    assert run_while_it_works(argv, os.environ, lambda: 0, stuck_seconds=2) == (None, "waits")
    assert time.monotonic() - began < 30
