"""What tests of several rooms use."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest


@pytest.fixture
def hangups_are_heard() -> Iterator[None]:
    """SIGHUP as a shell leaves it, for this process and those it starts: the suite may run under ``nohup``, which ignores it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)
