"""The tags of a FIF file, walked without reading what they hold: what the file is, whether it is whole, which file goes on with it.

A tag is four big-endian numbers (kind, type, bytes, where the next one is) and its bytes; blocks open and close by tags of their own.
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from data_prep.contract.errors import StudyError

_HEADER = struct.Struct(">iiii")
_BLOCK_START, _BLOCK_END = 104, 105
_REF_BLOCK, _REF_ROLE, _REF_NUMBER, _REF_NAME, _NEXT_FILE = 118, 115, 117, 118, 2
_MOST_TAGS = 2_000_000
KINDS = {
    373: "cut trials",
    122: "cut trials",
    102: "continuous",
    112: "continuous",
    119: "continuous",
    104: "averages",
    355: "a covariance",
}
"""Block -> what a file with it holds."""
_BY_WORTH = ("cut trials", "averages", "continuous", "a covariance")


@dataclass(frozen=True, kw_only=True)
class FifFile:
    """What the tags say."""

    holds: str
    """``cut trials``, ``continuous``, ``averages`` or another word."""
    next_name: str | None
    """Name of the file that goes on with this one, as this one says it."""


def read_fif(file: Path) -> FifFile:
    """Walk the tags of ``file`` (``.fif``, ``.fif.gz``).

    Raises
    ------
    StudyError
        It ends inside a tag, or its tags are none.
    """
    blocks: list[int] = []
    stack: list[int] = []
    role: int | None = None
    name: str | None = None
    number: int | None = None
    with _open(file) as stream:
        for kind, content in _tags(file, stream):
            if kind == _BLOCK_START:
                stack.append(_number(content))
                blocks.append(stack[-1])
            elif kind == _BLOCK_END and stack:
                stack.pop()
            elif stack and stack[-1] == _REF_BLOCK:
                if kind == _REF_ROLE:
                    role = _number(content)
                elif kind == _REF_NAME:
                    name = content.decode("latin1").strip("\0 ")
                elif kind == _REF_NUMBER:
                    number = _number(content)
    found = {KINDS[block] for block in blocks if block in KINDS}
    goes_on = role == _NEXT_FILE and (name is not None or number is not None)
    if goes_on and name is None:
        stem, _, ending = file.name.partition(".")
        name = f"{stem}-{number}.{ending}"
    return FifFile(holds=next((kind for kind in _BY_WORTH if kind in found), "something else"), next_name=name if goes_on else None)


def _open(file: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(file, "rb")) if file.name.lower().endswith(".gz") else file.open("rb")


def _tags(file: Path, stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Kind, and the first bytes, of every tag."""
    size = file.stat().st_size if not file.name.lower().endswith(".gz") else None
    position = 0
    try:
        for _ in range(_MOST_TAGS):
            stream.seek(position)
            head = stream.read(_HEADER.size)
            if not head:
                return
            if len(head) < _HEADER.size:
                raise StudyError(f"{file}: ends inside a tag at byte {position:,}: truncated")
            kind, _, length, after = _HEADER.unpack(head)
            end = position + _HEADER.size + length
            if length < 0 or (size is not None and end > size):
                raise StudyError(f"{file}: a tag at byte {position:,} has {length:,} bytes, the file ends before: truncated or altered")
            yield kind, stream.read(min(length, 512))
            if after < 0:
                return
            if after and after <= position:
                raise StudyError(f"{file}: its tags lead back from byte {position:,} to {after:,}: altered")
            position = after or end
    except (OSError, EOFError) as error:
        raise StudyError(f"{file}: not a whole FIF file ({error})") from error
    raise StudyError(f"{file}: has more than {_MOST_TAGS:,} tags, expected a FIF file")


def _number(content: bytes) -> int:
    return int.from_bytes(content[:4], "big", signed=True)


def parts_of(file: Path) -> list[Path]:
    """``file`` and those that go on with it, in order; they lie beside it.

    Raises
    ------
    StudyError
        One is not there, holds something else than cut trials, or is one of those before.
    """
    parts = [file]
    while (name := read_fif(parts[-1]).next_name) is not None:
        following = parts[-1].parent / Path(name.replace("\\", "/")).name
        if not following.is_file():
            raise StudyError(f"{parts[-1]}: goes on in {following.name}, which is not beside it: expected all parts of the recording")
        if following in parts:
            raise StudyError(f"{parts[-1]}: goes on in {following.name}, a part before it: altered")
        parts.append(following)
    return parts
