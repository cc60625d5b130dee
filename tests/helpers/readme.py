"""The fenced blocks of the project's pages: what is run, by whom, and which files they hold.

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
_FOUND = [page for folder in ("", "data_prep/**/", "trainer/**/", "launch/**/", "configs/**/") for page in ROOT.glob(f"{folder}*.md")]
PAGES = tuple(str(page.relative_to(ROOT)) for page in sorted(_FOUND, key=lambda page: (page.parent, page.name != "README.md", page.name)))
"""All pages of the project, those of a folder after its README: a new page is tested because it is there."""
EXAMPLES = tuple(page for page in PAGES if page.startswith(("data_prep/", "trainer/")))
"""Pages whose commands are a user's who adds something of theirs; they share a folder."""
NEWCOMER = tuple(page for page in PAGES if page not in EXAMPLES)
"""Pages whose commands are a newcomer's, in order; they share a folder, too."""
_FENCE = re.compile(r"^```(?P<language>\S*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"<!-- (?P<kind>[a-z]+): (?P<value>.+?) -->\n$")


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block."""

    page: str
    """Path of the page in the repository."""
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
        return f"{self.page}:{self.line}"


def blocks(*pages: str) -> list[Block]:
    """All fenced blocks of the pages, in order."""
    return [block for page in pages for block in _blocks(page)]


def _blocks(page: str) -> list[Block]:
    whole = (ROOT / page).read_text()
    found = []
    for match in _FENCE.finditer(whole):
        mark = _MARK.search(whole[: match.start()])
        found.append(
            Block(
                page=page,
                line=whole.count("\n", 0, match.start()) + 1,
                language=match["language"],
                text=match["text"],
                mark=mark["kind"] if mark else "",
                value=mark["value"] if mark else "",
            )
        )
    return found


def files(*pages: str) -> dict[str, str]:
    """The files that the pages show, by their path in the user's folder; none is shown twice."""
    shown = [block for block in blocks(*pages) if block.mark == "file"]
    found = {block.value: block.text for block in shown}
    assert len(found) == len(shown), f"a file is shown twice: {sorted(block.value for block in shown)}"
    return found


def commands(text: str) -> list[str]:
    """Command lines of a ``sh`` block: continuation lines joined, comments dropped."""
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [line for line in (re.sub(r"(^|\s)#.*$", "", line).strip() for line in lines) if line]
