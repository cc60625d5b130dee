"""Processes that read one file each: what becomes of one is told, and becomes of no other."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from data_prep.studies import reading_process
from data_prep.studies.reading_process import run_reader_process
from tests.helpers.processes import ended

ODD = "tests.helpers.odd_reader"
pytestmark = pytest.mark.timeout(120)


@pytest.fixture(params=["forked", "started"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """As on Linux, and as on other systems."""
    if request.param == "started":
        monkeypatch.setattr(reading_process, "_MESSAGE_BYTES", 0)
        monkeypatch.setattr(reading_process, "_started", _started)
    elif sys.platform != "linux":
        pytest.skip("forks on Linux alone")
    return str(request.param)


def _started(module: str, arguments: tuple[str, ...], seconds: float) -> tuple[int | None, str]:
    code = f"import sys; from {module} import main; sys.exit(main(*sys.argv[1:]))"
    try:
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return None, ""
    return done.returncode, done.stderr


def run(*arguments: str, seconds: float = 60) -> tuple[int | None, str]:
    return run_reader_process(ODD, arguments, seconds)


def test_how_a_reader_ended_and_what_it_said(way: str) -> None:
    assert run("say", "so", "it", "is: \u00e9") == (0, "so it is: \u00e9\n")
    assert run("status", "3") == (3, "")
    assert run("exit", "4") == (4, "")
    assert run("crash") == (-signal.SIGSEGV, "")
    status, said = run("raise", "why")
    assert (status, said.splitlines()[-1]) == (1, "RuntimeError: why")
    assert run("sleep", "60", seconds=0.5) == (None, "")
    assert run("flood") == (0, "x" * 1_000_000 + "\n")


def test_each_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folder and variables are those of now, and no reader leaves anything to the next."""
    _, first = run("facts")
    assert run("limit")[0] == 0
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ODD", "now")
    _, second = run("facts")
    before, after = first.split(), second.split()
    assert after == [str(tmp_path), "now", before[2], "False"]


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="forks on Linux alone")
def test_several_at_once_and_one_that_ends_the_process_that_stays() -> None:
    with ThreadPoolExecutor(4) as threads:
        begin = time.monotonic()
        statuses = list(threads.map(lambda number: run("sleep", "1") if number < 4 else run("status", str(number)), range(8)))
        assert [status for status, _ in statuses] == [0, 0, 0, 0, 4, 5, 6, 7]
        assert time.monotonic() - begin < 3.9, "one after the other"
    assert len(staying()) == 1
    staying()[0].kill()
    assert run("say", "again") == (0, "again\n")
    assert len([process for process in staying() if process.status() != psutil.STATUS_ZOMBIE]) == 1


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="forks on Linux alone")
def test_the_process_that_stays_ends_with_the_one_that_asked() -> None:
    code = (
        "from data_prep.studies.reading_process import run_reader_process, _STAYING; import os, signal; "
        f"run_reader_process('{ODD}', ['say'], 60); print(_STAYING[0].pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    pid = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False).stdout)
    assert ended(pid, 30), "it stayed"


def staying() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "reading_process" in " ".join(_line(child))]


def _line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return ["reading_process"]
