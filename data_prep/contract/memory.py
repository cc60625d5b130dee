"""How much memory this process has taken."""

from __future__ import annotations

import resource
import sys


def peak_memory_bytes() -> int:
    """Most that this process ever held, in bytes. Systems count in units of their own: macOS in bytes, the others in KiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
