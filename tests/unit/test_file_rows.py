"""Rows of arrays that stay in their file: the same values in any memory order, few pages kept, damage found when content is wanted."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from data_prep.contract import file_rows, safe_load
from data_prep.contract.errors import StudyError
from data_prep.contract.file_rows import FileRows


@pytest.mark.parametrize("order", ["C", "F", "moved"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_rows_are_those_of_the_array_in_any_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str, protocol: int) -> None:
    monkeypatch.setattr(file_rows, "BLOCK_BYTES", 3 * 4 * 5 * 64 * 4)
    monkeypatch.setattr(file_rows, "_KEPT_BYTES", 10_000)
    eeg = np.random.default_rng(0).standard_normal((40, 4, 5, 64)).astype(np.float32)
    stored = np.asfortranarray(eeg) if order == "F" else eeg.copy()
    content = {"eeg": stored} if order != "moved" else {"eeg": np.ascontiguousarray(eeg.transpose(1, 0, 2, 3)).transpose(1, 0, 2, 3)}
    (tmp_path / "eeg").write_bytes(pickle.dumps(content, protocol=protocol))
    rows = FileRows(safe_load.load(tmp_path / "eeg", headers_only=True)["eeg"])
    assert len(rows) == 40
    for row in (0, 39, 7, 8, 2):
        np.testing.assert_array_equal(rows[row], eeg[row])
    np.testing.assert_array_equal(rows.values(5, (2, slice(None), 7)), eeg[5, 2, :, 7])


def test_large_members_of_an_archive_are_checked_when_their_content_is_wanted(tmp_path: Path) -> None:
    array = io.BytesIO()
    np.save(array, np.random.default_rng(0).random(2**21 + 100))  # 16 MiB
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("eeg.npy", array.getvalue())
    safe_load.check_content(tmp_path / "a.npz")
    raw = bytearray((tmp_path / "a.npz").read_bytes())
    raw[9_000_000] ^= 4
    (tmp_path / "a.npz").write_bytes(raw)
    with pytest.raises(StudyError, match=r"a\.npz: not an archive.*CRC-32"):
        safe_load.load(tmp_path / "a.npz")
    with pytest.raises(StudyError, match=r"a\.npz: not an archive.*CRC-32"):
        safe_load.check_content(tmp_path / "a.npz")
