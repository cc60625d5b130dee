"""A child's output passed on as it comes, and a line of our own where the child is silent for long."""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import os
import pty
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Sequence
from typing import TextIO

SILENCE_SECONDS = 7.0
"""Silence after which a command is said to be at work: well below the ten seconds that a reader is promised."""
_END_SECONDS = 30.0
_CHUNK_BYTES = 65536


def call(argv: Sequence[str], title: str) -> int:
    """Run a command to its end; its exit status.

    What it prints is passed on at once, and when nothing comes a line says for how long ``title`` has been at work. Where a stream of
    ours is a terminal, the child sees one there, too, and draws its bars.
    """
    began = time.monotonic()
    heard = [began]
    lines = [_Line(sys.stdout, heard), _Line(sys.stderr, heard)]
    process = subprocess.Popen(argv, stdout=lines[0].inner, stderr=lines[1].inner)
    for line in lines:
        line.open()
    try:
        while process.poll() is None:
            time.sleep(0.1)
            for line in lines:
                line.resize()
            if time.monotonic() - heard[0] >= SILENCE_SECONDS:
                heard[0] = time.monotonic()
                print(f"{title}: at work ({heard[0] - began:.0f} s)", flush=True)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(_END_SECONDS)
        for line in lines:
            line.close()
    return process.returncode


class _Line:
    """A pipe, or a terminal of the child's own, that ends in one of our streams."""

    def __init__(self, stream: TextIO, heard: list[float]) -> None:
        self._stream, self._heard, self._terminal = stream, heard, stream.isatty()
        self._outer, self.inner = _terminal() if self._terminal else os.pipe()
        self._size = b""
        self.resize()
        self._thread = threading.Thread(target=self._pass_on, daemon=True)

    def open(self) -> None:
        """The child has its end: let go of it, and begin to pass on."""
        os.close(self.inner)
        self._thread.start()

    def resize(self) -> None:
        """Give the child's terminal the size of ours."""
        if not self._terminal:
            return
        with contextlib.suppress(OSError):
            size = fcntl.ioctl(self._stream.fileno(), termios.TIOCGWINSZ, b"\0" * 8)
            if size != self._size:
                self._size = size
                fcntl.ioctl(self._outer, termios.TIOCSWINSZ, size)

    def close(self) -> None:
        """Pass on what is left."""
        self._thread.join(1.0)  # a grandchild may hold the other end open for good

    def _pass_on(self) -> None:
        decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        with contextlib.suppress(OSError):  # a terminal whose last writer has gone is an error to read
            while said := os.read(self._outer, _CHUNK_BYTES):
                self._stream.write(decode(said))
                self._stream.flush()
                self._heard[0] = time.monotonic()
        os.close(self._outer)


def _terminal() -> tuple[int, int]:
    outer, inner = pty.openpty()
    settings = termios.tcgetattr(inner)
    settings[1] &= ~termios.OPOST  # the terminal that shows it ends the lines
    termios.tcsetattr(inner, termios.TCSANOW, settings)
    return outer, inner
