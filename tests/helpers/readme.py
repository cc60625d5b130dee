"""The fenced blocks of the project's READMEs: what is run, by whom, and which files they hold.

A block that starts with three backticks says its language; an HTML comment on the line before it says more::

    <!-- file: my_lab/reader.py -->   the block is that file, relative to the user's folder
    <!-- bench: why -->               takes minutes, or changes the machine: every command's config is built, nothing else
    <!-- data: why -->                needs data that cannot be fetched: every command's config is built, nothing else

``sh`` blocks are commands, ``python`` and ``yaml`` blocks without a file are run and parsed, ``text`` blocks are output or drawings.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
READMES = ("README.md", "data_prep/README.md", "trainer/README.md", "launch/README.md")
_FENCE = re.compile(r"^```(?P<language>\S*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"<!-- (?P<kind>[a-z]+): (?P<value>.+?) -->\n$")


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block."""

    readme: str
    """Path of the README in the repository."""
    line: int
    """Line of its first fence, from 1."""
    language: str
    """``sh``, ``python``, ``yaml``, ``text``, ..."""
    text: str
    """What stands between the fences."""
    mark: str
    """``file``, ``bench``, ``data``, or empty."""
    value: str
    """Path of the file, or the reason."""

    def __str__(self) -> str:
        return f"{self.readme}:{self.line}"


def blocks(readme: str) -> list[Block]:
    """All fenced blocks of a README, in order."""
    whole = (ROOT / readme).read_text()
    found = []
    for match in _FENCE.finditer(whole):
        mark = _MARK.search(whole[: match.start()])
        found.append(
            Block(
                readme=readme,
                line=whole.count("\n", 0, match.start()) + 1,
                language=match["language"],
                text=match["text"],
                mark=mark["kind"] if mark else "",
                value=mark["value"] if mark else "",
            )
        )
    return found


def files(readme: str) -> dict[str, str]:
    """The files that a README shows, by their path in the user's folder."""
    return {block.value: block.text for block in blocks(readme) if block.mark == "file"}


def commands(text: str) -> list[str]:
    """Command lines of a ``sh`` block: continuation lines joined, comments dropped."""
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [line for line in (re.sub(r"(^|\s)#.*$", "", line).strip() for line in lines) if line]
