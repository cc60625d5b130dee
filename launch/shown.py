"""What is shown of ranks on other hosts: all that rank 0 says, and of the others each error once. All of it is in the logs."""

from __future__ import annotations

import contextlib
import sys

_ERROR = "error: "


class Shown:
    """Prints as it comes; an output that is gone ends nothing."""

    def __init__(self) -> None:
        self._begun: dict[tuple[int, int], str] = {}
        self._errors: set[str] = set()

    def take(self, rank: int, stream: int, text: str) -> None:
        """What a rank has said on its standard output (1) or error (2)."""
        *lines, rest = (self._begun.get((rank, stream), "") + text).split("\n")
        self._begun[rank, stream] = rest
        for line in lines:
            if line.startswith(_ERROR):
                if line in self._errors:
                    continue
                self._errors.add(line)
            elif rank:
                continue
            self._print(line, stream)

    def line(self, line: str) -> None:
        """A line of this command's own."""
        self._print(line, 2)

    def flush(self) -> None:
        """What was not ended by a newline."""
        for rank, stream in list(self._begun):
            if self._begun[rank, stream]:
                self.take(rank, stream, "\n")

    def _print(self, line: str, stream: int) -> None:
        with contextlib.suppress(OSError, ValueError):
            print(line, file=sys.stdout if stream == 1 else sys.stderr, flush=True)
