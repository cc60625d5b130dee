"""Hosts that answer, are silent, die, talk nonsense or fall silent: each is told of in time, and none hides another."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from launch.doctor import gather
from launch.doctor.config import DoctorConfig
from launch.doctor.facts import Machine
from launch.hostfile import Host
from launch.link import close_all
from launch.plan import Surroundings

LIMIT = 12.0
HELLO = json.dumps({"say": "hello", "host": "h", "pid": 1, "started": 1.0, "machine": "m", "address": "10.0.0.1", "interface": "eth0"})
HOSTS = {
    "good": [sys.executable, "-m", "launch.agent"],
    "silent": ["sleep", "100"],
    "dead": ["sh", "-c", "echo greeting; echo 'Permission denied (publickey).' >&2; exit 255"],
    "nonsense": ["sh", "-c", "echo '{\"say\": 3'; echo '[]'; echo; exit 0"],
    "dies later": ["sh", "-c", f"echo '{HELLO}'; sleep 1; echo 'Connection reset' >&2; exit 255"],
}


def gathering(monkeypatch: pytest.MonkeyPatch, *names: str) -> gather.Gathering:
    monkeypatch.setattr(gather, "over_ssh", lambda host, **_: tuple(HOSTS[host]))
    config = DoctorConfig(hostfile="hosts", timeout_seconds=LIMIT, bandwidth_bytes=0, max_restarts=3)
    return gather.Gathering(config, [Host(name=name, slots=1) for name in names], Surroundings.here(sys.executable))


@pytest.mark.long
def test_hosts_that_do_not_answer_hide_none_that_does(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = gathering(monkeypatch, *HOSTS)
    begin = time.monotonic()
    try:
        asked._connect()
        assert time.monotonic() - begin < LIMIT + 8
        asked._ask_clocks_and_ports()
        seen = asked.seen
        assert [name for name in HOSTS if not seen[name].lost] == ["good"]
        assert seen["silent"].lost == f"no answer within {LIMIT:g} seconds"
        assert seen["dead"].lost == "Permission denied (publickey)."
        assert seen["nonsense"].lost == "the connection was closed"
        assert seen["dies later"].lost == "Connection reset"
        skew = seen["good"].clock_seconds
        assert skew is not None
        assert abs(skew) <= seen["good"].clock_error_seconds + 0.01
        assert 20_000 <= seen["good"].port < 30_000
    finally:
        close_all(asked.links.values())


@pytest.mark.long
def test_a_program_that_hangs_is_ended_and_said_by_the_part_it_was_at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The host's own program is another one here, which says a part, begins the next and sleeps."""
    (tmp_path / "hangs.py").write_text(
        "import json, os, time\n"
        "assert json.loads(os.environ['EEGVISION_DOCTOR'])['ranks'] == 1\n"
        "print(json.dumps({'begins': 'machine'}))\n"
        "print(json.dumps({'part': 'machine', 'refused': 'no such thing'}))\n"
        "print(json.dumps({'part': 'unknown', 'found': {}}))\n"
        "print('words of a library')\n"
        "print(json.dumps({'begins': 'study'}), flush=True)\n"
        "time.sleep(1000)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    asked = gathering(monkeypatch, "good")
    start = asked._start
    monkeypatch.setattr(asked, "_start", lambda _, told: start("hangs", told))
    try:
        asked._connect()
        asked.around = replace(asked.around, root=str(tmp_path))
        asked.config = replace(asked.config, timeout_seconds=6.0)
        asked._ask_facts()
        seen = asked.seen["good"]
        assert seen.late == "study"
        assert seen.refused == {"machine": "no such thing"}
        assert seen.part(Machine, "machine") is None
        assert not seen.lost
        assert asked.programs["good"].statuses == [-9]
    finally:
        close_all(asked.links.values())


def test_a_program_that_dies_is_said_by_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = gathering(monkeypatch, "good")
    start = asked._start
    monkeypatch.setattr(asked, "_start", lambda _, told: start("launch.no_such_module", told))
    try:
        asked._connect()
        asked._ask_facts()
        assert "No module named launch.no_such_module" in asked.seen["good"].refused["machine"]
    finally:
        close_all(asked.links.values())
