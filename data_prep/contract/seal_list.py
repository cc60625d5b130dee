"""The text of ``files.sha256``: hashes and names of a folder's files between two lines about the list itself.

    # SHA-256 of all files in this folder but those in logs; the last line is of these lines
    3a7b...  config.json
    91f0...  model.safetensors
    # 2 files, SHA-256 d04c...

The last line counts and hashes all before it, so a list that was cut, or whose lines were taken out, added or exchanged, is none any more.
``sha256sum -c`` passes over both. Lists of earlier versions have neither line.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

_LINE = re.compile(r"(?P<escaped>\\?)(?P<sha256>[0-9a-f]{64})  (?P<name>[^\n]+)")
_FIRST = re.compile(
    r"# SHA-256 of (?P<all>all )?files in this folder(?: but those in (?P<but>[\w\-, ]+))?; the last line is of these lines"
)


@dataclass(frozen=True, kw_only=True)
class SealList:
    """What a folder's files were when they were sealed."""

    sha256: Mapping[str, str] = field(default_factory=dict)
    """By name in the folder."""
    complete: bool = False
    """Whether it names every file of the folder and below."""
    but: tuple[str, ...] = ()
    """Folders in it of which a complete list does not speak."""
    guarded: bool = True
    """Whether it would show that lines of it are missing; those of earlier versions do not."""

    def text(self) -> bytes:
        """The list as it is written."""
        lines = [f"# SHA-256 of {'all ' * self.complete}files in this folder{_but(self.but)}; the last line is of these lines\n"]
        lines += [_line(name, self.sha256[name]) for name in sorted(self.sha256)]
        above = "".join(lines).encode("utf-8", "surrogateescape")
        return above + _last(len(self.sha256), above)


def parse(content: bytes) -> SealList | None:
    """The list in ``content``; None: it is none, or not as it was written."""
    lines = content.decode("utf-8", "surrogateescape").split("\n")
    if lines.pop() != "":
        return None
    first = _FIRST.fullmatch(lines[0]) if lines else None
    if first is None:
        sha256 = _hashes(lines)
        return SealList(sha256=sha256, guarded=False) if sha256 else None
    end = content.rstrip(b"\n").rfind(b"\n") + 1
    sha256 = _hashes(lines[1:-1])
    if sha256 is None or content[end:] != _last(len(sha256), content[:end]):
        return None
    return SealList(sha256=sha256, complete=bool(first["all"]), but=tuple((first["but"] or "").split(", ")) if first["but"] else ())


def _hashes(lines: Iterable[str]) -> dict[str, str] | None:
    found: dict[str, str] = {}
    for line in lines:
        matched = _LINE.fullmatch(line)
        if matched is None:
            return None
        name = (
            re.sub(r"\\(.)", lambda pair: "\n" if pair[1] == "n" else pair[1], matched["name"]) if matched["escaped"] else matched["name"]
        )
        if name in found or name.startswith("/") or ".." in Path(name).parts:
            return None
        found[name] = matched["sha256"]
    return found


def _line(name: str, sha256: str) -> str:
    if "\n" in name or "\\" in name:  # as `sha256sum` spells it
        return "\\" + sha256 + "  " + name.replace("\\", "\\\\").replace("\n", "\\n") + "\n"
    return f"{sha256}  {name}\n"


def _but(folders: tuple[str, ...]) -> str:
    return f" but those in {', '.join(folders)}" if folders else ""


def _last(count: int, above: bytes) -> bytes:
    return f"# {count} files, SHA-256 {hashlib.sha256(above).hexdigest()}\n".encode()
