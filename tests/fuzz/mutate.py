"""Inputs made from good ones: bits and bytes, lengths and numbers, pieces of one another; archives and pickles by their parts as well."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Sequence

import numpy as np

WORDS = [
    b"", b"\x00", b"\xff" * 8, b"-1", b"0", b"1e999", b"NaN", b"9" * 30, b"true", b"null", b"{}", b"[]", b"[[[[", b'""',
    b"\\ud800", b"..", b"/etc/passwd",
    b"\n", b"'", b'"', b"*a", b"&a", b"<<: *a", b"!!python/object/apply:os.system [x]", b"'|O'", b"'|V8'", b"'<U0'", b"(999999999999,)",
    b"True",
    b"cposix\nsystem\n", b"\x80\x04", b"R", b"b", b".", b"(", b"\x93", b"cnumpy\nndarray\n", b"cnumpy\ndtype\n",
    b"X\x01\x00\x00\x00O", b"h\x00",
    b"%!PS-Adobe-3.0 EPSF-3.0\n", struct.pack("<I", 2**31 - 1), struct.pack("<Q", 2**63), struct.pack(">I", 2**31),
]  # fmt: skip
_ZIP = b"PK\x03\x04"


def mutated(seeds: Sequence[bytes], random: np.random.Generator) -> bytes:
    """One input from ``seeds``, by one to eight steps."""
    content = seeds[random.integers(len(seeds))]
    if content.startswith(_ZIP) and random.random() < 0.6:
        return _rezipped(content, random)
    for _ in range(int(random.integers(1, 9))):
        content = _step(content, seeds, random)
    return content


def _step(content: bytes, seeds: Sequence[bytes], random: np.random.Generator) -> bytes:
    size = len(content)
    # Half of all places lie in the first 300 bytes, where the headers are.
    place = int(random.integers(max(1, min(size, 300) if random.random() < 0.5 else size)))
    length = int(min(2 ** random.integers(0, 9), size))
    kind = int(random.integers(8))
    if kind == 0 and size:
        return content[:place] + bytes([content[min(place, size - 1)] ^ (1 << int(random.integers(8)))]) + content[place + 1 :]
    if kind == 1:
        return content[:place] + random.bytes(int(random.integers(1, 5))) + content[place + 1 :]
    if kind == 2:
        return content[:place]
    if kind == 3:
        return content[:place] + content[place + length :]
    if kind == 4:
        return content[:place] + content[place : place + length] * 2 + content[place + length :]
    if kind == 5:
        other = seeds[random.integers(len(seeds))]
        start = int(random.integers(max(1, len(other))))
        return content[:place] + other[start : start + length] + content[place:]
    word = WORDS[random.integers(len(WORDS))]
    return content[:place] + word + content[place + (len(word) if kind == 6 else 0) :]


def _rezipped(content: bytes, random: np.random.Generator) -> bytes:
    """An archive whole in itself, with a mutated member."""
    buffer = io.BytesIO()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w", [0, 8][random.integers(2)]) as new:
            names = old.namelist()
            chosen = names[random.integers(len(names))]
            for name in names:
                data = old.read(name)
                new.writestr(name, mutated([data], random) if name == chosen else data)
    except (zipfile.BadZipFile, zlib.error, ValueError):
        return content[: int(random.integers(len(content)))]
    return buffer.getvalue()
