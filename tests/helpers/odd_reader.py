"""A reader of files that does what it is told, in the process that :mod:`data_prep.studies.reading_process` forks for it."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time


def main(what: str, *arguments: str) -> int:
    """Exit status."""
    if what == "say":
        print(*arguments, file=sys.stderr)
    elif what == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif what == "raise":
        raise RuntimeError(arguments[0])
    elif what == "exit":
        sys.exit(int(arguments[0]))
    elif what == "sleep":
        time.sleep(float(arguments[0]))
    elif what == "flood":
        print("x" * 1_000_000, file=sys.stderr)
    elif what == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    elif what == "facts":
        limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
        print(os.getcwd(), os.environ.get("ODD"), limit, "left" in globals(), file=sys.stderr)
        globals()["left"] = True
    return int(arguments[0]) if what == "status" else 0
