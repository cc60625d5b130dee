"""A child's output passed on as it comes, and a line of our own where the child is silent for long."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import IO, TextIO

SILENCE_SECONDS = 7.0
"""Silence after which a redirected command is said to be at work: well below the ten seconds that a reader is promised."""
_END_SECONDS = 30.0


def call(argv: Sequence[str], title: str) -> int:
    """Run a command to its end; its exit status.

    On a terminal the child has the terminal itself, with its bars. Redirected, what it prints is passed on at once, and when
    nothing comes a line says for how long ``title`` has been at work.
    """
    if sys.stdout.isatty():
        return subprocess.run(argv, check=False).returncode
    began = time.monotonic()
    heard = [began]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    pairs = ((process.stdout, sys.stdout), (process.stderr, sys.stderr))
    threads = [threading.Thread(target=_pass_on, args=(source, stream, heard), daemon=True) for source, stream in pairs]
    for thread in threads:
        thread.start()
    try:
        while process.poll() is None:
            time.sleep(0.1)
            if time.monotonic() - heard[0] >= SILENCE_SECONDS:
                heard[0] = time.monotonic()
                print(f"{title}: at work ({heard[0] - began:.0f} s)", flush=True)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(_END_SECONDS)
        for thread in threads:
            thread.join(1.0)  # a grandchild may hold the pipe open for good
    return process.returncode


def _pass_on(source: IO[bytes], stream: TextIO, heard: list[float]) -> None:
    for line in source:
        stream.write(line.decode(errors="replace"))
        stream.flush()
        heard[0] = time.monotonic()
