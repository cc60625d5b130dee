"""What holds for every unit test."""

from __future__ import annotations

import pytest

from data_prep.contract import cli


@pytest.fixture(autouse=True)
def _unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is no reason for a command to say that libraries are loading: its own lines are counted."""
    monkeypatch.setattr(cli, "_SLOW_SECONDS", 600.0)
