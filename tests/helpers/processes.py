"""What has become of processes that a test, or what it tests, has started."""

from __future__ import annotations

import time

import psutil


def ended(pid: int, seconds: float = 15) -> bool:
    """Whether process ``pid`` is no more, within so many seconds; one that has ended counts, whether or not somebody has asked how."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False
