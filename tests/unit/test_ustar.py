"""Our own fast way with headers says what ``tarfile`` and numpy say, of sound and of damaged ones."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.contract.errors import StudyError
from data_prep.shards import ustar

names = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=100).filter(lambda name: name[-1] != "/")


def header_of(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")


@given(names, st.integers(0, 8**11 - 1))
def test_a_header_is_that_of_tarfile(name: str, size: int) -> None:
    assert ustar.member_header(name, size) == header_of(name, size)


@pytest.mark.long
@given(names, st.integers(0, 2000), st.lists(st.tuples(st.integers(0, 511), st.integers(0, 255)), max_size=2), st.booleans())
def test_members_are_read_as_by_tarfile_or_refused(name: str, size: int, damage: list[tuple[int, int]], mended: bool) -> None:
    header = bytearray(header_of(name, size))
    for place, value in damage:
        header[place] = value
    if mended:  # a checksum that fits, as somebody who wrote it on purpose has it
        header[148:156] = b"%06o\0 " % (sum(header) - sum(header[148:156]) + 256)
    try:
        info = tarfile.TarInfo.frombuf(bytes(header), "ascii", "strict")
        expected = (info.name, info.size) if info.isreg() and header[257:263] == b"ustar\0" else None
    except (tarfile.HeaderError, UnicodeDecodeError):
        expected = None
    try:
        found = ustar._plain_header(bytes(header)) or ustar._any_header(bytes(header), Path("a.tar"), 0)
    except StudyError:
        found = None
    assert found == expected


@pytest.mark.parametrize("array", [np.zeros((3, 4, 5), "<f2"), np.zeros(5, [("a", "<i4"), ("b", "<u8")]), np.zeros((0,), "<f4")])
def test_an_npy_file_is_that_of_numpy(array: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, (1, 0))
    data = ustar.npy_bytes(array)
    assert data == buffer.getvalue()
    for _ in range(2):  # the second is remembered
        shape, dtype, length = ustar.parse_npy_header(data, "here")
        assert (shape, dtype, data[length:]) == (array.shape, array.dtype, array.tobytes())
