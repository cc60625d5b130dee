"""Recordings that ask for more than a file of their size can hold, lead in a circle or elsewhere: one sentence, and not much memory."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from data_prep.contract.errors import StudyError
from data_prep.contract.memory import peak_memory_bytes
from data_prep.studies import recording_child
from data_prep.studies.formats import Formats
from data_prep.studies.open_recording import open_recording
from tests.fuzz.continuous import FORMATS
from tests.helpers import recordings as made


def refused(file: Path, match: str, formats: Formats = FORMATS) -> None:
    before = peak_memory_bytes()
    with pytest.raises(StudyError, match=match) as said:
        open_recording(file, formats)
    assert str(file) in str(said.value)
    assert "\n" not in str(said.value)
    assert peak_memory_bytes() - before < 2**29


@pytest.mark.parametrize("samples", [2**31, 2**40, 2**62])
def test_an_xdf_file_that_says_it_has_more_samples_than_bytes(tmp_path: Path, samples: int) -> None:
    file = made.write_xdf(tmp_path / "sub-01.xdf", made.signal())
    whole = file.read_bytes()
    count = struct.pack("<BI", 4, made.signal().shape[1])
    assert whole.count(count) == 1
    file.write_bytes(whole.replace(count, struct.pack("<BQ", 8, samples)))
    refused(file, r"cannot be read as XDF|needs more memory|streams with samples")


@pytest.mark.parametrize("points", [2**28, 2**31 - 1])
def test_a_fif_file_that_skips_more_than_its_size(tmp_path: Path, points: int) -> None:
    file = made.write_fif(tmp_path / "sub-01_raw.fif", made.signal())
    whole = file.read_bytes()
    buffer = struct.pack(">iI", 300, 4)
    at = whole.index(buffer, whole.index(buffer) + 1)  # the second buffer of data
    skip = struct.pack(">iIiii", 301, 3, 4, 0, points)  # FIFF_DATA_SKIP
    changed = bytearray(whole[:at] + skip + whole[at:])
    pointer = changed.index(struct.pack(">iIi", 101, 3, 4)) + 16
    changed[pointer : pointer + 4] = struct.pack(">i", -1)  # no directory: the tags are walked
    file.write_bytes(changed)
    refused(file, r"expected fewer in a file of its size|cannot be read as FIF")


@pytest.mark.long
def test_a_fif_file_whose_tags_lead_in_a_circle_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "sub-01_raw.fif"
    file.write_bytes((Path(__file__).parents[1] / "fuzz" / "found" / "recording-fif-circle").read_bytes())
    monkeypatch.setattr(recording_child, "_BASE_SECONDS", 8)
    refused(file, "reading it as FIF took longer than 8 s")


@pytest.mark.parametrize("key", ["DataFile", "MarkerFile"])
@pytest.mark.parametrize("how", ["above", "absolute"])
def test_a_header_that_names_a_file_elsewhere(tmp_path: Path, key: str, how: str) -> None:
    (tmp_path / "in").mkdir()
    header = made.write_brainvision(tmp_path / "in" / "sub-01.vhdr", made.signal())
    ending = {"DataFile": ".eeg", "MarkerFile": ".vmrk"}[key]
    other = tmp_path / f"other{ending}"
    other.write_bytes(header.with_suffix(ending).read_bytes())
    named = f"../{other.name}" if how == "above" else str(other)
    text = header.read_text(encoding="utf-8").replace(f"{key}=sub-01{ending}", f"{key}={named}")
    assert named in text
    header.write_text(text, encoding="utf-8")
    refused(header, "which is not beside it|expected a file beside it")


def test_what_a_child_says_names_the_file_as_the_user_does(tmp_path: Path) -> None:
    file = tmp_path / "recording.dat"  # read through a link with another ending
    made.write_xdf(tmp_path / "whole.xdf", made.signal()).rename(file)
    opened = open_recording(file, Formats())
    assert (opened.file, opened.markers is not None, opened.unit) == (file, True, "microvolts")
    assert opened.notes["named"] == ".dat"
    np.testing.assert_allclose(opened.microvolts(made.CH_NAMES, opened.unit), made.signal(), atol=1e-4)
    file.write_bytes(file.read_bytes().replace(b"<type>EEG</type>", b"<type>EMG</type>"))
    refused(file, "streams with samples of type EEG")
