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
from data_prep.workers.piece import Call, opened, sent


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


@pytest.mark.parametrize("seed", range(12))
def test_mapped_arrays_are_sent_as_their_file_in_any_order(tmp_path: Path, seed: int) -> None:
    draw = np.random.default_rng(seed)
    shape = (*draw.integers(4, 9, 3).tolist(), 1024)
    stored = draw.standard_normal(shape).astype(draw.choice(["<f4", "<f2", ">f8", "<i2"]))
    content = np.asfortranarray(stored) if seed % 2 else stored
    axes = draw.permutation(4)
    if seed % 3 == 0:
        content = np.ascontiguousarray(content.transpose(axes)).transpose(np.argsort(axes))
    file = tmp_path / "eeg"
    file.write_bytes(pickle.dumps({"eeg": content}, protocol=int(draw.integers(3, 6))))
    array = safe_load.load(file, headers_only=True)["eeg"]
    part = array[:: -1 if seed % 4 == 1 else 1, 1:]
    message = sent(Call.here(len, {"whole": array, "part": part, "rows": FileRows(array), "small": np.arange(5)}))
    assert len(message) < 10_000 < stored.nbytes
    there = opened(message).shared
    np.testing.assert_array_equal(there["whole"], stored)
    np.testing.assert_array_equal(there["part"], part)
    np.testing.assert_array_equal(there["rows"][1], stored[1])
    np.testing.assert_array_equal(there["small"], np.arange(5))
    assert not there["whole"].flags.writeable
    opened.cache_clear()
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(StudyError, match=r"eeg: changed while it was read"):
        opened(message)
    file.unlink()
    with pytest.raises(StudyError, match=r"eeg: not seen on .* expected a file that all workers share"):
        opened(message)
