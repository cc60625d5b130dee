"""The memory that a process says it took, in bytes wherever it runs."""

from __future__ import annotations

import resource
import sys
from types import SimpleNamespace

import pytest

from data_prep.contract.memory import peak_memory_bytes


@pytest.mark.parametrize(("system", "unit"), [("linux", 1024), ("freebsd14", 1024), ("darwin", 1)])
def test_each_system_counts_in_its_own_unit(monkeypatch: pytest.MonkeyPatch, system: str, unit: int) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(resource, "getrusage", lambda _: SimpleNamespace(ru_maxrss=3_000_000))
    assert peak_memory_bytes() == 3_000_000 * unit


def test_it_is_at_least_what_this_process_holds_now() -> None:
    held = bytearray(50_000_000)
    assert len(held) < peak_memory_bytes() < 10**12
