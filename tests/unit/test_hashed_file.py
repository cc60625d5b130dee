"""A file that is written and hashed beside what else is done has all that it was given, in order, or says why not."""

from __future__ import annotations

import errno
import hashlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep.shards import hashed_file
from data_prep.shards.hashed_file import HashedFile


@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.binary(max_size=300), max_size=4), max_size=40), st.sampled_from([1, 50, 2**20]), st.sampled_from([0, 400]))
def test_a_file_has_its_parts_in_order(tmp_path: Path, pieces: list[list[bytes]], together: int, waiting: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hashed_file, "_TOGETHER_BYTES", together)
        patch.setattr(hashed_file, "_WAITING_BYTES", waiting)
        patch.setattr(hashed_file, "_BEGUN_BYTES", 100)
        file = HashedFile(tmp_path / "a")
        for parts in pieces:
            file.append([memoryview(part) for part in parts])
            assert file._waiting_bytes <= waiting
        sealed = file.finish()
        file.close()
        file.close()
    whole = b"".join(part for parts in pieces for part in parts)
    assert (tmp_path / "a").read_bytes() == whole
    assert (sealed.bytes, sealed.sha256) == (len(whole), hashlib.sha256(whole).hexdigest())
    assert file.bytes == len(whole)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is full")
def test_a_full_disk_is_said_at_the_end_at_last() -> None:
    file = HashedFile(Path("/dev/full"))
    file.append([bytes(2**20)])
    with pytest.raises(OSError, match="No space left") as raised:
        file.finish()
    file.close()
    assert raised.value.errno == errno.ENOSPC


def test_what_is_closed_is_written_no_more(tmp_path: Path) -> None:
    file = HashedFile(tmp_path / "a")
    file.append([b"some"])
    file.close()
    with pytest.raises(RuntimeError):
        file.finish()
